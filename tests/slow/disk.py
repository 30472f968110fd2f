"""A disk without room."""

import contextlib
from pathlib import Path


def fill(disk: Path) -> Path:
    """Write a file until its file system is full, and return it."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    return filler
