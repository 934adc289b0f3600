"""One outside thing a file: each module here owns one kind of IO and decides nothing."""
