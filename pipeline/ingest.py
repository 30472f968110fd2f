"""Station 2: Parquet shards -> Ray Data -> augmented batches.

The order of all images of a run is a pure function of the seed: epoch after epoch, row groups are shuffled, and within
windows of `ingest.window` images single images too. Training step s of batch size B takes positions s*B to (s+1)*B of
that order, whatever the number of workers. So a run resumes at any step by naming it: nothing is repeated, nothing is
lost. There is no pause between epochs, since to Ray Data there are none.

An image that can no longer be read is replaced by the next one of its window, and reported: batches stay of one size,
and the same shards still give the same batches.

Images travel as uint8 and are normalised by the training step. This module imports no torch: data workers start fast.
"""

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ray.data
from jaxtyping import UInt8

from pipeline.data.cache import Cache, fetch
from pipeline.data.rows import Row, Stored, Unreadable, read_rows
from pipeline.data.shards import RowGroup
from pixcon_core.config import IngestConfig
from pixcon_core.data import IGNORE_INDEX
from pixcon_core.data.transforms import augment

CPUS_EACH = 0.9
"""Of a task that makes images. Training workers on CPUs leave less than a whole one where their number is elastic."""
WINDOWS_AT_ONCE = 4
"""Windows that one Ray Data execution makes."""
PARTS_AHEAD = 2
"""Executions beside each other: while one begins or ends, the other keeps the cores busy. One part more is held."""


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
    cache: Cache | None = None
    """All images, decoded."""

    def read(self, rows: list[Row]) -> Iterable[Stored | Unreadable]:
        """Return images, decoded, in the order of the rows."""
        return read_rows(self.folder, rows) if self.cache is None else fetch(self.cache, rows)

    @property
    def share(self) -> range:
        """This worker's places in a batch; the numbers of two workers differ by one at most."""
        first, end = (rank * self.batch_size // self.world_size for rank in (self.rank, self.rank + 1))
        return range(first, end)

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
        picked, share = [], self.share
        for position, row in self.order(window):
            step, place = divmod(position, self.batch_size)
            if first_step <= step < last_step and place in share:
                picked.append((position, row))
        return picked

    def order(self, window: int) -> list[tuple[int, Row]]:
        """Return all images of a window in their order, each with its position in the run."""
        epoch, number = divmod(window, self.windows_per_epoch)
        offset = number * self.window
        members = self._members(epoch, offset)
        order = np.random.default_rng([self.seed, epoch, 1, number]).permutation(len(members))
        return [(epoch * self.num_images + offset + i, members[j]) for i, j in enumerate(order)]

    def _members(self, epoch: int, offset: int) -> list[Row]:
        """Return the images at places `offset` to `offset + window` of an epoch's shuffled row groups."""
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.groups))
        sizes = np.array([group.rows for group in self.groups])[order]
        ends = np.cumsum(sizes)
        places = np.arange(offset, min(offset + self.window, self.num_images))
        found = np.searchsorted(ends, places, side="right")
        rows = places - (ends - sizes)[found]
        return [Row(self.groups[order[g]], int(row)) for g, row in zip(found, rows, strict=True)]


