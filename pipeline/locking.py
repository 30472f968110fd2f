"""One command at a time in a run folder: a lock that ends with its process, however that ends."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder, which exists. Where files cannot be locked, none is kept out.

    Raises:
        ValueError: If another one holds it; the message says which.
    """
    with contextlib.ExitStack() as stack:
        try:
            # What is started from here does not inherit it, so that a killed command leaves nothing locked.
            stream = stack.enter_context((folder / LOCK).open("a+"))
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(_refusal(folder, stream)) from None
        except OSError:  # read-only, or a file system without locks
            pass
        else:
            stream.truncate(0)
            stream.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            stream.flush()
        yield


def _refusal(folder: Path, stream: IO[str]) -> str:
    stream.seek(0)
    try:
        holder = json.loads(stream.read())
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return f"{folder} is in use by another command. Wait until that has ended, or stop it."
    if host == platform.node():
        return f"{folder} is in use by another command, process {pid}. Wait until that has ended, or stop it."
    # Some shared file systems keep the locks of machines that are gone.
    return (
        f"{folder} is in use by another command, process {pid} on {host}. Wait until that has ended, or stop it; if"
        f" {host} is gone, remove {folder / LOCK}."
    )
