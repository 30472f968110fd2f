"""A prepared data set: Parquet shards, and `dataset.json`, which says what they hold.

The index is written last: where it is, all is there.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.meaning import meaning_hash
from pipeline.data.shard_file import FORMAT, ROWS_PER_GROUP, ShardInfo, Skipped
from pipeline.data.storage import Folder, locate
from pixcon_core.data import DatasetSpec

INDEX = "dataset.json"


class RowGroup(NamedTuple):
    """The smallest part of a shard that is read at once."""

    file: str
    group: int
    rows: int


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set."""

    groups: tuple[RowGroup, ...]
    class_pixels: tuple[int, ...]
    """Labelled pixels of each class."""
    num_pixels: int = 0
    """Of all images, labelled or not."""

    @property
    def num_images(self) -> int:
        """Images of the split, those left out not counted."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True)
class Shards:
    """A prepared data set: what its `dataset.json` says."""

    folder: str
    """Path or URL."""
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: dict[str, Split]
    skipped: tuple[Skipped, ...]
    fingerprint: str = ""
    """Of the raw files."""
    meaning: str | None = None
    """Hash of what the description of the data said that ids and colours mean; None of shards of earlier versions."""
    content: str = ""
    """SHA-256 of all ids, images and labels."""
    num_bytes: int = 0

    @classmethod
    def load(cls, place: str | Path) -> "Shards":
        """Read the index of a prepared data set.

        Raises:
            ValueError: If there is none, or one that this version does not know, or a shard is missing.
        """
        folder = locate(place)
        file = folder.shown(INDEX)
        sizes = folder.sizes()
        if INDEX not in sizes:
            raise ValueError(f"{folder.name} holds no prepared data: there is no {INDEX}.")
        try:
            index = json.loads(folder.read(INDEX))
            version = index["format"]
            if version != FORMAT:
                raise ValueError(f"it has format {version!r}, this version reads {FORMAT}")
            shards = _from_index(folder.name, index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{file} is not the index of a prepared data set that this version can read: {what}. To make one:"
                " python -m pipeline.prepare, with another --out."
            ) from error
        named = {group.file for split in shards.splits.values() for group in split.groups}
        if missing := sorted(named - sizes.keys()):
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"{folder.name} lacks {len(missing)} of the {len(named)} shards that its {INDEX} names: {some}. Copy"
                f" them there; or remove {INDEX} and call pipeline.prepare again, which writes what is missing."
            )
        return shards

    def check_skipped(self, max_bad_share: float) -> None:
        """Refuse a data set of which more than this share of a split, rounded up, was left out.

        Raises:
            ValueError: If so; the message lists all.
        """
        for name, split in self.splits.items():
            bad = [one for one in self.skipped if one.split == name]
            check_bad_share(self.dataset, name, bad, split.num_images + len(bad), max_bad_share)


def check_bad_share(dataset: str, split: str, bad: Sequence[Skipped], num_images: int, max_bad_share: float) -> None:
    """Refuse it if more than this share of a split, rounded up, cannot be used, or nothing can.

    Raises:
        ValueError: If so; the message lists all.
    """
    if len(bad) > math.ceil(max_bad_share * num_images) or len(bad) == num_images:
        lines = "\n".join(f"  {one.id}: {one.reason}" for one in bad)
        raise ValueError(
            f"{dataset}: {len(bad)} of {num_images} images of split {split} cannot be used, more than"
            f" ingest.max_bad_share={max_bad_share} allows. Repair or remove them, or raise the share:\n{lines}"
        )


def write_index(folder: Folder, spec: DatasetSpec, fingerprint: str, infos: Mapping[str, Sequence[ShardInfo]]) -> None:
    """Write the index of shards that are there.

    Args:
        folder: Where they are.
        spec: The data set.
        fingerprint: Of the raw files.
        infos: What the shards say of themselves, in their order, by split.
    """
    sizes = folder.sizes()
    content = hashlib.sha256()
    splits: dict[str, Any] = {}
    for name, mine in infos.items():
        pixels = [sum(column) for column in zip(*(info.class_pixels for info in mine), strict=True)]
        labelled = max(1, sum(pixels))
        splits[name] = {
            "images": sum(info.rows for info in mine),
            "skipped": sum(len(info.skipped) for info in mine),
            "pixels": sum(info.pixels for info in mine),
            "class_pixels": pixels,
            "class_shares": [round(count / labelled, 6) for count in pixels],
            "shards": [{"file": info.file, "rows": info.rows, "sha256": info.sha256} for info in mine],
        }
        for info in mine:
            content.update(f"{name} {info.rows} {info.sha256}\n".encode())
    files = [info.file for mine in infos.values() for info in mine]
    index = {
        "format": FORMAT,
        "dataset": spec.name,
        "fingerprint": fingerprint,
        "meaning": meaning_hash(spec),
        "content": content.hexdigest(),
        "bytes": sum(sizes[file] for file in files),
        "classes": spec.classes,
        "palette": spec.palette,
        "rows_per_group": ROWS_PER_GROUP,
        "splits": splits,
        "skipped": [one._asdict() for mine in infos.values() for info in mine for one in info.skipped],
    }
    folder.write(INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _from_index(folder: str, index: dict[str, Any]) -> Shards:
    size = int(index["rows_per_group"])
    splits = {}
    for name, split in index["splits"].items():
        groups = tuple(
            RowGroup(str(shard["file"]), group, min(size, int(shard["rows"]) - start))
            for shard in split["shards"]
            for group, start in enumerate(range(0, int(shard["rows"]), size))
        )
        if len(split["class_pixels"]) != len(index["classes"]):
            raise ValueError(f"{len(split['class_pixels'])} counts for {len(index['classes'])} classes in {name}")
        splits[name] = Split(groups, tuple(int(count) for count in split["class_pixels"]), int(split["pixels"]))
    return Shards(
        folder=folder,
        dataset=str(index["dataset"]),
        classes=tuple(str(name) for name in index["classes"]),
        palette=tuple((int(r), int(g), int(b)) for r, g, b in index["palette"]),
        splits=splits,
        skipped=tuple(Skipped(**one) for one in index["skipped"]),
        fingerprint=str(index["fingerprint"]),
        meaning=index.get("meaning"),
        content=str(index["content"]),
        num_bytes=int(index["bytes"]),
    )
