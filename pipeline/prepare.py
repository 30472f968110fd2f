"""Station 1: a raw dataset folder -> Parquet shards, every image and label checked on the way.

A shard row is one image: the file's bytes as they are, and its label as a PNG of train ids. Rows are in a random
order, fixed by the data, so that a few neighbouring rows are as good as a random draw. Shards are written under
temporary names and renamed; the folder gets its own name only when all of it is there. Stopped half-way, the next
call keeps the shards that are whole.
"""

import difflib
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pixcon_core.data import DATASETS, BadPairError, DatasetSpec, Pair, encode_label, load_folder_spec, load_pair

FORMAT = 1
ROWS_PER_SHARD = 64
ROWS_PER_GROUP = 8
INDEX = "dataset.json"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("label", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("classes", pa.list_(pa.uint8())),  # train ids that occur, for sampling by class
        ("split", pa.string()),
    ]
)


class Skipped(NamedTuple):
    """An image left out, and why."""

    split: str
    id: str
    reason: str


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

    @property
    def num_images(self) -> int:
        """Images of the split, those left out not counted."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True)
class Shards:
    """A prepared data set: what its `dataset.json` says."""

    folder: str
    dataset: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    splits: dict[str, Split]
    skipped: tuple[Skipped, ...]

    @classmethod
    def load(cls, folder: Path) -> "Shards":
        """Read the index of a prepared data set."""
        index = json.loads((folder / INDEX).read_text())
        splits = {
            name: Split(tuple(RowGroup(*group) for group in split["groups"]), tuple(split["class_pixels"]))
            for name, split in index["splits"].items()
        }
        return cls(
            folder=str(folder.resolve()),
            dataset=index["dataset"],
            classes=tuple(index["classes"]),
            palette=tuple(tuple(colour) for colour in index["palette"]),
            splits=splits,
            skipped=tuple(Skipped(**one) for one in index["skipped"]),
        )


class Chunk(NamedTuple):
    """The pairs that become one shard."""

    split: str
    number: int
    pairs: list[Pair]


def dataset_spec(dataset: str) -> DatasetSpec:
    """Return a data set by its name, or a user's own by the path of its description.

    Raises:
        ValueError: If there is none of that name, or the description is wrong.
    """
    if dataset in DATASETS:
        return DATASETS[dataset]
    if Path(dataset).suffix in (".toml", ".yaml", ".yml"):
        return load_folder_spec(Path(dataset))
    near = difflib.get_close_matches(dataset, DATASETS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"There is no data set {dataset!r}.{hint} There are: {', '.join(DATASETS)}; and your own, by the path of a"
        " .toml or .yaml file (README, 'Datasets')."
    )


def find_all_pairs(spec: DatasetSpec, root: Path) -> dict[str, list[Pair]]:
    """List the images and labels of the splits that training and evaluation need.

    Raises:
        ValueError: If a folder is missing or empty, or if no image of a split has a label.
    """
    found = {split: spec.find_pairs(root, split) for split in ("train", "val")}
    for split, pairs in found.items():
        if not any(pair.label for pair in pairs):
            raise ValueError(
                f"{spec.name}: none of the {len(pairs)} images of split {split} under {root} has a label file, for"
                f" example {pairs[0].image}. See README, 'Datasets', for the layout."
            )
    return found


def fingerprint(spec: DatasetSpec, pairs: dict[str, list[Pair]]) -> str:
    """Return a short hash of names, sizes and times of all files; it changes when the data change."""
    digest = hashlib.sha256(f"{FORMAT} {spec.name} {spec.classes}".encode())
    for split, listed in pairs.items():
        for pair in listed:
            for file in (pair.image, pair.label):
                state = file.stat() if file and file.exists() else None  # one of a list may be missing
                stamp = (state.st_size, state.st_mtime_ns) if state else None
                digest.update(f"{split} {pair.id} {file} {stamp}\n".encode())
    return digest.hexdigest()[:12]


def prepare(
    spec: DatasetSpec,
    pairs: dict[str, list[Pair]],
    out: Path,
    *,
    max_bad_share: float,
    on_progress: Callable[[int, int], None] | None = None,
) -> Shards:
    """Write the shards of a data set into a folder below `out`, unless they are there.

    Args:
        spec: The data set.
        pairs: Its files by split, from `find_all_pairs`.
        out: Where folders of shards go.
        max_bad_share: Share of a split, rounded up, that may be unusable; such images are left out and named.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If more images than that are unusable; the message lists them all.
    """
    folder = out / f"{spec.name}-{fingerprint(spec, pairs)}"
    if not (folder / INDEX).exists():
        _write(spec, pairs, folder, on_progress)
    shards = Shards.load(folder)
    for split, listed in pairs.items():
        bad = [skipped for skipped in shards.skipped if skipped.split == split]
        if len(bad) > math.ceil(max_bad_share * len(listed)) or len(bad) == len(listed):
            lines = "\n".join(f"  {one.id}: {one.reason}" for one in bad)
            raise ValueError(
                f"{spec.name}: {len(bad)} of {len(listed)} images of split {split} cannot be used, more than"
                f" ingest.max_bad_share={max_bad_share} allows. Repair or remove them, or raise the share:\n{lines}"
            )
    return shards


def _write(
    spec: DatasetSpec, pairs: dict[str, list[Pair]], folder: Path, on_progress: Callable[[int, int], None] | None
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    chunks = [chunk for split, listed in pairs.items() for chunk in _chunks(split, listed)]
    total, done = sum(len(listed) for listed in pairs.values()), 0
    results: list[dict[str, Any]] = []
    work = ray.data.range(len(chunks), override_num_blocks=len(chunks)).map(
        functools.partial(_write_shard, spec=spec, chunks=chunks, folder=str(partial))
    )
    for row in work.iter_rows():
        result = json.loads(row["result"])
        results.append(result)
        done += result["rows"] + len(result["skipped"])
        if on_progress:
            on_progress(done, total)
    _write_index(spec, results, partial)
    if folder.exists():  # without an index: not ours to trust
        shutil.rmtree(folder)
    partial.rename(folder)


def _chunks(split: str, pairs: list[Pair]) -> list[Chunk]:
    order = np.random.default_rng(0).permutation(len(pairs))
    starts = range(0, len(pairs), ROWS_PER_SHARD)
    return [
        Chunk(split, i, [pairs[j] for j in order[start : start + ROWS_PER_SHARD]]) for i, start in enumerate(starts)
    ]


def _write_shard(row: dict[str, Any], spec: DatasetSpec, chunks: list[Chunk], folder: str) -> dict[str, Any]:
    """Check and write one shard; what a later, resumed call needs to know of it is in its own metadata."""
    chunk = chunks[int(row["id"])]
    file = Path(folder) / f"{chunk.split}-{chunk.number:05d}.parquet"
    if file.exists():
        return {"result": pq.read_schema(file).metadata[b"pixcon"].decode()}
    rows, skipped = [], []
    class_pixels = np.zeros(len(spec.classes), dtype=np.int64)
    for pair in chunk.pairs:
        try:
            sample = load_pair(spec, pair)
        except BadPairError as error:
            skipped.append(Skipped(chunk.split, pair.id, str(error))._asdict())
            continue
        counts = np.bincount(sample.label.ravel(), minlength=256)[: len(spec.classes)]
        class_pixels += counts
        rows.append(
            {
                "id": sample.id,
                "image": sample.image,
                "label": encode_label(sample.label),
                "height": sample.height,
                "width": sample.width,
                "classes": np.flatnonzero(counts).tolist(),
                "split": chunk.split,
            }
        )
    result = json.dumps(
        {
            "split": chunk.split,
            "file": file.name,
            "rows": len(rows),
            "class_pixels": class_pixels.tolist(),
            "skipped": skipped,
        }
    )
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"pixcon": result}))
    temporary = file.with_suffix(".tmp")
    pq.write_table(table, temporary, row_group_size=ROWS_PER_GROUP, compression="none")
    temporary.rename(file)
    return {"result": result}


def _write_index(spec: DatasetSpec, results: list[dict[str, Any]], folder: Path) -> None:
    results = sorted(results, key=lambda result: str(result["file"]))
    splits: dict[str, Any] = {}
    for name in ("train", "val"):
        mine = [result for result in results if result["split"] == name]
        splits[name] = {
            "groups": [
                RowGroup(result["file"], group, min(ROWS_PER_GROUP, result["rows"] - start))
                for result in mine
                for group, start in enumerate(range(0, result["rows"], ROWS_PER_GROUP))
            ],
            "class_pixels": np.sum([result["class_pixels"] for result in mine], axis=0).tolist(),
        }
    index = {
        "format": FORMAT,
        "dataset": spec.name,
        "classes": spec.classes,
        "palette": spec.palette,
        "splits": splits,
        "skipped": [one for result in results for one in result["skipped"]],
    }
    temporary = folder / (INDEX + ".tmp")
    temporary.write_text(json.dumps(index, indent=1))
    temporary.rename(folder / INDEX)
