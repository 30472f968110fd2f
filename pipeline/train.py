"""Station 3: the training loop. `pipeline.fit` runs it under Ray Train.

The loop is one function, `train`. Contrast is on or off by `contrast.weight`; there is no second loop. All
randomness of a step is a function of the seed, the step and the worker's rank, so there are no random states to store:
a checkpoint holds weights, optimiser and contrast memory, and a resumed run goes on bit for bit.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pipeline.checkpoint import Meta, load_meta, load_training, load_weights, save_checkpoint
from pipeline.ingest import Batch, Plan
from pipeline.progress import Record
from pipeline.shards import Shards
from pixcon_core.config import RunConfig, TrainConfig
from pixcon_core.contrast import PixelContrast, keep_out_of_ddp
from pixcon_core.contrast.output import ContrastStats
from pixcon_core.losses import balanced_class_weights, segmentation_loss
from pixcon_core.models import Segmentor, build_segmentor, normalization

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
        )


class Losses(NamedTuple):
    """Losses of one step on one worker."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    """With the auxiliary one, where there is one."""
    contrast: Float[Tensor, ""]
    """Before its weight."""
    stats: ContrastStats | None


class TrainedModel(nn.Module):
    """Segmentor and contrast as one module: one forward pass for DDP, one state to save."""

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]
    class_weights: Float[Tensor, " class"] | None

    def __init__(self, config: RunConfig, class_pixels: tuple[int, ...]) -> None:
        super().__init__()
        num_classes, contrast = len(class_pixels), config.contrast
        self.weight, self.aux_weight = contrast.weight, config.model.aux_weight
        self.segmentor: Segmentor = build_segmentor(config.model, num_classes, projection=contrast.weight > 0)
        self.contrast = build_contrast(config, num_classes) if contrast.weight > 0 else None
        stated = normalization(config.model)
        self.register_buffer("mean", 255 * torch.tensor(stated.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(stated.std).view(3, 1, 1), persistent=False)
        balanced = config.train.class_weights == "balanced"
        weights = balanced_class_weights(class_pixels) if balanced else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, images: UInt8[Tensor, "batch height width 3"], labels: UInt8[Tensor, "batch height width"]
    ) -> Losses:
        """Return the losses of a batch, and store its keys in the memory."""
        pixels = (images.permute(0, 3, 1, 2) - self.mean) / self.std  # (B, H, W, 3) -> (B, 3, H, W)
        output = self.segmentor(pixels, with_embeddings=self.contrast is not None)
        labels = labels.long()
        cross_entropy = segmentation_loss(output, labels, class_weights=self.class_weights, aux_weight=self.aux_weight)
        if self.contrast is None:
            return Losses(cross_entropy, cross_entropy, torch.zeros_like(cross_entropy), None)
        contrast = self.contrast(output.embeddings, labels, output.logits.detach())
        return Losses(cross_entropy + self.weight * contrast.loss, cross_entropy, contrast.loss, contrast.stats)


def build_contrast(config: RunConfig, num_classes: int) -> PixelContrast:
    """Return the contrast term of a configuration."""
    settings = {f.name: getattr(config.contrast, f.name) for f in dataclasses.fields(config.contrast)}
    del settings["weight"]
    settings["warmup_steps"] = config.warmup_steps
    return PixelContrast(num_classes, config.model.projection_dim, **settings, seed=config.seed)


def parameter_groups(model: TrainedModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Split parameters by learning rate (backbone, head) and weight decay (not on biases and norms).

    Each group's `base_lr` is the rate that the schedule scales.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = name.startswith("segmentor.backbone."), parameter.ndim > 1
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr,
            "base_lr": config.lr * (1.0 if is_backbone else config.head_lr_factor),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]


def build_optimizer(model: TrainedModel, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the groups of `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def lr_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, and (1 - step/steps)^0.9 as in the paper."""
    rise = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    return float(rise * (1 - step / config.steps) ** 0.9)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the autocast context that `train.precision` asks for."""
    wanted = config.precision == "bfloat16" or (config.precision == "auto" and computes_in_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware has bfloat16 arithmetic that pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())


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


@dataclass
class Clock:
    """Where the time of the loop went. Part of the checkpoint, so that a resumed run states the whole."""

    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Of these, waiting for data."""
    images: int = 0

    def figures(self) -> dict[str, float]:
        """Return rate and share of waiting."""
        seconds = max(self.seconds, 1e-9)
        return {"images_per_second": self.images / seconds, "data_wait": self.wait_seconds / seconds}


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
    """
    config, device = job.config.train, worker.device
    torch.manual_seed(job.config.seed)
    model = TrainedModel(job.config, job.shards.splits["train"].class_pixels).to(device)
    if config.channels_last:
        model.segmentor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    optimizer = build_optimizer(model, config)
    first, clock = 0, Clock()
    if start is not None:
        first, clock = _restore(start, model, optimizer)
    parallel = _parallel(model, worker)
    meter = Meter()

    def checkpoint(step: int) -> None:
        with tempfile.TemporaryDirectory(prefix="pixcon-") as folder:
            if worker.rank == 0:
                _save(Path(folder), job, model, optimizer, step, clock)
            keep(Path(folder))

    model.train()
    last_time = time.perf_counter()
    for step, (batch, waited) in enumerate(_timed(batches(first)), start=first):
        # Dropout and the like: the same draws for the same step, whatever came before it.
        torch.manual_seed(hash((job.config.seed, step, worker.rank)) % 2**63)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(step, config)
        images, labels = (_to_device(part, device) for part in batch)
        with autocast(config, device):
            losses: Losses = parallel(images, labels)
        losses.total.backward()  # type: ignore[no-untyped-call, unused-ignore]
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.add(losses)

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
                put({"step": done, **figures, "lr": optimizer.param_groups[0]["lr"], **clock.figures()})
        if is_kept:
            checkpoint(done)
            last_time = time.perf_counter()


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
    if worker.device.type == "cuda":
        model.segmentor = nn.SyncBatchNorm.convert_sync_batchnorm(model.segmentor)
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


def _save(
    folder: Path, job: Job, model: TrainedModel, optimizer: torch.optim.Optimizer, step: int, clock: Clock
) -> None:
    stated = normalization(job.config.model)
    meta = Meta(job.config, job.shards.classes, job.shards.palette, stated.mean, stated.std, step)
    training = {
        "optimizer": optimizer.state_dict(),
        "contrast": model.contrast.state_dict() if model.contrast is not None else None,
        "clock": dataclasses.asdict(clock),
    }
    save_checkpoint(folder, model.segmentor, meta, training)


def _restore(folder: Path, model: TrainedModel, optimizer: torch.optim.Optimizer) -> tuple[int, Clock]:
    """Load a checkpoint into model and optimiser; return its step and clock."""
    load_weights(folder, model.segmentor)
    training = load_training(folder)
    optimizer.load_state_dict(training["optimizer"])
    if model.contrast is not None:
        model.contrast.load_state_dict(training["contrast"])
    return load_meta(folder).step, Clock(**training["clock"])
