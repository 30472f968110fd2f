"""What all command lines have in common: flags from a dataclass, one line for what is wrong, and the exit codes.

Light to import, so that `--help` and mistakes in flags are answered at once.
"""

import atexit
import contextlib
import errno
import gc
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

Flags = TypeVar("Flags")

# Python looks through all that it still has before it ends: two seconds, with torch and Ray. Frozen, it is left alone.
atexit.register(gc.freeze)


class TrainingError(RuntimeError):
    """Workers failed, again and again."""


def parse_flags(of: type[Flags], program: str, arguments: Sequence[str], default: Flags | None = None) -> Flags:
    """Read a command line into a dataclass.

    Raises:
        ValueError: If something in it is wrong; one line that says what.
        SystemExit: After `--help`.
    """
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            found = tyro.cli(of, prog=program, args=list(arguments), default=default, use_underscores=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_in_one_line(screen.getvalue())) from None
    assert found is not None  # to tyro, a default of None is one that may come back
    return found


@contextlib.contextmanager
def exit_codes(*, stopped: str, again: str = "") -> Iterator[None]:
    """End the program with one line: code 2 for mistakes of the user, 1 for failures, 130 where it was stopped by hand.

    Args:
        stopped: What it has come to, and what to do, after Ctrl-C.
        again: What to do after workers failed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a class's name in another script is not to end a run
    try:
        yield
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"{error}. Make room there. {again}".rstrip() if is_disk_full(error) else error, code=1)
    except TrainingError as error:
        fail(f"{error} {again}".rstrip(), code=1)
    except KeyboardInterrupt:
        fail(f"stopped{stopped}", code=130)


def check_folder(flag: str, folder: Path) -> None:
    """Refuse a folder that cannot be made since it, or one above it, is a file: at once, not when all is done.

    Raises:
        ValueError: If so.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{flag}: {folder} must be a folder, but {there} is a file. Give another {flag}.")


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error comes of a disk, or its user's part of it, that has no room left."""
    full = (errno.ENOSPC, errno.EDQUOT)
    # What copies folders puts the errors of all files into the text of one.
    return isinstance(error, OSError) and (error.errno in full or any(os.strerror(one) in str(error) for one in full))


def fail(error: object, *, code: int = 2) -> NoReturn:
    """End the program with one message on standard error."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


def _in_one_line(box: str) -> str:
    """Return what tyro's framed message says: its first part, and the flags that it proposes."""
    lines = box.splitlines()[1:]  # the first is the title
    if lines and "Missing from" in lines[0]:  # then each flag, and deeper in what it means, which --help says as well
        named: dict[str, list[str]] = {"Missing": []}
        for line in lines:
            if "Unrecognized options:" in line:
                named["Unrecognized options"] = []
            elif re.match(r"│ {5}\S", line) and "--help" not in line:
                list(named.values())[-1].append(line.strip("│ "))
        return " ".join(f"{what}: {', '.join(flags)}." for what, flags in named.items()) + " All flags: --help."
    parts: list[list[str]] = [[]]
    for line in lines:
        text = line.strip("│╰╯|+ ")
        if text.strip("─-"):
            parts[-1].append(text)
        else:
            parts.append([])
    parts = [part for part in parts if part]
    sentence = re.sub(r"^Error parsing ((config|of_search|evaluate|[A-Z]\w*)\S*: )?", "", " ".join(parts[0])).rstrip(
        "."
    )
    proposed = [text.split()[0] for part in parts if part[:1] == ["Perhaps you meant:"] for text in part[1:]]
    flags = [flag for flag in proposed if flag.startswith("--")]
    hint = f" Did you mean {' or '.join(flags)}?" if flags else ""
    return f"{sentence}.{hint} All flags: --help."
