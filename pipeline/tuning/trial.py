"""One trial of a search: the training loop, scored at each of its checkpoints.

With one worker the loop runs in the trial's own process: a nested trainer takes longer to start than many a trial
lasts. With several it runs in the workers of a TorchTrainer. Either way a trial's folder has its newest checkpoint, of
each seed, and beside the weights the scores up to it; whoever runs the trial next, after a crash of its process or of
the whole search, goes on from there.
"""

import contextlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from jaxtyping import Int64
from ray import tune

from pipeline.command import is_disk_full
from pipeline.data.cache import Cache, fetch
from pipeline.data.rows import Row, Stored, read_rows, split_rows
from pipeline.data.shards import Shards
from pipeline.data.skipping import TooManySkippedError, skip
from pipeline.predicting.inference import predict
from pipeline.progress import open_mailbox
from pipeline.session import quiet_data_logs
from pipeline.train import Job, Worker, set_up
from pipeline.training.checkpoint import Loaded, load_meta, load_segmentor, newest_checkpoint
from pipeline.training.worker import telling, to_mailbox, work
from pixcon_core.metrics import confusion_matrix, counts_of, miou_of
from pixcon_core.models.weights import reason
from pixcon_core.override import override, unflatten

MIOU, STEP, SECONDS, SEEDS = "miou", "step", "seconds", "seeds"
"""What a trial reports, as `Point` has it."""
FAILED, HOPELESS = "failed", "hopeless"
"""What it reports beside, if it cannot go on; and if no other could either."""
SCORES, COUNTS, ERROR = "scores.json", "counts.npz", "error.txt"
IMAGES_AT_ONCE = 8


class Score(NamedTuple):
    """What one seed has come to at one step."""

    step: int
    miou: float
    seconds: float
    """Since it began; not those in which nothing ran it."""


