"""Kernel regression of a finished run's network."""
