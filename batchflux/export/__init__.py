"""Manifest to dataset: one format a file."""
