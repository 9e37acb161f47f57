"""Benchmarks against named peers, in one run each: ``make bench``."""
