"""Benchmarks: each module prints figures beside their targets; none is a timed assertion of the test suite."""
