"""Kernel regression of the network of a finished run."""
