"""Ray Train's TorchTrainer around the training loop: workers, checkpoints, restarts."""

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig

from pipeline.checkpoint import CheckpointError
from pipeline.ingest import Batch, stream
from pipeline.rows import Unreadable
from pipeline.session import quiet_data_logs
from pipeline.shard_file import Skipped
from pipeline.shards import check_bad_share
from pipeline.train import DivergedError, Job, Worker, set_up, train
from pixcon_core.config import TrainConfig


class TrainingError(RuntimeError):
    """Workers failed, again and again."""


class TooManySkippedError(ValueError):
    """More images cannot be read than may be."""


def fit(job: Job, mailbox: Any, folder: Path) -> Path:
    """Train with Ray Train, from the newest checkpoint in `folder` if there is one.

    Args:
        job: What to train.
        mailbox: A `Mailbox` actor that gets the metrics.
        folder: The run's; Ray Train keeps its state below it, the final checkpoint goes to `folder/checkpoint`.

    Returns:
        The final checkpoint.

    Raises:
        ValueError: If it cannot go on: the loss is no longer a number, or too many images cannot be read.
        TrainingError: If workers failed and trying again did not help.
    """
    final = folder / "checkpoint"
    if final.exists():
        return final
    config = job.config.train
    use_gpu = wants_gpu(config)
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "mailbox": mailbox},
        # NCCL has no use where one process trains alone.
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu and config.num_workers > 1 else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(folder.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    try:
        result = trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
        cause = str(error).strip().splitlines()[-1]
        raise TrainingError(f"training failed: {cause}") from error
    failure = ray.get(mailbox.failure.remote())
    if failure is not None:
        raise failure
    assert result.checkpoint is not None  # the last step is always kept
    with result.checkpoint.as_directory() as newest:
        partial = final.with_name("checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(newest, partial)
        partial.rename(final)
    shutil.rmtree(folder / "train", ignore_errors=True)
    return final


def wants_gpu(config: TrainConfig) -> bool:
    """Return whether workers get a GPU each.

    Raises:
        ValueError: If the cluster is too small for the workers asked for; Ray would wait for ever.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if config.device == "cuda" and gpus < config.num_workers:
        raise ValueError(
            f"train.device=cuda with train.num_workers={config.num_workers} takes as many GPUs, but Ray sees {gpus}."
        )
    if config.num_workers >= cpus:
        raise ValueError(
            f"train.num_workers must be less than the CPUs that Ray has ({cpus}), so that one is left to read images,"
            f" but got {config.num_workers}."
        )
    return config.device == "cuda" or (config.device == "auto" and gpus >= config.num_workers)


def _train_worker(parameters: dict[str, Any]) -> None:
    job, mailbox = parameters["job"], parameters["mailbox"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    set_up(device, context.get_local_world_size())
    quiet_data_logs()
    if ray.get(mailbox.failure.remote()) is not None:
        return  # started again, after a rank gave up

    def batches(first_step: int) -> Iterator[Batch]:
        return stream(
            job.plan(worker),
            job.config.ingest,
            first_step=first_step,
            last_step=job.config.train.steps,
            on_unreadable=partial(_skip, job, mailbox),
        )

    def keep(folder: Path) -> None:
        written = ray.train.Checkpoint.from_directory(folder) if worker.rank == 0 else None
        ray.train.report({}, checkpoint=written)

    newest = ray.train.get_checkpoint()
    try:
        if newest is None:
            train(job, worker, batches, start=None, put=mailbox.put.remote, keep=keep)
        else:
            with newest.as_directory() as folder:
                train(job, worker, batches, start=Path(folder), put=mailbox.put.remote, keep=keep)
    except DivergedError as error:
        # All ranks see the same loss and end here. Not an error to Ray, which would only try the same again.
        if worker.rank == 0:
            ray.get(mailbox.fail.remote(error))
    except (TooManySkippedError, CheckpointError) as error:
        ray.get(mailbox.fail.remote(ValueError(str(error))))
        if worker.world_size > 1:
            raise  # the other ranks wait for this one: Ray ends them, and starts all again, to end at once


def _skip(job: Job, mailbox: Any, one: Unreadable) -> None:
    """Report an image of the training split that cannot be read.

    Raises:
        TooManySkippedError: If there are more than `ingest.max_bad_share` allows.
    """
    check_skipped(job, ray.get(mailbox.skip.remote(Skipped("train", *one))))


def check_skipped(job: Job, found: Sequence[Skipped]) -> None:
    """Refuse to go on where too many images of the training split cannot be read.

    Args:
        job: What is trained.
        found: Those found in training, besides those that were left out when the shards were written.

    Raises:
        TooManySkippedError: If there are more than `ingest.max_bad_share` allows.
    """
    split, shards = "train", job.shards
    before = [other for other in shards.skipped if other.split == split]
    total = shards.splits[split].num_images + len(before)
    try:
        check_bad_share(shards.dataset, split, [*before, *found], total, job.config.ingest.max_bad_share)
    except ValueError as error:
        raise TooManySkippedError(str(error)) from None
