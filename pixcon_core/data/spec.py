"""What a data set is to the rest of the package: names, colours, and where its pairs lie."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from pixcon_core.data.decode import read_label_png


class Pair(NamedTuple):
    """An image and its label file, unread."""

    id: str
    """Unique within its split; without ending, and without folders but those that tell images apart."""
    image: Path
    label: Path | None
    """None where the image has no label file."""


class Sample(NamedTuple):
    """A checked pair: what a shard holds."""

    id: str
    image: bytes
    """The image file's bytes as they are."""
    label: UInt8[np.ndarray, "height width"]
    """Train ids, 255 where ignored."""
    height: int
    width: int


@runtime_checkable
class Miniature(Protocol):
    """Draws image i of one split and writes it as the data set's own files."""

    def __call__(self, root: Path, split: str, index: int, seed: int) -> None:
        """Write pair number `index` of `split` under `root`; the same numbers give the same files."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: its classes and how its folders and files are read."""

    name: str

    classes: tuple[str, ...]
    """Names by train id."""

    palette: tuple[tuple[int, int, int], ...]
    """Colours by train id, for pictures only."""

    splits: tuple[str, ...]
    """train, val, and others where there are."""

    find_pairs: Callable[[Path, str], list[Pair]]
    """Root and split -> pairs, sorted by id. ValueError where the folder is missing or holds none."""

    to_train_ids: Callable[[np.ndarray], np.ndarray]
    """Raw label pixels -> uint8 train ids. ValueError naming ids that the data set does not have."""

    layout: str
    """Where images and labels are looked for, for messages; `{split}` stands for the split's name."""

    read_label: Callable[[Path], np.ndarray] = read_label_png
    """Label file -> raw label pixels."""

    mini: Miniature | None = None
    """Writes the data; only data sets that are made on the spot have it."""

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{self.name}: there must be one colour for each class, "
                f"but there are {len(self.palette)} colours for {len(self.classes)} classes."
            )
        if not {"train", "val"} <= set(self.splits):
            raise ValueError(f"{self.name}: there must be splits train and val, but got {self.splits}.")


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder, without hidden ones such as macOS's `._NAME.jpg`, which are no images."""
    return [path for path in folder.glob(pattern) if not path.name.startswith(".")]


def if_there(path: Path) -> Path | None:
    """Return the path of a label file, or None where there is no such file."""
    return path if path.is_file() else None


def no_pairs(name: str, split: str, folder: Path, layout: str) -> ValueError:
    """Return the error for a split of which nothing was found.

    Args:
        name: The data set.
        split: The split asked for.
        folder: Where its images were looked for, or the file that should list them.
        layout: What was expected there, as in `DatasetSpec.layout`.
    """
    found = "does not exist"
    if folder.exists():
        found = "exists, but holds no images" if folder.is_dir() else "exists, but names no images"
    expected = layout.replace("{split}", split)
    twin = next((n for n in ("cityscapes", "pascal-context", "coco-stuff") if name.startswith(n)), "camvid")
    return ValueError(
        f"{name}: found no pairs of split {split!r}: {folder} {found}. Expected {expected}. "
        f'How to get the data is in the README under "Datasets"; --dataset mini-{twin} needs none.'
    )
