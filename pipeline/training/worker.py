"""What each process of a job does, whoever runs it: train on its part of the stream, and say what went wrong."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray

from pipeline.command import is_disk_full
from pipeline.data.rows import Unreadable
from pipeline.data.skipping import TooManySkippedError, skip
from pipeline.ingest import Batch, stream
from pipeline.train import DivergedError, Job, Keep, Put, Worker, train
from pipeline.training.checkpoint import CheckpointError

OnUnreadable = Callable[[Unreadable], None]
"""Told once of each training image that had to be replaced; may refuse to go on."""


def work(
    job: Job,
    worker: Worker,
    on_unreadable: OnUnreadable,
    *,
    start: Path | None,
    put: Put,
    keep: Keep,
    until: int | None = None,
) -> None:
    """Train on one worker, from a checkpoint or from the start; see `pipeline.train.train`.

    Args:
        job: What to train.
        worker: This process.
        on_unreadable: Told of images that cannot be read.
        start: Checkpoint folder to go on from.
        put: Takes metrics.
        keep: Takes checkpoints.
        until: Step to stop at, one with a checkpoint; None for the last.

    Raises:
        TooManySkippedError: If too many images cannot be read.
        DivergedError: If the loss is no longer finite.
        CheckpointError: If the checkpoint to go on from is damaged or does not fit.
    """
    config = job.config

    def batches(first_step: int) -> Iterator[Batch]:
        return stream(
            job.plan(worker),
            config.ingest,
            first_step=first_step,
            last_step=config.train.steps if until is None else until,
            on_unreadable=on_unreadable,
        )

    train(job, worker, batches, start=start, put=put, keep=keep)


def to_mailbox(mailbox: Any, job: Job) -> OnUnreadable:
    """Return what tells a `Mailbox` actor of training images that cannot be read, and ends where they are too many."""
    share = job.config.ingest.max_bad_share
    return partial(skip, mailbox=mailbox, shards=job.shards, split="train", max_bad_share=share)


@contextmanager
def telling(mailbox: Any, worker: Worker) -> Iterator[None]:
    """Tell a mailbox of failures that would only repeat themselves, and keep them from Ray, which would try again."""
    try:
        yield
    except DivergedError as error:
        # All ranks see the same loss and end here.
        if worker.rank == 0:
            ray.get(mailbox.fail.remote(error))
    except (TooManySkippedError, CheckpointError, OSError) as error:
        if is_disk_full(error):
            error = OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, for a checkpoint")
        elif isinstance(error, OSError):
            raise
        ray.get(mailbox.fail.remote(error))
        if worker.world_size > 1:
            raise  # the other ranks wait for this one: Ray ends them, and starts all again, to end at once
