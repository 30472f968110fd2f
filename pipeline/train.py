"""Station 3: the training loop. `pipeline.training.fit` runs it under Ray Train.

The loop is one function, `train`. Contrast is on or off by `contrast.weight`; there is no second loop. All
randomness of a step is a function of the seed, the step and the worker's rank, so there are no random states to store:
a checkpoint holds weights, optimiser and contrast memory, and a resumed run goes on bit for bit.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.cores import num_cores
from pipeline.data.cache import Cache
from pipeline.data.shards import Shards
from pipeline.ingest import Batch, Plan
from pipeline.progress import Record
from pipeline.training.checkpoint import CheckpointError, Meta, load_meta, save_checkpoint
from pipeline.training.model import Losses, TrainedModel
from pipeline.training.optimization import TrainingState, autocast, lr_factor
from pipeline.training.waiting import wait_long_while_alone
from pixcon_core.config import RunConfig, TrainConfig
from pixcon_core.contrast import keep_out_of_ddp
from pixcon_core.models import normalization, synchronize_batch_norm

Put = Callable[[Record], object]
"""Takes a record of metrics, somewhere."""
Keep = Callable[[Path], None]
"""Takes a checkpoint folder and keeps a copy."""


class DivergedError(ValueError):
    """The loss is no longer a number."""


class Worker(NamedTuple):
    """Which of the processes that train together this one is, and where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """All that a worker has to be told."""

    config: RunConfig
    shards: Shards
    cache: Cache | None = None
    """The training images, decoded."""

    def plan(self, worker: Worker) -> Plan:
        """Return which images a worker sees."""
        return Plan(
            folder=self.shards.folder,
            groups=self.shards.splits["train"].groups,
            window=self.config.ingest.window,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            rank=worker.rank,
            world_size=worker.world_size,
            cache=self.cache,
        )


class Meter:
    """Sums of what the log shows, kept on the device: reading them each step would make a GPU wait."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(0)
        self._count = 0

    def add(self, losses: Losses) -> None:
        """Add the losses and statistics of one step."""
        named = {"loss": losses.total, "cross_entropy": losses.cross_entropy}
        if losses.stats is not None:
            named["contrast"] = losses.contrast
            named |= {f"contrast/{name}": value for name, value in losses.stats._asdict().items()}
        values = torch.stack([value.detach().float() for value in named.values()])
        self._names = tuple(named)
        self._sums = values + self._sums if self._count else values
        self._count += 1

    def take(self, worker: Worker) -> dict[str, float]:
        """Return the means over the steps since the last call, and over all workers."""
        means = self._sums / max(self._count, 1)
        if worker.world_size > 1:
            dist.all_reduce(means)
            means /= worker.world_size
        self._count = 0
        return dict(zip(self._names, means.tolist(), strict=True))


def set_up(device: torch.device, num_sharing: int) -> None:
    """Let PyTorch use what this process has; so many processes share the cores of the machine."""
    if device.type == "cpu":
        # Ray gives a worker one thread; the cores of its machine are there for all of its workers. More threads than
        # OpenMP may have would not be there, and oneDNN waits for them without end.
        limit = int(os.environ.get("OMP_THREAD_LIMIT") or sys.maxsize)
        torch.set_num_threads(max(1, min(num_cores() // num_sharing, limit)))
        wait_long_while_alone(torch.get_num_threads())
    else:
        torch.backends.cudnn.benchmark = True  # crops are all of one size
        torch.set_float32_matmul_precision("high")


def train(
    job: Job,
    worker: Worker,
    batches: Callable[[int], Iterable[Batch]],
    *,
    start: Path | None,
    put: Put,
    keep: Keep,
) -> None:
    """Train on one worker, from a checkpoint or from the start, to the last step.

    Args:
        job: What to train.
        worker: This process.
        batches: Gives this worker's batches from a step on.
        start: Checkpoint folder to go on from.
        put: Called on rank 0 with metrics by step.
        keep: Called on all ranks with a checkpoint folder, which is empty on ranks other than 0.

    Raises:
        DivergedError: If the loss is no longer finite.
        CheckpointError: If the checkpoint to go on from is damaged or does not fit.
    """
    config, device = job.config.train, worker.device
    torch.manual_seed(job.config.seed)
    model = TrainedModel(job.config, job.shards.splits["train"].class_pixels).to(device)
    if config.channels_last:
        model.segmentor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    state = TrainingState(model, config, device)
    first = 0 if start is None else _restore(start, job, state)
    clock = state.clock
    if config.compile:
        model.segmentor.compile()
    parallel = _parallel(model, worker)
    meter = Meter()

    def checkpoint(step: int) -> None:
        with tempfile.TemporaryDirectory(prefix="pixcon-") as folder:
            if worker.rank == 0:
                _save(Path(folder), job, state, step)
            keep(Path(folder))

    if worker.rank == 0:  # whoever took them may have been killed before it wrote them down
        for record in state.records:
            put(record)
    state.records.clear()
    model.train()
    last_time = time.perf_counter()
    for step, (batch, waited) in enumerate(_timed(batches(first)), start=first):
        # Dropout and the like: the same draws for the same step, whatever came before it.
        torch.manual_seed(hash((job.config.seed, step, worker.rank)) % 2**63)
        images, labels = (_to_device(part, device) for part in batch)
        for losses in _gradients(parallel, images, labels, config, state.scaler):
            meter.add(losses)
        _update(state, config, step)

        done = step + 1
        is_kept = done % config.checkpoint_every == 0 or done == config.steps
        is_logged = done % config.log_every == 0 or is_kept  # no checkpoint of a loss that nobody looked at
        figures = meter.take(worker) if is_logged else {}
        now = time.perf_counter()
        if step > first:  # the first step of a process also waits for data and kernels to get ready
            clock.seconds += now - last_time
            clock.wait_seconds += waited
            clock.images += config.batch_size
        last_time = now
        if is_logged:
            _check_finite(figures, done)
            if worker.rank == 0:
                record = {"step": done, **figures, "lr": state.optimizer.param_groups[0]["lr"], **clock.figures()}
                if config.min_workers is not None:
                    record["workers"] = worker.world_size
                put(record)
                state.records.append(record)
        if is_kept:
            checkpoint(done)
            state.records.clear()
            last_time = time.perf_counter()


def _gradients(
    model: nn.Module, images: Tensor, labels: Tensor, config: TrainConfig, scaler: torch.amp.GradScaler
) -> Iterator[Losses]:
    """Add up the gradients of a step's images, part after part, and yield the losses of each."""
    parts = list(zip(images.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True))
    for i, part in enumerate(parts, start=1):
        # Workers exchange gradients once a step, with the last part.
        is_waiting = i < len(parts) and isinstance(model, nn.parallel.DistributedDataParallel)
        with model.no_sync() if is_waiting else contextlib.nullcontext():  # type: ignore[operator]
            with autocast(config, images.device):
                losses: Losses = model(*part)
            scaler.scale(losses.total / len(parts)).backward()  # type: ignore[no-untyped-call, unused-ignore]
        yield losses


