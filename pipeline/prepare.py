"""Station 1: a raw dataset folder -> Parquet shards, every image and label checked on the way. Also a command.

python -m pipeline.prepare --dataset camvid --data_root CamVid --out prepared/camvid
python -m pipeline.prepare --dataset camvid --data_root CamVid --out s3://bucket/camvid
python -m pipeline.run --dataset camvid --data_root prepared/camvid      # then needs no raw files

Rows are in a random order, fixed by the data, so that a few neighbouring rows are as good as a random draw. Shards
appear whole or not at all, and the index is written last. Stopped half-way, the next call keeps the shards that are
whole.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import ray.data
import tyro

from pipeline.command import exit_codes, parse_flags
from pipeline.data.checks import check_classes, missing_classes
from pipeline.data.shard_file import Chunk, ShardInfo, Skipped, read_info, write_shard
from pipeline.data.shards import INDEX, RowGroup, Shards, Split, write_index
from pipeline.data.sources import NEEDED_SPLITS, dataset_spec, find_all_pairs, find_root, fingerprint
from pipeline.data.storage import Folder, is_url, locate
from pipeline.progress import Bar
from pipeline.session import ray_session
from pixcon_core.config import IngestConfig
from pixcon_core.data import DatasetSpec, Pair

__all__ = ["RowGroup", "Shards", "Skipped", "Split", "dataset_spec", "find_all_pairs", "fingerprint", "main", "prepare"]

ROWS_PER_SHARD = 64
NUM_READERS = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Check a data set and write it as Parquet shards, which pipeline.run takes as --data_root."""

    dataset: str
    """Data set by name, or a .toml or .yaml file that describes your own."""

    data_root: str | None = None
    """Folder of the data set as its authors lay it out; not needed for the mini-... ones."""

    out: str
    """Where shards and dataset.json go: a folder, or a URL such as s3://bucket/folder."""

    splits: tuple[str, ...] = NEEDED_SPLITS
    """Which splits; training and evaluation need train and val."""

    # Also by the name that pipeline.run has for it, which messages and documentation use.
    max_bad_share: Annotated[float, tyro.conf.arg(aliases=["--ingest.max_bad_share"])] = IngestConfig.max_bad_share
    """Images that cannot be used are left out and named; more than this share of a split, rounded up, is an error."""

    def __post_init__(self) -> None:
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"--splits must be different names, at least one, but got {' '.join(self.splits)!r}.")
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"--max_bad_share must be in [0, 1), but got {self.max_bad_share}.")


