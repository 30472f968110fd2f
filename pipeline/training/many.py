"""Many runs in full, as many at once as there is room for: each a Ray task that trains and evaluates in its process.

A run's folder has its newest checkpoint; a task whose process dies is begun again and goes on from there, and so does
the next command after a crash of this one. Runs of more than one worker train by Ray Train and are evaluated by Ray
Data, from a task too.
"""

import contextlib
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.exceptions
import torch

from pipeline.cores import num_cores
from pipeline.data.rows import Unreadable
from pipeline.data.shard_file import Skipped
from pipeline.data.skipping import check_skipped, load_skipped, store_skipped
from pipeline.evaluate import evaluate, evaluate_here, save_evaluation
from pipeline.growth import TooSmallError, reachable_resources
from pipeline.journey import NUM_EXAMPLES, train_logged, write_result
from pipeline.predicting import picture
from pipeline.progress import MetricsLog, Record, follow, load_records, open_mailbox
from pipeline.session import quiet_data_logs
from pipeline.train import Job, Worker, set_up
from pipeline.training.checkpoint import keep_newest, load_meta, newest_checkpoint
from pipeline.training.fit import wants_gpu
from pipeline.training.worker import work
from pixcon_core.config import RunConfig
from pixcon_core.models.weights import reason

CHECKPOINT, ERROR = "checkpoint", "error.txt"
RUN = "run"
MAX_DEATHS = 2
"""So many times in a row a run is begun again after its process died without a new checkpoint."""
DIED = "its process died, again and again; out of memory, if nothing else is known"


class Run(NamedTuple):
    """One training to do."""

    name: str
    """Of its folder below that of all."""
    config: RunConfig


class Room(NamedTuple):
    """How many runs there is room for."""

    at_once: int
    cpus: float
    """For the task of each."""
    gpus: float
    use_gpu: bool


def room_for(config: RunConfig, concurrent: int | None) -> Room:
    """Return how many runs of one configuration train at once.

    Raises:
        ValueError: If so many do not fit.
    """
    use_gpu, workers = wants_gpu(config.train), config.train.num_workers
    resources = reachable_resources()
    gpus, cpus = (int(resources.get(kind, 0)) for kind in ("GPU", "CPU"))
    fitting = gpus // workers if use_gpu else max(1, min(4, num_cores()) // workers)
    at_once = concurrent or fitting
    if at_once * workers >= cpus:
        raise TooSmallError(
            f"--concurrent: {at_once} runs of {workers} workers take as many CPUs, but Ray has {cpus}, and one must be"
            " left to read images."
        )
    if workers > 1:  # the task only waits for the workers, which ask for themselves
        return Room(at_once, 0, 0, use_gpu)
    return Room(at_once, 1, min(1.0, gpus / at_once) if use_gpu else 0, use_gpu)


def train_all(
    runs: Sequence[Run],
    job_of: Callable[[Run], Job],
    root: Path,
    room: Room,
    on_step: Callable[[str, int], None],
    on_end: Callable[[Run, str], None],
) -> None:
    """Train and evaluate runs that have no result yet.

    Args:
        runs: In the order in which they begin.
        job_of: Called as a run begins.
        root: The runs have their folders in it.
        room: How many at once.
        on_step: Called, from another thread, with a run's name and how many steps it has done.
        on_end: Called with a run and why it failed; nothing, if it has not. One that has not has `result.json`.
    """
    waiting, deaths = deque(runs), Counter[tuple[str, Path | None]]()
    going: dict[Any, Run] = {}
    task = ray.remote(num_cpus=room.cpus, num_gpus=room.gpus, max_retries=0)(train_run)
    mailbox = open_mailbox()

    def begin() -> None:
        while waiting and len(going) < room.at_once:
            run = waiting.popleft()
            # Not through the driver's own hands: a job's cache is of references, which tasks may pass on.
            going[task.remote(job_of(run), (root / run.name).resolve(), run.name, mailbox, room)] = run

    with follow(mailbox, lambda record: on_step(record[RUN], record["step"])):
        try:
            while waiting or going:
                begin()
                (ended,), _ = ray.wait(list(going), num_returns=1)
                run = going.pop(ended)
                try:
                    why = ray.get(ended)
                except ray.exceptions.RayError as error:
                    newest = newest_checkpoint(root / run.name)
                    deaths[run.name, newest] += 1
                    if deaths[run.name, newest] <= MAX_DEATHS:
                        waiting.appendleft(run)
                        continue
                    why = f"{DIED} ({reason(error)})"
                on_end(run, why)
        finally:
            for one in going:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(one, force=True)


def train_run(job: Job, folder: Path, name: str, mailbox: Any, room: Room) -> str:
    """Train one run into its folder, from its newest checkpoint if it has one, and evaluate it.

    Returns:
        Why it failed, for a reason that would only repeat itself; nothing, if it has not.
    """
    quiet_data_logs()
    folder.mkdir(parents=True, exist_ok=True)

    def tell(record: Record) -> None:
        if "step" in record:
            mailbox.put.remote({RUN: name, "step": record["step"]})

    try:
        if not (folder / CHECKPOINT).exists():
            if job.config.train.num_workers > 1:
                train_logged(job, folder, tell)
            else:
                _train_here(job, folder, tell, room)
        _evaluate(job, folder, room)
    except Exception as error:  # not a loss that is no number, nor memory that is too small, is to end the others
        with contextlib.suppress(OSError):
            (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        return reason(error)
    (folder / ERROR).unlink(missing_ok=True)
    return ""


def _train_here(job: Job, folder: Path, tell: Callable[[Record], None], room: Room) -> None:
    log, skipped = MetricsLog(folder), load_skipped(folder)
    worker = Worker(device=torch.device("cuda" if room.use_gpu else "cpu"))
    set_up(worker.device, room.at_once)

    def put(record: Record) -> None:
        log.write(record)
        tell(record)

    def skip(one: Unreadable) -> None:
        found = Skipped("train", *one)
        if found not in skipped:
            skipped.append(found)
            store_skipped(folder, found)
        check_skipped(skipped, job.shards, "train", max_bad_share=job.config.ingest.max_bad_share)

    def keep(checkpoint: Path) -> None:
        keep_newest(checkpoint, folder, load_meta(checkpoint).step)

    try:
        work(job, worker, skip, start=newest_checkpoint(folder), put=put, keep=keep)
    finally:
        log.close()
    newest = newest_checkpoint(folder)
    assert newest is not None  # the last step is always kept
    newest.rename(folder / CHECKPOINT)


def _evaluate(job: Job, folder: Path, room: Room) -> None:
    began, checkpoint = time.monotonic(), folder / CHECKPOINT
    if job.config.train.num_workers > 1:  # one predicts: other runs have the other GPUs
        evaluation = evaluate(checkpoint, job.shards, num_examples=NUM_EXAMPLES, use_gpu=room.use_gpu, num_workers=1)
    else:
        evaluation = evaluate_here(
            checkpoint, job.shards, num_examples=NUM_EXAMPLES, use_gpu=room.use_gpu, num_sharing=room.at_once
        )
    save_evaluation(evaluation, folder)
    picture.draw(evaluation.examples, job.shards.classes, job.shards.palette, folder / "predictions.png")
    last = load_records(folder / "metrics.jsonl")[-1]
    images = job.config.train.steps * job.config.train.batch_size
    training = images / max(last["images_per_second"], 1e-9)  # in whichever process it was
    write_result(folder, job.config, job.shards, evaluation, training + time.monotonic() - began)