def _update(state: TrainingState, config: TrainConfig, step: int) -> None:
    """Take one optimiser step with the gradients there are."""
    for group in state.optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_factor(step, config)
    if config.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model.segmentor)


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch and the seconds that it was waited for."""
    source = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(source, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array.copy())  # Ray's own memory is read-only
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _parallel(model: TrainedModel, worker: Worker) -> nn.Module:
    if worker.world_size == 1:
        return model
    synchronize_batch_norm(model.segmentor, worker.device.type)
    keep_out_of_ddp(model)
    on_gpu = [worker.device] if worker.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=on_gpu)


def _check_finite(figures: dict[str, float], step: int) -> None:
    if not np.isfinite(figures["loss"]):
        parts = ", ".join(f"{name} {figures[name]:.3g}" for name in ("cross_entropy", "contrast") if name in figures)
        raise DivergedError(
            f"The loss is not a finite number at step {step} ({parts}). Lower train.lr, set train.clip_norm=1, or set"
            " train.precision=float32; --resume goes on from the last checkpoint."
        )


def _save(folder: Path, job: Job, state: TrainingState, step: int) -> None:
    stated = normalization(job.config.model)
    meta = Meta(job.config, job.shards.classes, job.shards.palette, stated.mean, stated.std, step)
    save_checkpoint(folder, state.inference_model, meta, state.training_dict())


def _restore(folder: Path, job: Job, state: TrainingState) -> int:
    """Go on from a checkpoint; return its step."""
    try:
        meta = load_meta(folder)
        for name, stored, wanted in (
            ("the classes", meta.classes, job.shards.classes),
            ("train.optimizer", meta.config.train.optimizer, job.config.train.optimizer),
        ):
            if stored != wanted:
                raise CheckpointError(f"{folder} is of a run with {name} {stored}, and this one has {wanted}.")
        state.load(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error} To begin anew, run without --resume.") from error
    return meta.step
