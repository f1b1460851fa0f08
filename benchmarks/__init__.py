"""Benchmarks: each stage against the plain way of doing it, in one process."""