def stream(
    plan: Plan,
    config: IngestConfig,
    *,
    first_step: int,
    last_step: int,
    on_unreadable: Callable[[Unreadable], None] | None = None,
) -> Iterator[Batch]:
    """Yield this worker's part of the batch of each step, from `first_step` up to before `last_step`.

    `on_unreadable` is called once for each image that had to be replaced, before the batch in question is yielded;
    what it raises ends the stream.

    The images of some windows are made at a time, while those before them are used. Ray Data could do all in one
    execution, but one that has to wait for its consumer polls without a pause: it takes a core, and Python's lock, from
    the training that it waits for.
    """
    parts = iter(_parts(plan, first_step, last_step))
    reported: set[Unreadable] = set()
    with ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="ingest") as background:

        def load(steps: tuple[int, int]) -> Future[ray.data.Dataset]:
            return background.submit(_load, plan, config, *steps)

        ahead = deque(map(load, itertools.islice(parts, PARTS_AHEAD)))
        while ahead:
            loaded = ahead.popleft().result()
            ahead.extend(map(load, itertools.islice(parts, 1)))
            batches = loaded.iter_batches(
                batch_size=len(plan.share),
                batch_format="numpy",
                prefetch_batches=config.prefetch,
                drop_last=True,
            )
            for batch in batches:
                for fields in (fields for text in batch["unreadable"] if text for fields in json.loads(text)):
                    one = Unreadable(*fields)
                    if on_unreadable and one not in reported:
                        on_unreadable(one)
                    reported.add(one)
                yield Batch(batch["image"], batch["label"])


def _parts(plan: Plan, first_step: int, last_step: int) -> list[tuple[int, int]]:
    """Cut a run's steps into the parts that are made at a time; the first is small, so that training begins soon."""
    window = max(1, plan.window // plan.batch_size)
    starts = [*range(first_step, min(first_step + window, last_step), window)]
    starts += range(first_step + window, last_step, window * WINDOWS_AT_ONCE)
    return list(itertools.pairwise([*starts, last_step]))


def _load(plan: Plan, config: IngestConfig, first_step: int, last_step: int) -> ray.data.Dataset:
    """Make this worker's images of some steps; they stay in Ray's object store."""
    start, stop = plan.first_window(first_step), plan.first_window(last_step) + 1
    # Not ray.data.range, whose tasks take a whole CPU each.
    windows = ray.data.from_items([{"id": number} for number in range(stop - start)], override_num_blocks=stop - start)
    make = partial(_load_window, plan=plan, config=config, start=start, first_step=first_step, last_step=last_step)
    loaded: ray.data.Dataset = windows.map_batches(
        make, batch_size=None, zero_copy_batch=True, num_cpus=CPUS_EACH
    ).materialize()
    return loaded


def _load_window(
    numbers: dict[str, Any], plan: Plan, config: IngestConfig, start: int, first_step: int, last_step: int
) -> dict[str, Any]:
    images, labels, unreadable = [], [], []
    for number in numbers["id"]:
        window = start + int(number)
        picked = plan.rows(window, first_step, last_step)
        stored = plan.read([row for _, row in picked])
        for (position, _), found in zip(picked, stored, strict=True):
            bad: list[Unreadable] = []
            if isinstance(found, Unreadable):
                found, bad = _replacement(plan, window, position, found)
            # Each image has a generator of its own: the same crop whichever worker makes it, in whatever order.
            rng = np.random.default_rng([plan.seed, 2, position])
            image, label = augment(found.image, found.label, config, rng)
            images.append(image)
            labels.append(label)
            unreadable.append(json.dumps(bad) if bad else "")
    height, width = config.crop
    return {
        "image": np.stack(images) if images else np.empty((0, height, width, 3), np.uint8),
        "label": np.stack(labels) if labels else np.empty((0, height, width), np.uint8),
        "unreadable": np.array(unreadable, dtype=np.str_),
    }


def _replacement(plan: Plan, window: int, position: int, first: Unreadable) -> tuple[Stored, list[Unreadable]]:
    """Return the next readable image of a window, from its start again after its end, and those that are not.

    Which it is depends on the window alone, not on which of its images this worker has. Of a window without any, it is
    a black image of void.
    """
    order, bad = plan.order(window), [first]
    place = position - order[0][0]
    for _, row in [*order[place + 1 :], *order[:place]]:
        (found,) = plan.read([row])
        if isinstance(found, Stored):
            return found, bad
        bad.append(found)
    nothing = np.zeros((1, 1, 3), np.uint8), np.full((1, 1), IGNORE_INDEX, np.uint8)
    return Stored(first.id, *nothing), bad
