"""python -m batchflux."""
