"""Station 2: Parquet shards -> Ray Data -> augmented batches.

The order of all images of a run is a pure function of the seed: epoch after epoch, row groups are shuffled, and within
windows of `ingest.window` images single images too. Training step s of batch size B takes positions s*B to (s+1)*B of
that order, whatever the number of workers. So a run resumes at any step by naming it: nothing is repeated, nothing is
lost. There is no pause between epochs, since to Ray Data there are none.

Images travel as uint8 and are normalised by the training step. This module imports no torch: data workers start fast.
"""

import itertools
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import ray.data
from jaxtyping import UInt8

from pipeline.prepare import RowGroup, Shards
from pixcon_core.config import IngestConfig
from pixcon_core.data import decode_image, decode_label
from pixcon_core.data.transforms import augment

WINDOWS_AT_ONCE = 4
"""Windows that one Ray Data execution makes."""
PARTS_AHEAD = 2
"""Executions beside each other: while one begins or ends, the other keeps the cores busy. One part more is held."""


class Row(NamedTuple):
    """Where an image lies."""

    group: RowGroup
    place: int
    """Row within the group."""


class Batch(NamedTuple):
    """One worker's part of a training batch."""

    images: UInt8[np.ndarray, "batch height width 3"]
    labels: UInt8[np.ndarray, "batch height width"]


class Plan(NamedTuple):
    """Which images one worker sees, in what order."""

    folder: str
    groups: tuple[RowGroup, ...]
    window: int
    """Images shuffled together."""
    seed: int
    batch_size: int
    """Images in one step, over all workers together."""
    rank: int
    world_size: int

    @property
    def num_images(self) -> int:
        """Images in one epoch."""
        return sum(group.rows for group in self.groups)

    @property
    def windows_per_epoch(self) -> int:
        """Windows in one epoch; the last may be short."""
        return -(-self.num_images // self.window)

    def first_window(self, step: int) -> int:
        """Return the window, counted from the start of the run, that holds the first image of a step."""
        epoch, offset = divmod(step * self.batch_size, self.num_images)
        return epoch * self.windows_per_epoch + offset // self.window

    def rows(self, window: int, first_step: int, last_step: int) -> list[tuple[int, Row]]:
        """Return this worker's images of a window, each with its position in the run.

        Args:
            window: Counted from the start of the run.
            first_step: Images of steps before this one are left out.
            last_step: Images of this step and later ones are left out.
        """
        epoch, number = divmod(window, self.windows_per_epoch)
        offset = number * self.window
        members = self._members(epoch, offset)
        order = np.random.default_rng([self.seed, epoch, 1, number]).permutation(len(members))
        share = self.batch_size // self.world_size
        picked = []
        for i, j in enumerate(order):
            position = epoch * self.num_images + offset + i
            step, place = divmod(position, self.batch_size)
            if first_step <= step < last_step and place // share == self.rank:
                picked.append((position, members[j]))
        return picked

    def _members(self, epoch: int, offset: int) -> list[Row]:
        """Return the images at places `offset` to `offset + window` of an epoch's shuffled row groups."""
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.groups))
        sizes = np.array([group.rows for group in self.groups])[order]
        ends = np.cumsum(sizes)
        places = np.arange(offset, min(offset + self.window, self.num_images))
        found = np.searchsorted(ends, places, side="right")
        rows = places - (ends - sizes)[found]
        return [Row(self.groups[order[g]], int(row)) for g, row in zip(found, rows, strict=True)]


def stream(plan: Plan, config: IngestConfig, *, first_step: int, last_step: int) -> Iterator[Batch]:
    """Yield this worker's part of the batch of each step, from `first_step` up to before `last_step`.

    The images of some windows are made at a time, while those before them are used. Ray Data could do all in one
    execution, but one that has to wait for its consumer polls without a pause: it takes a core, and Python's lock, from
    the training that it waits for.
    """
    length = max(1, WINDOWS_AT_ONCE * plan.window // plan.batch_size)
    parts = iter(range(first_step, last_step, length))
    with ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="ingest") as background:

        def load(start: int) -> Future[ray.data.Dataset]:
            return background.submit(_load, plan, config, start, min(start + length, last_step))

        ahead = deque(map(load, itertools.islice(parts, PARTS_AHEAD)))
        while ahead:
            loaded = ahead.popleft().result()
            ahead.extend(map(load, itertools.islice(parts, 1)))
            batches = loaded.iter_batches(
                batch_size=plan.batch_size // plan.world_size,
                batch_format="numpy",
                prefetch_batches=config.prefetch,
                drop_last=True,
            )
            for batch in batches:
                yield Batch(batch["image"], batch["label"])


def _load(plan: Plan, config: IngestConfig, first_step: int, last_step: int) -> ray.data.Dataset:
    """Make this worker's images of some steps; they stay in Ray's object store."""
    start, stop = plan.first_window(first_step), plan.first_window(last_step) + 1
    windows = ray.data.range(stop - start, override_num_blocks=stop - start)
    make = partial(_load_window, plan=plan, config=config, start=start, first_step=first_step, last_step=last_step)
    loaded: ray.data.Dataset = windows.map_batches(make, batch_size=None, zero_copy_batch=True).materialize()
    return loaded


def _load_window(
    numbers: dict[str, Any], plan: Plan, config: IngestConfig, start: int, first_step: int, last_step: int
) -> dict[str, Any]:
    images, labels = [], []
    for number in numbers["id"]:
        picked = plan.rows(start + int(number), first_step, last_step)
        stored = read_rows(plan.folder, [row for _, row in picked])
        for (position, _), (_, image, label) in zip(picked, stored, strict=True):
            # Each image has a generator of its own: the same crop whichever worker makes it, in whatever order.
            rng = np.random.default_rng([plan.seed, 2, position])
            image, label = augment(image, label, config, rng)
            images.append(image)
            labels.append(label)
    height, width = config.crop
    return {
        "image": np.stack(images) if images else np.empty((0, height, width, 3), np.uint8),
        "label": np.stack(labels) if labels else np.empty((0, height, width), np.uint8),
    }


def read_rows(folder: str, rows: list[Row]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield id, image (H, W, 3) and train ids (H, W) of the rows, in their order; each row group is read once."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        wanted[row.group.file].add(row.group.group)
    stored = {}
    for name, groups in wanted.items():
        with pq.ParquetFile(Path(folder) / name) as file:
            for group in groups:
                stored[name, group] = file.read_row_group(group, columns=["id", "image", "label"])
    for row in rows:
        table = stored[row.group.file, row.group.group]
        id_, image, label = (table[name][row.place].as_py() for name in ("id", "image", "label"))
        ids = decode_label(label)
        yield id_, decode_image(image, size=ids.shape), ids


def split_rows(shards: Shards, split: str) -> list[Row]:
    """Return all rows of a split, in the order of the shards."""
    return [Row(group, i) for group in shards.splits[split].groups for i in range(group.rows)]


def read_blocks(numbers: dict[str, Any], *, folder: str, rows: list[Row], size: int) -> dict[str, Any]:
    """Read the rows of some blocks of `size` rows, whole and as they are, for `map_batches`.

    Returns:
        Columns `number` (place in `rows`), `id`, `image` and `label`.
    """
    out: dict[str, list[Any]] = {"number": [], "id": [], "image": [], "label": []}
    for block in numbers["id"]:
        first = int(block) * size
        for place, sample in enumerate(read_rows(folder, rows[first : first + size]), start=first):
            for column, value in zip(out.values(), (place, *sample), strict=True):
                column.append(value)
    return out
