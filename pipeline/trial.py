"""One trial of a search: the training loop in the trial's own process, scored at each of its checkpoints.

There is no nested trainer, whose start takes longer than many a trial. A trial's folder has its newest checkpoint, and
beside the weights the scores up to it; whoever runs the trial next, after a crash of its process or of the whole
search, goes on from there.
"""

import json
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ray import tune

from pipeline.cache import Cache, fetch
from pipeline.checkpoint import Loaded, load_segmentor
from pipeline.inference import predict
from pipeline.ingest import Batch, stream
from pipeline.rows import Row, Stored, read_rows, split_rows
from pipeline.session import quiet_data_logs
from pipeline.shards import Shards
from pipeline.train import Job, Worker, set_up, train
from pixcon_core.config import override, unflatten
from pixcon_core.metrics import confusion_matrix, scores
from pixcon_core.models.weights import reason

MIOU, STEP, SECONDS, FAILED = "miou", "step", "seconds", "failed"
"""What a trial reports; the last one if it cannot go on."""
SCORES, ERROR = "scores.json", "error.txt"
IMAGES_AT_ONCE = 8


class Point(NamedTuple):
    """A trial's score at one step."""

    step: int
    miou: float
    seconds: float
    """Since the trial began; not those in which nothing ran it."""


@dataclass(frozen=True)
class Task:
    """What all trials of a search have in common."""

    job: Job
    """Of the start; trials change single settings."""
    folder: Path
    """Trials have their folders in it."""
    val_rows: list[Row]
    """The images that score a trial, always the same."""
    val_cache: Cache | None
    at_once: int
    """Trials that share a machine's cores."""


def val_rows(shards: Shards, at_most: int) -> list[Row]:
    """Return the images that score trials: all, or so many that are spread evenly over the split."""
    rows = split_rows(shards, "val")
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(at_most, len(rows)))]


def run_trial(parameters: dict[str, Any], task: Task) -> None:
    """Train and report, from the trial's newest checkpoint if it has one. Runs in a process of Ray Tune's.

    A failure that would only repeat itself is reported, not raised: Ray would try again.

    Args:
        parameters: `number` of the trial, and `changes`: its settings that differ from the start's, by full name.
        task: What all trials have in common.
    """
    place = task.folder / str(parameters["number"])
    place.mkdir(parents=True, exist_ok=True)
    start = newest_checkpoint(place)
    points = [] if start is None else load_points(start)
    began = time.monotonic() - (points[-1].seconds if points else 0.0)
    for point in points:  # a search that was killed may not have heard of all
        tune.report(point._asdict())
    quiet_data_logs()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_up(device, task.at_once)

    def keep(folder: Path) -> None:
        loaded = load_segmentor(folder)
        loaded.model.to(device)
        miou = _miou(loaded, task)
        points.append(Point(loaded.meta.step, miou, time.monotonic() - began))
        (folder / SCORES).write_text(json.dumps(points))
        _keep_only(folder, place, loaded.meta.step)
        tune.report(points[-1]._asdict())

    try:
        config = override(task.job.config, unflatten(parameters["changes"]))
        job, worker = replace(task.job, config=config), Worker(device=device)

        def batches(first_step: int) -> Iterator[Batch]:
            last_step = config.train.steps
            return stream(job.plan(worker), config.ingest, first_step=first_step, last_step=last_step)

        train(job, worker, batches, start=start, put=lambda record: None, keep=keep)
    except Exception as error:  # not a loss that is no number, nor memory that is too small, is to end the search
        (place / ERROR).write_text(traceback.format_exc())
        last = points[-1] if points else Point(0, 0.0, time.monotonic() - began)
        tune.report({**last._asdict(), FAILED: reason(error)})


def newest_checkpoint(place: Path) -> Path | None:
    """Return the newest checkpoint in a trial's folder."""
    return max(place.glob("checkpoint-*"), default=None)


def load_points(checkpoint: Path) -> list[Point]:
    """Return the scores up to a trial's checkpoint."""
    return [Point(*fields) for fields in json.loads((checkpoint / SCORES).read_text())]


def _keep_only(folder: Path, place: Path, step: int) -> None:
    """Copy a checkpoint into the trial's folder, whole or not at all, and remove the ones before it."""
    earlier = list(place.glob("checkpoint-*"))
    partial = place / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(place / f"checkpoint-{step:08}")
    for one in earlier:
        shutil.rmtree(one)


def _miou(loaded: Loaded, task: Task) -> float:
    num_classes = len(loaded.meta.classes)
    total = np.zeros((num_classes, num_classes), dtype=np.int64)
    for first in range(0, len(task.val_rows), IMAGES_AT_ONCE):
        rows = task.val_rows[first : first + IMAGES_AT_ONCE]
        folder = task.job.shards.folder
        for found in read_rows(folder, rows) if task.val_cache is None else fetch(task.val_cache, rows):
            if isinstance(found, Stored):  # those that are not are left out, of all trials alike
                total += confusion_matrix(predict(loaded, found.image), found.label, num_classes)
    return scores(total).miou
