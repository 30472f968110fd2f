"""Which image files are to be predicted, and what their predictions are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.data.storage import is_url

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
"""Of the files in a folder, these are images; files named one by one, or by a pattern, are taken as they come."""

LABELS, OVERLAYS, PROBABILITIES = "labels", "overlays", "probabilities"
ENDING_OF = {LABELS: ".png", OVERLAYS: ".jpg", PROBABILITIES: ".npy"}
"""Of what is written, by sub-folder."""


class Input(NamedTuple):
    """An image file."""

    file: str
    name: str
    """Of its prediction, without ending: the path below what was given."""


def find_inputs(given: Sequence[str], out: Path) -> list[Input]:
    """List image files, sorted by path.

    Args:
        given: Folders, whose sub-folders, linked ones too, are searched; files; or patterns with `*`, `?`, `[...]`
            and `**`.
        out: Where predictions go; those of earlier are no input.

    Raises:
        ValueError: If there is nothing of the kind.
    """
    files: dict[str, None] = {}
    bases = []
    if not given:
        raise ValueError("--input needs a folder, a file or a pattern.")
    for one in given:
        folder, found = _list(one)
        bases.append(_absolute(folder))
        files |= dict.fromkeys(_absolute(file) for file in found)
    mine = [os.path.realpath(out / kind) for kind in ENDING_OF]
    listed = [file for file in sorted(files) if not any(_is_below(os.path.realpath(file), one) for one in mine)]
    if not listed:
        raise ValueError(f"--input: all {len(files)} files of {' '.join(given)} are predictions in --out ({out}).")
    base = os.path.commonpath([*bases, *(os.path.dirname(file) for file in listed)])  # noqa: PTH120
    return [Input(file, name) for file, name in zip(listed, _names(listed, base), strict=True)]


def check_inside(folder: Path, root: Path) -> None:
    """Refuse a folder that lies outside of another, by a link for one.

    Raises:
        ValueError: If it does.
    """
    if not _is_below(os.path.realpath(folder), os.path.realpath(root)):
        raise ValueError(f"--out: {folder} leads out of {root}, to {os.path.realpath(folder)}. Give another --out.")


def _list(given: str) -> tuple[Path, list[Path]]:
    """Return the folder that names are to be relative to, and the files."""
    if is_url(given):
        raise ValueError(f"--input: {given} is a URL; images are read from folders that all machines share.")
    path = Path(given)
    if path.is_dir():
        found = [file for file in _walk(path) if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".")]
        if not found:
            raise ValueError(f"--input: the folder {given} holds no images ({', '.join(ENDINGS)}).")
        return path, found
    if path.is_file():
        return path.parent, [path]
    if not glob.has_magic(given):
        raise ValueError(f"--input: {given} does not exist.")
    fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    base, pattern = Path(*path.parts[:fixed]), str(Path(*path.parts[fixed:]))
    try:
        found = [file for file in base.glob(pattern) if file.is_file() and not file.name.startswith(".")]
    except ValueError as error:
        raise ValueError(f"--input: {given}: {error}.") from error
    if not found:
        raise ValueError(f"--input: no file matches the pattern {given}.")
    return base, found


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, each folder once: by its own path if it has one here, else by that of a link."""
    starts, seen = [root], set[str]()
    for start in starts:  # grows by the links that are met
        for folder, subfolders, names in os.walk(start):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders.sort()  # else what a folder is called that several links lead to would be chance
            starts += [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
            yield from (Path(folder, name) for name in names)


def _names(files: Sequence[str], base: str) -> list[str]:
    """Return unique names, also where upper and lower case are the same: without ending where that is enough."""
    whole = [os.path.relpath(file, base) for file in files]
    short = [str(Path(name).with_suffix("")) for name in whole]
    times = Counter(name.lower() for name in short)
    names = [name if times[name.lower()] == 1 else full for name, full in zip(short, whole, strict=True)]
    if _shared(names):  # a.jpg and a.png, and a.jpg.png
        names = whole
    if same := _shared(names):
        raise ValueError(f"--input: several files are called {same} but for upper and lower case; rename all but one.")
    return names


def _shared(names: Sequence[str]) -> str:
    times = Counter(name.lower() for name in names)
    return next((name for name in names if times[name.lower()] > 1), "")


def _absolute(path: Path) -> str:
    """Return the whole path, links as they are."""
    return os.path.normpath(path.absolute())


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
