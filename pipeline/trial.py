"""One trial of a search: the training loop in the trial's own process, scored at each of its checkpoints.

There is no nested trainer, whose start takes longer than many a trial. A trial's folder has its newest checkpoint, and
beside the weights the scores up to it; whoever runs the trial next, after a crash of its process or of the whole
search, goes on from there.
"""

import json
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ray import tune

from pipeline.cache import Cache, fetch
from pipeline.checkpoint import Loaded, load_segmentor
from pipeline.inference import predict
from pipeline.rows import Row, Stored, read_rows, split_rows
from pipeline.shards import Shards
from pipeline.single import keep_newest, newest_checkpoint, this_device, train_alone
from pipeline.train import Job
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

    def keep(folder: Path) -> None:
        loaded = load_segmentor(folder)
        loaded.model.to(this_device())
        miou = _miou(loaded, task)
        points.append(Point(loaded.meta.step, miou, time.monotonic() - began))
        (folder / SCORES).write_text(json.dumps(points))
        keep_newest(folder, place, loaded.meta.step)
        tune.report(points[-1]._asdict())

    try:
        config = override(task.job.config, unflatten(parameters["changes"]))
        job = replace(task.job, config=config)
        train_alone(job, place, num_sharing=task.at_once, put=lambda record: None, keep=keep)
    except Exception as error:  # not a loss that is no number, nor memory that is too small, is to end the search
        (place / ERROR).write_text(traceback.format_exc())
        last = points[-1] if points else Point(0, 0.0, time.monotonic() - began)
        tune.report({**last._asdict(), FAILED: reason(error)})


def load_points(checkpoint: Path) -> list[Point]:
    """Return the scores up to a trial's checkpoint."""
    return [Point(*fields) for fields in json.loads((checkpoint / SCORES).read_text())]


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
