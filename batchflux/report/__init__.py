"""A run as one page that opens from the disk: grid, gallery, sweep. Reads through `io`; knows no service and no run."""
