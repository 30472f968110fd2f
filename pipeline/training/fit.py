"""Ray Train's TorchTrainer around the training loop: workers, checkpoints, restarts."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train import CheckpointConfig, FailureConfig, ScalingConfig, UserCallback
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

from pipeline.command import TrainingError
from pipeline.growth import TooSmallError, reachable_resources
from pipeline.session import quiet_data_logs
from pipeline.train import Job, Worker, set_up
from pipeline.training.checkpoint import CheckpointError, load_meta
from pipeline.training.worker import telling, to_mailbox, work
from pixcon_core.config import TrainConfig

TRAIN_FOLDER = "train"
ELASTIC_CPUS = 1.001
"""What Ray sets aside for a worker where it decides how many there are: so it leaves of each machine most of a CPU to
those who make images, without whom workers would wait for ever."""


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
    parameters = {"job": ray.put(job), "mailbox": mailbox}

    def loop(parameters: dict[str, Any]) -> None:
        # Imported, and the job unpacked, by workers only: Ray Train's controller, which starts them, reads this
        # function too, and would import timm and torchvision first.
        from pipeline.training.fit import train_worker

        train_worker(ray.get(parameters["job"]), parameters["mailbox"])

    result = run_workers(
        loop, parameters, config, folder, num_steps=lambda: _kept_step(folder), use_gpu=wants_gpu(config)
    )
    failure = ray.get(mailbox.failure.remote())
    if failure is not None:
        raise failure
    assert result.checkpoint is not None  # the last step is always kept
    with result.checkpoint.as_directory() as newest:
        partial = final.with_name("checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(newest, partial)
        partial.rename(final)
    shutil.rmtree(folder / TRAIN_FOLDER, ignore_errors=True)
    return final


def wants_gpu(config: TrainConfig) -> bool:
    """Return whether workers get a GPU each.

    Raises:
        ValueError: If the cluster is too small for the workers asked for; Ray would wait for ever.
    """
    resources = reachable_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    name, needed = "num_workers", config.num_workers
    if config.min_workers is not None:
        name, needed = "min_workers", config.min_workers
    if gpus < needed and (config.device == "cuda" or (config.device == "auto" and gpus > 0)):
        raise TooSmallError(
            f"train.device={config.device} with train.{name}={needed} takes as many GPUs, but Ray sees {gpus}. Lower"
            f" train.{name}, or set train.device=cpu."
        )
    if needed >= cpus:
        raise TooSmallError(
            f"train.{name} must be less than the CPUs that Ray has ({cpus}), so that one is left to read images, but"
            f" got {needed}."
        )
    return config.device == "cuda" or (config.device == "auto" and gpus >= needed)


def run_workers(
    loop: Callable[[dict[str, Any]], None],
    parameters: dict[str, Any],
    config: TrainConfig,
    folder: Path,
    *,
    num_steps: Callable[[], int],
    use_gpu: bool,
    resources: dict[str, float] | None = None,
    placing_tries: int = -1,
    callbacks: Sequence[UserCallback] = (),
) -> ray.train.Result:
    """Run a function in `train.num_workers` processes side by side; start all again if one of them dies.

    With `train.min_workers` Ray Train takes as many as there is room for, and begins again from the newest checkpoint
    with more if after a minute there is room for more.

    After three times without a new checkpoint in between it gives up; else it does not, since where machines come and
    go, a long training loses some again and again.

    Args:
        loop: Run in each process.
        parameters: What it is given.
        config: Of the training.
        folder: Ray Train keeps its state in `folder/train`.
        num_steps: Returns how many steps have a checkpoint.
        use_gpu: Each process has a GPU.
        resources: What Ray sets aside for each; None is a GPU, or a CPU where there are none.
        placing_tries: So often Ray looks for room for them, for a minute each time; -1 is without end.
        callbacks: Called by Ray Train.

    Raises:
        TrainingError: If processes failed and trying again did not help.
    """
    get_or_create_autoscaling_coordinator()  # Train asks it for room, some seconds from now; it starts meanwhile
    count: int | tuple[int, int] = config.num_workers
    if config.min_workers is not None:
        count = config.min_workers, config.num_workers
        if not use_gpu and resources is None:
            resources = {"CPU": ELASTIC_CPUS}
    trainer = _Trainer(
        loop,
        train_loop_config=parameters,
        # NCCL has no use where one process trains alone.
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if use_gpu and config.num_workers > 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=count,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=TRAIN_FOLDER,
            storage_path=str(folder.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=placing_tries),  # type: ignore[call-arg]
            callbacks=list(callbacks),  # type: ignore[arg-type]
        ),
    )
    before = num_steps()
    while True:
        try:
            return trainer.fit()  # again, it goes on from the newest checkpoint
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            if (now := num_steps()) <= before:
                cause = str(error).strip().splitlines()[-1]
                raise TrainingError(f"training failed: {cause}") from error
            before = now


class _Trainer(ray.train.torch.TorchTrainer):
    def _create_default_callbacks(self) -> list[Any]:
        """Leave out what hands data sets to workers: there are none, and its process would wake 100 times a second."""
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if not isinstance(one, DatasetsCallback)]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the command; Ray's own handler ends the program without a word, and stays after training."""


def _kept_step(folder: Path) -> int:
    """Return the step of the newest of Ray Train's checkpoints."""
    steps = [0]
    for one in (folder / TRAIN_FOLDER).glob("checkpoint_*"):
        with contextlib.suppress(CheckpointError):  # its copying was cut off
            steps.append(load_meta(one).step)
    return max(steps)


def this_worker(num_sharing: int = 1) -> Worker:
    """Return which worker of Ray Train's this process is, with PyTorch set up for it.

    Args:
        num_sharing: So many such trainings share the machine.
    """
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    set_up(device, context.get_local_world_size() * num_sharing)
    quiet_data_logs()
    return Worker(context.get_world_rank(), context.get_world_size(), device)


def train_worker(job: Job, mailbox: Any) -> None:
    """Train as one worker of Ray Train's, from its newest checkpoint; tell a `Mailbox` actor how it goes."""
    worker = this_worker()
    if ray.get(mailbox.failure.remote()) is not None:
        return  # started again, after a rank gave up

    def keep(folder: Path) -> None:
        written = ray.train.Checkpoint.from_directory(folder) if worker.rank == 0 else None
        ray.train.report({}, checkpoint=written)

    newest = ray.train.get_checkpoint()
    with telling(mailbox, worker), contextlib.nullcontext() if newest is None else newest.as_directory() as start:
        first = None if start is None else Path(start)
        work(job, worker, to_mailbox(mailbox, job), start=first, put=mailbox.put.remote, keep=keep)
