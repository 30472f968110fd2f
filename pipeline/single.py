"""The training loop in this process alone, without Ray Train, whose start takes longer than many a run.

The newest checkpoint lies in a folder. Whoever trains there next, after a crash of the process or of the whole command,
goes on from it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.rows import Unreadable
from pipeline.session import quiet_data_logs
from pipeline.train import Job, Keep, Put, Worker, set_up
from pipeline.worker import work


def train_alone(
    job: Job,
    place: Path,
    *,
    num_sharing: int,
    put: Put,
    keep: Keep,
    on_unreadable: Callable[[Unreadable], None],
) -> None:
    """Train on one worker, this process, from the newest checkpoint in a folder if there is one.

    Args:
        job: What to train.
        place: The folder.
        num_sharing: Processes that share the cores of this machine.
        put: Called with metrics by step.
        keep: Called with a checkpoint folder; it is to call `keep_newest`.
        on_unreadable: Called once for each image that had to be replaced.
    """
    quiet_data_logs()
    worker = Worker(device=this_device())
    set_up(worker.device, num_sharing)
    work(job, worker, start=newest_checkpoint(place), put=put, keep=keep, on_unreadable=on_unreadable)


def this_device() -> torch.device:
    """Return where this process computes: on the GPU that Ray gave it, if it gave one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def newest_checkpoint(place: Path) -> Path | None:
    """Return the newest checkpoint in a folder."""
    return max(place.glob("checkpoint-*"), default=None)


def keep_newest(checkpoint: Path, place: Path, step: int) -> None:
    """Copy a checkpoint into a folder, whole or not at all, and remove the ones before it."""
    earlier = list(place.glob("checkpoint-*"))
    partial = place / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    partial.chmod(0o755)  # temporary folders are their owner's alone
    partial.rename(place / f"checkpoint-{step:08}")
    for one in earlier:
        shutil.rmtree(one)
