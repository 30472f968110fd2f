"""Data sets as shards: what is there, how it is written, where it lies, how it is read."""