def prepare(
    spec: DatasetSpec,
    pairs: dict[str, list[Pair]],
    out: str | Path,
    *,
    max_bad_share: float,
    for_training: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> Shards:
    """Write the shards of a data set into a folder, unless they are there.

    Args:
        spec: The data set.
        pairs: Its files by split, from `find_all_pairs`.
        out: The folder, or its URL.
        max_bad_share: Share of a split, rounded up, that may be unusable; such images are left out and named.
        for_training: Refuse a split train that shows fewer than two classes, or a split val that is void; what was
            written is removed then.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If more images than that are unusable, the message lists them all; if split train shows too few
            classes, or split val none; or if the folder holds shards of other data.
        OSError: If it cannot be written.
    """
    found = find_finished(spec, pairs, out)
    if found is None:
        _write(spec, pairs, locate(out), on_progress)
    shards = found or Shards.load(out)
    shards.check_skipped(max_bad_share)
    if for_training and "train" in shards.splits:
        try:
            check_classes(shards)
        except ValueError:
            if found is None:
                _remove(pairs, locate(out))
            raise
    return shards


def find_finished(spec: DatasetSpec, pairs: dict[str, list[Pair]], out: str | Path) -> Shards | None:
    """Return the shards of a data set if they are all there.

    Raises:
        ValueError: If there are others, of this data set in another state or of another one.
    """
    folder = locate(out)
    if INDEX not in folder.sizes():
        return None
    shards, mark = Shards.load(out), fingerprint(spec, pairs)
    if shards.fingerprint != mark:
        raise ValueError(
            f"{folder.name} holds shards of {shards.dataset} ({', '.join(shards.splits)}; source"
            f" {shards.fingerprint}), not of {spec.name} as its files are now ({', '.join(pairs)}; source {mark})."
            " Give another --out, or remove it."
        )
    return shards


def _write(
    spec: DatasetSpec, pairs: dict[str, list[Pair]], folder: Folder, on_progress: Callable[[int, int], None] | None
) -> None:
    chunks = [chunk for split, listed in pairs.items() for chunk in _chunks(split, listed)]
    mark = fingerprint(spec, pairs)
    folder.check_writable()
    # Of a call that was killed. Those that are new at the end may be of one that is at work beside this one.
    stale = [file for file in folder.sizes() if file.startswith(".") and file.endswith(".tmp")]
    infos = _kept_shards(folder, mark, {chunk.file for chunk in chunks})
    total, done = sum(len(listed) for listed in pairs.values()), 0
    missing = [chunk for chunk in chunks if chunk.file not in infos]
    done = total - sum(len(chunk.pairs) for chunk in missing)
    if on_progress:
        on_progress(done, total)
    if missing:
        work = ray.data.range(len(missing), override_num_blocks=len(missing)).map(
            functools.partial(write_shard, spec=spec, chunks=missing, place=folder.name, mark=mark)
        )
        for row in work.iter_rows():
            if row["failure"]:
                raise OSError(row["failure"])
            info = ShardInfo.from_json(row["info"])
            assert info is not None  # written by this very version
            infos[info.file] = info
            done += info.rows + len(info.skipped)
            if on_progress:
                on_progress(done, total)
    by_split = {split: [infos[chunk.file] for chunk in chunks if chunk.split == split] for split in pairs}
    write_index(folder, spec, mark, by_split)
    for file in stale:
        folder.delete(file)


def _remove(pairs: dict[str, list[Pair]], folder: Folder) -> None:
    """Delete what `_write` wrote, the index first; and the folder, where that leaves it empty."""
    for file in (INDEX, *(chunk.file for split, listed in pairs.items() for chunk in _chunks(split, listed))):
        folder.delete(file)
    if not is_url(folder.name):
        with contextlib.suppress(OSError):
            Path(folder.path).rmdir()


def _chunks(split: str, pairs: list[Pair]) -> list[Chunk]:
    order = np.random.default_rng(0).permutation(len(pairs))
    starts = range(0, len(pairs), ROWS_PER_SHARD)
    return [
        Chunk(split, f"{split}-{i:05d}.parquet", [pairs[j] for j in order[start : start + ROWS_PER_SHARD]])
        for i, start in enumerate(starts)
    ]


def _kept_shards(folder: Folder, mark: str, wanted: set[str]) -> dict[str, ShardInfo]:
    """Return the shards that an earlier call wrote; those that it wrote of other files, and never ended, are deleted.

    Raises:
        ValueError: If a file of a name that is to be written is not from here.
    """
    names = sorted(name for name in folder.sizes() if name.endswith(".parquet"))
    with ThreadPoolExecutor(NUM_READERS) as pool:
        found = dict(zip(names, pool.map(functools.partial(read_info, folder), names), strict=True))
    # Shards appear whole: one that cannot be read was damaged later, if there are others, or is a user's file.
    is_ours = any(info != "foreign" and info is not None for info in found.values())
    kept = {}
    for name, info in found.items():
        if name in wanted and (info == "foreign" or (info is None and not is_ours)):
            what = "was not written by pipeline.prepare" if info else "cannot be read as a shard of pipeline.prepare"
            raise ValueError(
                f"{folder.shown(name)} is there, but {what}, and would be written over."
                " Give another --out, or remove it."
            )
        if isinstance(info, ShardInfo) and info.fingerprint == mark and name in wanted:
            kept[name] = info
        elif info != "foreign" and info is not None:
            folder.delete(name)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare; end with code 2 for mistakes of the user, 1 for failures. The last line is the path of the index."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped=". The same command goes on where it was."):
        options = parse_flags(Options, "python -m pipeline.prepare", given)
        spec = dataset_spec(options.dataset)
        locate(options.out)  # what is wrong with it shows before a miniature is drawn
        root = find_root(spec, options.dataset, options.data_root, Path("runs"))
        pairs = find_all_pairs(spec, root, options.splits)
        if find_finished(spec, pairs, options.out) is None:
            with ray_session():
                shards = prepare_with_bar(spec, pairs, options.out, options.max_bad_share)
        else:
            print(f"{options.out} is finished already.")
            shards = prepare(spec, pairs, options.out, max_bad_share=options.max_bad_share)
    show(shards)


def prepare_with_bar(
    spec: DatasetSpec, pairs: dict[str, list[Pair]], out: str, max_bad_share: float, *, for_training: bool = True
) -> Shards:
    """Do what `prepare` does, and show how far it is."""
    bar = Bar("Writing shards", "image")
    try:
        return prepare(spec, pairs, out, max_bad_share=max_bad_share, for_training=for_training, on_progress=bar.update)
    finally:
        bar.close()


def show(shards: Shards) -> None:
    """Print what a prepared data set holds, as a table."""
    names = list(shards.splits)
    width = max(14, *map(len, shards.classes))
    print(f"\n{'':<{width}}" + "".join(f"  {name:>9}" for name in names))
    rows: dict[str, list[str]] = {
        "images": [str(split.num_images) for split in shards.splits.values()],
        "skipped": [str(sum(one.split == name for one in shards.skipped)) for name in names],
    }
    for i, name in enumerate(shards.classes):
        rows[name] = [
            f"{100 * split.class_pixels[i] / max(1, sum(split.class_pixels)):.2f} %" for split in shards.splits.values()
        ]
    for name, cells in rows.items():
        print(f"{name:<{width}}" + "".join(f"  {cell:>9}" for cell in cells))
    print("Shares are of labelled pixels.")
    if "train" in shards.splits and (note := missing_classes(shards)):
        print(note)
    for one in shards.skipped:
        print(f"Skipped {one.split}/{one.id}: {one.reason}")
    files = {group.file for split in shards.splits.values() for group in split.groups}
    print(f"Size: {shards.num_bytes / 1e6:,.1f} MB in {len(files)} shards; content {shards.content[:12]}")
    print(locate(shards.folder).shown(INDEX))


if __name__ == "__main__":
    main()
