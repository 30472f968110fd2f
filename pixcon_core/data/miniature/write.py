"""Writes a whole miniature data set, or nothing."""

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixcon_core.data.spec import DatasetSpec

DRAWING = 2
"""Raised when the same seed no longer gives the same pictures."""

STAMP = "miniature.json"


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the randomness of one image: its own, whatever the number of images."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def write_miniature(
    spec: DatasetSpec,
    root: Path,
    *,
    seed: int = 0,
    num_train: int = 300,
    num_val: int = 80,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a data set into `root`, if it is not there.

    Everything is written beside `root` and renamed at the end, so that an interrupted run leaves nothing that
    looks whole.

    Args:
        spec: One of the mini-... data sets.
        root: Folder to make.
        seed: Of all scenes; image i of a split is the same whatever the counts.
        num_train: Images of the training split.
        num_val: Images of the validation split.
        progress: Called with how many images are done, and of how many.

    Returns:
        `root`.

    Raises:
        ValueError: If `spec` cannot be drawn, a split would be empty, or `root` is there and holds something else.
    """
    if spec.mini is None:
        raise ValueError(f"{spec.name} cannot be made on the spot; only the mini-... data sets can.")
    counts = {"train": num_train, "val": num_val}
    if num_train < 1 or num_val < 1:
        raise ValueError(f"{spec.name}: there must be an image in each split, but got {num_train=}, {num_val=}.")
    if has_miniature(spec, root, seed=seed, num_train=num_train, num_val=num_val):
        return root
    stamp = _stamp(spec, seed, num_train, num_val)
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's folders are the owner's alone
        done = 0
        for split, count in counts.items():
            for index in range(count):
                spec.mini(draft, split, index, seed)
                done += 1
                if progress is not None:
                    progress(done, num_train + num_val)
        (draft / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
        _move(draft, root, stamp)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def has_miniature(spec: DatasetSpec, root: Path, *, seed: int = 0, num_train: int = 300, num_val: int = 80) -> bool:
    """Return whether a miniature is there; False where it can be drawn, as there is no folder yet, or an empty one.

    Raises:
        ValueError: If something else is there.
    """
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is there already and is no folder. Name another one.")
    if not root.exists() or not any(root.iterdir()):
        return False
    _check_stamp(root, _stamp(spec, seed, num_train, num_val))
    return True


def _stamp(spec: DatasetSpec, seed: int, num_train: int, num_val: int) -> dict[str, str | int]:
    return {"dataset": spec.name, "drawing": DRAWING, "seed": seed, "train": num_train, "val": num_val}


def _move(draft: Path, root: Path, stamp: dict[str, str | int]) -> None:
    try:
        draft.rename(root)
    except OSError:
        if not root.exists():
            raise
        _check_stamp(root, stamp)  # another process was faster


def _check_stamp(root: Path, stamp: dict[str, str | int]) -> None:
    """Refuse a folder that is not the miniature asked for."""
    file = root / STAMP
    if not file.exists():  # then these are a user's files, which nobody should be told to delete
        name = str(stamp["dataset"])
        raise ValueError(
            f"{root} holds no miniature of {name}: it has files, but no {STAMP}. If they are data of another data set,"
            f" name it with --dataset (for example --dataset {name.removeprefix('mini-')}); if not, name another"
            " folder."
        )
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        found = None
    if found != stamp:
        raise ValueError(
            f"{root} is there already and is not the miniature asked for: its {STAMP} should say {stamp}, "
            f"but says {found}. Delete the folder or name another one."
        )
