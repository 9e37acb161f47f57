"""Interventions on the network of a finished run: what it can no longer do without some modes."""