class Point(NamedTuple):
    """What a trial has come to at one step."""

    step: int
    miou: float
    """Mean over the seeds."""
    seconds: float
    """Of all seeds together."""
    seeds: list[float]
    """mIoU of each."""


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
    mailbox: Any
    """A `Mailbox` actor that is told of images that cannot be read."""
    at_once: int = 1
    """Trials that share a machine's cores."""
    num_seeds: int = 1
    """Each trial trains with so many seeds, from `seed` on."""
    use_gpu: bool = False
    worker_resources: dict[str, float] | None = None
    """What Ray sets aside for each worker of a trial that has several."""

    def jobs(self, changes: dict[str, Any]) -> list[Job]:
        """Return what a trial with such changes trains: a job for each seed."""
        config = override(self.job.config, unflatten(changes))
        return [replace(self.job, config=replace(config, seed=config.seed + i)) for i in range(self.num_seeds)]


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
    # So long Tune waits for a trial that it has stopped, before it gives this process up as one for the next trial.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    place = task.folder / str(parameters["number"])
    place.mkdir(parents=True, exist_ok=True)
    try:
        jobs = task.jobs(parameters["changes"])
        if task.job.config.train.num_workers == 1:
            quiet_data_logs()
            device = torch.device("cuda" if task.use_gpu else "cpu")
            set_up(device, task.at_once)
            train_seeds(task, jobs, place, Worker(device=device), tune.report)
        else:
            _with_workers(task, jobs, place)
    except Exception as error:  # not a loss that is no number, nor memory that is too small, is to end the search
        with contextlib.suppress(OSError):
            (place / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        last = [Point(0, 0.0, 0.0, []), *load_points(place, task.num_seeds)][-1]
        full = is_disk_full(error)
        hopeless = {HOPELESS: str(error)} if full or isinstance(error, TooManySkippedError) else {}
        tune.report({**last._asdict(), FAILED: reason(error), **hopeless})


def _with_workers(task: Task, jobs: list[Job], place: Path) -> None:
    """Train in the workers of a trainer, which report to Ray Tune."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from pipeline.growth import may_grow
    from pipeline.training.fit import TRAIN_FOLDER, run_workers

    shutil.rmtree(place / TRAIN_FOLDER, ignore_errors=True)  # of a process that was killed; it has no checkpoints
    failures = open_mailbox()
    run_workers(
        _train_worker,
        {"task": task, "jobs": jobs, "place": place, "failures": failures},
        task.job.config.train,
        place,
        num_steps=lambda: sum(scores[-1].step for scores in _scores_of_seeds(place, task.num_seeds) if scores),
        use_gpu=task.use_gpu,
        resources=task.worker_resources,
        # A minute each. Nodes that have to be started first take some minutes to install everything.
        placing_tries=30 if may_grow() else 3,
        callbacks=[TuneReportCallback()],
    )
    shutil.rmtree(place / TRAIN_FOLDER, ignore_errors=True)
    failure = ray.get(failures.failure.remote())
    if failure is not None:
        raise failure


def _train_worker(parameters: dict[str, Any]) -> None:
    from pipeline.training.fit import this_worker

    task, failures = parameters["task"], parameters["failures"]
    worker = this_worker(num_sharing=task.at_once)
    if ray.get(failures.failure.remote()) is not None:
        return  # started again, after a rank gave up
    with telling(failures, worker):
        train_seeds(task, parameters["jobs"], parameters["place"], worker, ray.train.report)


def train_seeds(
    task: Task, jobs: list[Job], place: Path, worker: Worker, report: Callable[[dict[str, Any]], None]
) -> None:
    """Train all seeds, from checkpoint to checkpoint beside each other, and report what they have come to together.

    So trials are compared by means over all of their seeds at the same step, and one that is stopped early has spent
    no more on one seed than on another.
    """
    told = 0

    def tell() -> None:
        nonlocal told
        for point in load_points(place, len(jobs))[told:]:
            report(point._asdict())
            told += 1

    def keep(folder: Path, home: Path, began: float) -> None:
        _keep(folder, home, began, task, worker)
        tell()

    tell()  # a search that was killed may not have heard of all
    train = task.job.config.train
    stops = [*range(train.checkpoint_every, train.steps, train.checkpoint_every), train.steps]
    for until in stops if len(jobs) > 1 else stops[-1:]:
        for number, job in enumerate(jobs):
            home = seed_folder(place, number)
            home.mkdir(exist_ok=True)
            start = newest_checkpoint(home)
            before = load_scores(home)
            if before and before[-1].step >= until:
                continue
            began = time.monotonic() - (before[-1].seconds if before else 0.0)
            work(
                job,
                worker,
                to_mailbox(task.mailbox, job),
                start=start,
                until=until,
                put=lambda record: None,
                keep=partial(keep, home=home, began=began),
            )


def seed_folder(place: Path, number: int) -> Path:
    """Return where a trial keeps the checkpoint of one of its seeds, the first one being 0."""
    return place / f"seed-{number}"


def load_scores(home: Path) -> list[Score]:
    """Return the scores of a seed up to its newest checkpoint."""
    newest = newest_checkpoint(home)
    return [] if newest is None else [Score(*fields) for fields in json.loads((newest / SCORES).read_text())]


def _scores_of_seeds(place: Path, num_seeds: int) -> list[list[Score]]:
    return [load_scores(seed_folder(place, number)) for number in range(num_seeds)]


def load_points(place: Path, num_seeds: int) -> list[Point]:
    """Return the scores of a trial up to the last step that all of its seeds have come to."""
    points = []
    for at_step in zip(*_scores_of_seeds(place, num_seeds), strict=False):
        mious = [score.miou for score in at_step]
        points.append(Point(at_step[0].step, sum(mious) / num_seeds, sum(score.seconds for score in at_step), mious))
    return points


def _keep(folder: Path, home: Path, began: float, task: Task, worker: Worker) -> None:
    """Copy a checkpoint into a seed's folder, with its scores, whole or not at all; remove the one before it."""
    partial_ = home / "partial"
    if worker.rank == 0:
        shutil.rmtree(partial_, ignore_errors=True)
        shutil.copytree(folder, partial_)
        partial_.chmod(0o755)  # temporary folders are their owner's alone
    _wait_for_all(worker)
    counts = _count(load_segmentor(partial_), task, worker)
    if worker.rank == 0:
        earlier, step = list(home.glob("checkpoint-*")), load_meta(partial_).step
        score = Score(step, miou_of(counts), time.monotonic() - began)
        (partial_ / SCORES).write_text(json.dumps([*load_scores(home), score]))
        np.savez_compressed(partial_ / COUNTS, counts=counts)
        partial_.rename(home / f"checkpoint-{step:08}")
        for one in earlier:
            shutil.rmtree(one)
    _wait_for_all(worker)


def _count(loaded: Loaded, task: Task, worker: Worker) -> Int64[np.ndarray, "image 3 class"]:
    """Predict the images that score trials, each worker its part of them; see `ImageCounts`.

    Those that can no longer be read count nothing, in all trials alike.
    """
    loaded.model.to(worker.device)
    job, rows = task.job, task.val_rows
    num_classes, folder = len(loaded.meta.classes), job.shards.folder
    counts = np.zeros((len(rows), 3, num_classes), dtype=np.int64)
    mine = range(worker.rank, len(rows), worker.world_size)
    for first in range(0, len(mine), IMAGES_AT_ONCE):
        places = mine[first : first + IMAGES_AT_ONCE]
        wanted = [rows[place] for place in places]
        stored = read_rows(folder, wanted) if task.val_cache is None else fetch(task.val_cache, wanted)
        for place, found in zip(places, stored, strict=True):
            if isinstance(found, Stored):
                counts[place] = counts_of(confusion_matrix(predict(loaded, found.image), found.label, num_classes))
            else:
                share = job.config.ingest.max_bad_share
                skip(found, task.mailbox, job.shards, "val", max_bad_share=share, num_images=len(rows))
    if worker.world_size > 1:
        together = torch.from_numpy(counts).to(worker.device)
        dist.all_reduce(together)
        counts = together.cpu().numpy()
    return counts


def _wait_for_all(worker: Worker) -> None:
    if worker.world_size > 1:
        dist.barrier()
