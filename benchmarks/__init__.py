"""Benchmarks: each stage compared with the plain way of doing it, in one process."""
