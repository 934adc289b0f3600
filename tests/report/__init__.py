"""The page of a run: its figures, its files, and itself in a real browser."""
