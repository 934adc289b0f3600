"""Concurrency: the only package with a TaskGroup."""
