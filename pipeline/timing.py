"""How long training would take: on this machine, measured on a few real steps; on known GPUs, assumed.

The steps are of the run's own network, with fresh weights, on small crops of noise. What they take for each operation
is taken for the run's crops too.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pipeline.trace import Operations, count_operations
from pipeline.train import TrainedModel, autocast, build_contrast, build_optimizer
from pixcon_core.config import RunConfig
from pixcon_core.models import Segmentor, check_model

SIDE = 128
IMAGES = 2
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

    size: tuple[int, int]
    """Of the crops on which the network was timed."""
    network: float
    """Forward and backward pass of `IMAGES` such crops."""
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
    accumulate: int,
) -> Time:
    """Return how long the steps of a run would take.

    Args:
        config: Of the run.
        num_classes: Of the data set.
        model: From `pipeline.trace.on_meta`, with a projection head.
        operations: For one image of the run's crop.
        device: Where the run would compute: cuda or cpu.
        worker_images: Images of one step on one worker.
        accumulate: Passes in one step.
    """
    own = torch.device(device if torch.cuda.is_available() else "cpu")
    measured = time_step(config, num_classes, own)
    small = count_operations(model, measured.size, with_contrast=config.contrast.weight > 0)
    rate = IMAGES * small.training / measured.network
    work = worker_images * operations.training
    contrasting = max(0, config.train.steps - config.warmup_steps) / config.train.steps
    step = work / rate + measured.optimizer + contrasting * accumulate * measured.contrast
    gpus = {}
    for card, peaks in TERAFLOPS.items():
        precision = _precision_on(config, peaks)
        if precision in peaks:
            gpus[card, precision] = config.train.steps * 2 * work / (GPU_SHARE * 1e12 * peaks[precision])
    return Time(config.train.steps * step, own.type, measured, rate, gpus)


def _precision_on(config: RunConfig, peaks: dict[str, float]) -> str:
    if config.train.precision != "auto":
        return config.train.precision
    return "bfloat16" if "bfloat16" in peaks else "float32"


def time_step(config: RunConfig, num_classes: int, device: torch.device) -> StepTimes:
    """Time real steps on a device, with fresh weights and images of noise."""
    model_config = dataclasses.replace(config.model, pretrained="false")
    size = _small_size(config)
    # In its warm-up the contrast term only gives the embeddings a gradient; its own time is taken apart.
    warming = dataclasses.replace(config.contrast, warmup_steps=10**9, memory_size=1)
    small = dataclasses.replace(
        config, model=model_config, contrast=warming, ingest=dataclasses.replace(config.ingest, crop=size)
    )
    model = TrainedModel(small, (1,) * num_classes).to(device).train()
    if config.train.channels_last:
        model.segmentor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    optimizer = build_optimizer(model, config.train)
    images = torch.randint(256, (IMAGES, *size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(num_classes, (IMAGES, *size), dtype=torch.uint8, device=device)

    def forward_backward() -> None:
        with autocast(config.train, device):
            losses = model(images, labels)
        losses.total.backward()

    def update() -> None:
        optimizer.step()

    network = _median_seconds(forward_backward, device, after=lambda: optimizer.zero_grad(set_to_none=True))
    forward_backward()
    updating = _median_seconds(update, device)
    contrast = _time_contrast(config, num_classes, device) if config.contrast.weight > 0 else 0.0
    return StepTimes(size, network, updating, contrast)


def _small_size(config: RunConfig) -> tuple[int, int]:
    """Return the crop to time: a small one, unless the backbone takes no other size than the run's."""
    height, width = (min(side, SIDE) for side in config.ingest.crop)
    try:
        check_model(config.model, (height, width))
    except ValueError:
        return config.ingest.crop
    return height, width


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
    while side * side * IMAGES < 2 * settings.max_anchors and side < SIDE:
        side *= 2
    embeddings = torch.randn(IMAGES, dim, side, side, device=device, requires_grad=True)
    # Bands: all classes are in each image, so that every anchor has positives.
    labels = (torch.arange(side * side, device=device) * num_classes // (side * side)).view(1, side, side)
    labels = labels.expand(IMAGES, -1, -1)
    wrong = torch.randint(num_classes, labels.shape, device=device)

    def forward_backward() -> None:
        contrast(F.normalize(embeddings, dim=1), labels, wrong).loss.backward()

    return _median_seconds(forward_backward, device)


def _median_seconds(work: Callable[[], None], device: torch.device, after: Callable[[], None] | None = None) -> float:
    """Return the median time of some rounds; the first one, in which kernels get ready, does not count."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < ROUNDS + 1 and (len(times) < 2 or time.perf_counter() - begin < SECONDS):
        start = _now(device)
        work()
        times.append(_now(device) - start)
        if after is not None:
            after()
    return statistics.median(times[1:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
