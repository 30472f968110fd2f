"""How long training would take: on this machine, measured on a few real steps; on known GPUs, assumed.

The steps are of the run's own network, with fresh weights, on noise. Where a step of the run is long, its crops are
made smaller and fewer; what such a step takes for each operation is taken for the run's too.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pipeline.cores import num_cores
from pipeline.estimating.trace import Operations, count_operations
from pipeline.training.model import TrainedModel, build_contrast
from pipeline.training.optimization import autocast, build_optimizer
from pixcon_core.config import RunConfig
from pixcon_core.models import Segmentor, check_model

AFFORDABLE = {"cpu": 4 * 10**10, "cuda": 10**14}
"""Multiply-adds of a measured step, at most: a second or so. On a GPU less would time the launching of kernels."""
SMALLEST = 64
"""Side of the smallest crop that is timed; smaller ones tell of overhead alone."""
ROUNDS = 5
SECONDS = 3.0
"""No further round begins after so long."""
BANK_BYTES = 2**26
"""A larger memory is timed as one of this size: a step looks at a sample of it, whose size is the same."""


TERAFLOPS = {
    "A100": {"bfloat16": 312.0, "float16": 312.0, "float32": 156.0},
    "H100": {"bfloat16": 989.0, "float16": 989.0, "float32": 494.0},
    "V100": {"float16": 125.0, "float32": 15.7},
}
"""Published peaks of the SXM cards without sparsity; a multiply-add counts twice. A100's and H100's float32 is TF32."""
GPU_SHARE = 0.3
"""Share of the peak that training is assumed to reach."""


class StepTimes(NamedTuple):
    """Seconds of the parts of a step, measured."""

    images: int
    size: tuple[int, int]
    """Of these images."""
    network: float
    """Forward and backward pass of them."""
    optimizer: float
    """One update of all weights; it is the same for any crop."""
    contrast: float
    """Forward and backward pass of the contrast term, with all its anchors and a full memory."""


class Time(NamedTuple):
    """Seconds of all training steps, and where they come from."""

    own: float
    """On this machine."""
    own_device: str
    measured: StepTimes
    rate: float
    """Multiply-adds of forward and backward pass for each second, measured."""
    gpus: dict[tuple[str, str], float]
    """By card and precision, assumed."""


def estimate_time(
    config: RunConfig,
    num_classes: int,
    model: Segmentor,
    operations: Operations,
    device: str,
    worker_images: int,
) -> Time:
    """Return how long the steps of a run would take.

    Args:
        config: Of the run.
        num_classes: Of the data set.
        model: From `pipeline.estimating.trace.on_meta`, with a projection head.
        operations: For one image of the run's crop.
        device: Where the run would compute: cuda or cpu.
        worker_images: Images of one step on one worker.
    """
    own = torch.device(device if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(min(torch.get_num_threads(), num_cores()))
    images, size = _small_step(config, operations, worker_images, AFFORDABLE[own.type])
    try:
        measured = time_step(config, num_classes, own, images, size)
    except torch.cuda.OutOfMemoryError:  # a run for larger GPUs may be planned on this one
        images, size = _small_step(config, operations, worker_images, AFFORDABLE["cpu"])
        measured = time_step(config, num_classes, own, images, size)
    small = count_operations(model, size, with_contrast=config.contrast.weight > 0)
    rate = images * small.training / measured.network
    work = worker_images * operations.training
    contrasting = max(0, config.train.steps - config.warmup_steps) / config.train.steps
    step = work / rate + measured.optimizer + contrasting * config.train.accumulate * measured.contrast
    gpus = {}
    for card, peaks in TERAFLOPS.items():
        precision = _precision_on(config, peaks)
        if precision in peaks:
            gpus[card, precision] = config.train.steps * 2 * work / (GPU_SHARE * 1e12 * peaks[precision])
    return Time(config.train.steps * step, own.type, measured, rate, gpus)


def _precision_on(config: RunConfig, peaks: dict[str, float]) -> str:
    if config.train.precision != "auto":
        return config.train.precision
    return "bfloat16" if "bfloat16" in peaks else "float16"


def time_step(
    config: RunConfig, num_classes: int, device: torch.device, images: int, size: tuple[int, int]
) -> StepTimes:
    """Time real steps on a device, with fresh weights, on so many images of noise of this height and width."""
    model_config = dataclasses.replace(config.model, pretrained="false")
    # In its warm-up the contrast term only gives the embeddings a gradient; its own time is taken apart.
    warming = dataclasses.replace(config.contrast, warmup_steps=10**9, memory_size=1)
    small = dataclasses.replace(
        config, model=model_config, contrast=warming, ingest=dataclasses.replace(config.ingest, crop=size)
    )
    model = TrainedModel(small, (1,) * num_classes).to(device).train()
    if config.train.channels_last:
        model.segmentor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    optimizer = build_optimizer(model, config.train)
    noise = torch.randint(256, (images, *size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(num_classes, (images, *size), dtype=torch.uint8, device=device)

    def forward_backward() -> None:
        with autocast(config.train, device):
            losses = model(noise, labels)
        losses.total.backward()

    def update() -> None:
        optimizer.step()

    network = _best_seconds(forward_backward, device, after=lambda: optimizer.zero_grad(set_to_none=True))
    forward_backward()
    updating = _best_seconds(update, device)
    contrast = _time_contrast(config, num_classes, device) if config.contrast.weight > 0 else 0.0
    return StepTimes(images, size, network, updating, contrast)


def _small_step(
    config: RunConfig, operations: Operations, worker_images: int, affordable: int
) -> tuple[int, tuple[int, int]]:
    """Return how many images of which size to time: the run's own if that is affordable, else smaller and fewer."""
    (height, width), stride = config.ingest.crop, config.model.output_stride
    whole, per_pixel = (height, width), operations.training / (height * width)
    fewest = min(2, worker_images)
    while fewest * per_pixel * height * width > affordable and min(height, width) >= 2 * SMALLEST:
        height, width = (side // 2 // stride * stride for side in (height, width))
    try:
        check_model(config.model, (height, width))
    except ValueError:  # a backbone that takes no other size than the run's
        height, width = whole
    return min(worker_images, max(fewest, int(affordable / (per_pixel * height * width)))), (height, width)


def _time_contrast(config: RunConfig, num_classes: int, device: torch.device) -> float:
    """Time the contrast term on random embeddings with pixels enough for all its anchors."""
    settings, dim = config.contrast, config.model.projection_dim
    affordable = max(1, BANK_BYTES // (num_classes * 2 * dim * 4))
    capped = dataclasses.replace(settings, warmup_steps=0, memory_size=min(settings.memory_size, affordable))
    contrast = build_contrast(dataclasses.replace(config, contrast=capped), num_classes).to(device).train()
    if contrast.memory is not None:
        for keys in contrast.memory.keys:
            keys.copy_(F.normalize(torch.randn(keys.shape, device=device), dim=-1))
        contrast.memory.written.fill_(capped.memory_size)
    side = 8
    while 2 * side * side < 2 * settings.max_anchors and side < 128:
        side *= 2
    embeddings = torch.randn(2, dim, side, side, device=device, requires_grad=True)
    # Bands: all classes are in each image, so that every anchor has positives.
    labels = (torch.arange(side * side, device=device) * num_classes // (side * side)).view(1, side, side)
    labels = labels.expand(2, -1, -1)
    wrong = torch.randint(num_classes, labels.shape, device=device)

    def forward_backward() -> None:
        contrast(F.normalize(embeddings, dim=1), labels, wrong).loss.backward()

    return _best_seconds(forward_backward, device)


def _best_seconds(work: Callable[[], None], device: torch.device, after: Callable[[], None] | None = None) -> float:
    """Return the shortest time of some rounds, for other programs only add; the first makes kernels ready."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < ROUNDS + 1 and (len(times) < 2 or time.perf_counter() - begin < SECONDS):
        start = _now(device)
        work()
        times.append(_now(device) - start)
        if after is not None:
            after()
    return min(times[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
