"""What a run would take, before anything starts: data, parameters, operations, memory and time.

Starts no Ray, writes nothing, and needs neither data nor network. `trace` finds operations and activations, `memory`
adds up what a worker holds, `timing` measures this machine.
"""

import textwrap
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline.data.checks import check_classes, check_counts, check_settings, find_prepared
from pipeline.data.sources import NEEDED_SPLITS, dataset_spec, find_all_pairs
from pipeline.estimating.memory import Memory, worker_memory
from pipeline.estimating.timing import GPU_SHARE, Time, estimate_time
from pipeline.estimating.trace import Operations, count_operations, on_meta, trace_pass
from pipeline.options import Request
from pipeline.progress import duration
from pipeline.training.optimization import autocast_type
from pixcon_core.config import RunConfig
from pixcon_core.data import DatasetSpec, has_miniature

PUBLISHED = {
    "cityscapes": (2975, 500),
    "pascal-context": (4998, 5105),
    "pascal-context-60": (4998, 5105),
    "coco-stuff": (118287, 5000),
    "coco-stuff-10k": (9000, 1000),
    "camvid": (367, 101),
}
"""Images of train and val, as the data sets' authors give them."""
MINIATURE = (300, 80)
COLUMNS = 80
LABEL = 22


class Images(NamedTuple):
    """How many images there are, and how that is known."""

    train: int
    val: int
    source: str


class Parameters(NamedTuple):
    """Weights that are learned, by part."""

    backbone: int
    head: int
    """The auxiliary classifier included."""
    projection: int
    """In training only; 0 without contrast."""


class Estimate(NamedTuple):
    """All that the table shows."""

    preset: str
    config: RunConfig
    classes: int
    images: Images
    parameters: Parameters
    operations: Operations
    worker_images: int
    """Images of one step on one worker."""
    pass_images: int
    """Of these, at once."""
    device: str
    precision: str
    memory: Memory
    on_gpu: tuple[int, str] | None
    """Peak and precision on a GPU, where `memory` is on the CPU."""
    checkpoint: int
    """Bytes on disk."""
    time: Time


def estimate(request: Request) -> Estimate:
    """Return what the run that the command line asks for would take.

    Args:
        request: What `pipeline.options.parse` returned.

    Raises:
        ValueError: If that run could not begin: the same errors as its own.
    """
    config = request.config
    spec = dataset_spec(config.dataset)
    check_settings(config, spec)
    images = count_images(spec, config, request.out)
    check_counts(config, images.train)
    num_classes, with_contrast = len(spec.classes), config.contrast.weight > 0
    projecting = on_meta(config.model, num_classes, projection=True)
    model = projecting if with_contrast else on_meta(config.model, num_classes, projection=False)
    operations = count_operations(projecting, config.ingest.crop, with_contrast=with_contrast)
    device, precision = device_and_precision(config)
    worker_images = -(-config.train.batch_size // config.train.num_workers)
    pass_images = worker_images // config.train.accumulate
    model.train()

    def memory_on(device: str, precision: str) -> Memory:
        half, aux_weight = precision != "float32", config.model.aux_weight
        traced = trace_pass(model, num_classes, config.ingest.crop, pass_images, half=half, aux_weight=aux_weight)
        return worker_memory(config, num_classes, model, traced, torch.device(device))

    memory = memory_on(device, precision)
    elsewhere = None
    if device == "cpu":
        gpu_precision = "bfloat16" if config.train.precision == "auto" else config.train.precision
        elsewhere = memory_on("cuda", gpu_precision).peak, gpu_precision
    return Estimate(
        preset=request.preset,
        config=config,
        classes=num_classes,
        images=images,
        parameters=Parameters(*map(_num_parameters, (model.backbone, model.head, model.projection))),
        operations=operations,
        worker_images=worker_images,
        pass_images=pass_images,
        device=device,
        precision=precision,
        memory=memory,
        on_gpu=elsewhere,
        checkpoint=memory.weights + memory.optimizer + memory.bank,
        time=estimate_time(config, num_classes, projecting, operations, device, worker_images),
    )


def count_images(spec: DatasetSpec, config: RunConfig, out: Path) -> Images:
    """Return the sizes of the splits: counted where the data are there, else as published.

    Args:
        spec: The data set.
        config: Its `data_root` may be the data set's folder, or one of shards.
        out: Where miniature data are made.

    Raises:
        ValueError: If the data are named and not there, are not those of that name, or show fewer than two classes.
    """
    prepared = find_prepared(spec, config)
    if prepared is not None:
        check_classes(prepared)
        train, val = (prepared.splits[split].num_images for split in NEEDED_SPLITS)
        return Images(train, val, f"counted in {config.data_root}")
    root = Path(config.data_root) if config.data_root is not None else None
    if spec.mini is not None:
        root = root or out / "data" / spec.name
        if not has_miniature(spec, root):
            return Images(*MINIATURE, "drawn when the run starts")
    elif root is None and Path(config.dataset).suffix:
        root = Path(config.dataset).parent
    if root is None:
        return Images(*PUBLISHED[spec.name], "published; data_root is not given")
    pairs = find_all_pairs(spec, root)
    return Images(len(pairs["train"]), len(pairs["val"]), f"counted in {root}")


def device_and_precision(config: RunConfig) -> tuple[str, str]:
    """Return where a worker would compute, and in which type; a GPU that is not here is taken to have bfloat16."""
    here, wanted = torch.cuda.is_available(), config.train.device
    device = "cuda" if wanted == "cuda" or (wanted == "auto" and here) else "cpu"
    if config.train.precision != "auto":
        return device, config.train.precision
    if device == "cuda" and not here:
        return device, "bfloat16"
    chosen = autocast_type(config.train, torch.device(device))
    return device, "float32" if chosen is None else str(chosen).removeprefix("torch.")


def _num_parameters(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def format_estimate(found: Estimate) -> str:
    """Return the table and what it is based on, in lines of at most 80 columns."""
    rows = [*_what_rows(found), None, *_size_rows(found), None, *_memory_rows(found), None, *_time_rows(found)]
    lines = ["-" * COLUMNS if row is None else _row(*row) for row in rows]
    return "\n".join([*lines, "-" * COLUMNS, *(_wrapped("- ", line) for line in _basis(found))])


def _what_rows(found: Estimate) -> list[tuple[str, str]]:
    config, images = found.config, found.images
    steps, seen = config.train.steps, config.train.steps * config.train.batch_size
    contrast = f"{config.warmup_steps} before contrast begins" if config.contrast.weight > 0 else "no contrast"
    passes = f" in {found.worker_images // found.pass_images} parts" if found.pass_images < found.worker_images else ""
    return [
        ("preset", found.preset),
        ("data set", f"{config.dataset}, {found.classes} classes"),
        ("images", f"{images.train} train, {images.val} val ({images.source})"),
        ("network", f"{config.model.backbone}, head {config.model.head}, crops of {_size(config.ingest.crop)}"),
        ("steps", f"{steps}, {contrast}"),
        ("images seen", f"{seen}, that is {seen / images.train:.1f} epochs"),
        ("images per step", f"{config.train.batch_size}; {found.worker_images} on each of {_workers(config)}{passes}"),
    ]


def _size_rows(found: Estimate) -> list[tuple[str, str]]:
    parts, operations = found.parameters, found.operations
    return [
        ("parameters", f"{_count(parts.backbone + parts.head)} at inference"),
        ("  backbone", _count(parts.backbone)),
        ("  head", _count(parts.head)),
        ("  projection head", f"{_count(parts.projection)}, in training only"),
        ("multiply-adds", f"{_count(operations.inference)} for one crop, at inference"),
        ("  with projection", _count(operations.with_projection)),
        ("  of training", f"{_count(operations.training)} for one crop, forward and backward"),
        ("checkpoint", _bytes(found.checkpoint)),
    ]


def _memory_rows(found: Estimate) -> list[tuple[str, str]]:
    memory = found.memory
    on_gpu = []
    if found.on_gpu is not None:
        on_gpu = [("  on a GPU", f"{_bytes(found.on_gpu[0])} at the peak, in {found.on_gpu[1]}")]
    return [
        ("memory of a worker", f"{_bytes(memory.peak)} at the peak, on {found.device} in {found.precision}"),
        ("  weights", _bytes(memory.weights)),
        ("  gradients", _bytes(memory.gradients)),
        ("  optimiser", f"{_bytes(memory.optimizer)}, {found.config.train.optimizer}"),
        ("  activations", f"{_bytes(memory.activations)}, kept for the backward pass of {found.pass_images} images"),
        ("  stored keys", _bytes(memory.bank)),
        ("  contrast's work", _bytes(memory.contrast)),
        ("  passing", f"{_bytes(memory.passing)} at the peak: logits, gradients so far, or contrast's work"),
        *on_gpu,
    ]


def _time_rows(found: Estimate) -> list[tuple[str, str]]:
    time = found.time
    per_step = time.own / found.config.train.steps
    own = f"{_rough(time.own)} on this machine's {time.own_device}, {per_step:.3g} s a step (measured speed)"
    gpus = [
        (f"  on {card}", f"{_rough(seconds)} in {precision} (assumed, not measured)")
        for (card, precision), seconds in time.gpus.items()
    ]
    return [("time of training", own), *gpus]


def _basis(found: Estimate) -> list[str]:
    config, time = found.config, found.time
    crops = f"{time.measured.images} crops of {_size(time.measured.size)}"
    return [
        "Multiply-adds are those of convolutions and matrix products. Training takes 3 times its forward pass.",
        "Memory: one forward and backward pass is followed on tensors without content, at a worker's batch and"
        " precision. GB is 10^9 bytes. Not in it: the process itself, the reading of images, CUDA's context and"
        " workspaces, and what the allocator does not give back: training on CPUs measured 1.2 to 1.4 times the"
        " peak with it, 1.01 to 1.07 times without.",
        "Contrast's work is a formula: anchors x (anchors of all workers + stored keys looked at) similarities, in"
        f" blocks, beside the stored keys of classes x kinds x {config.contrast.memory_size} x"
        f" {config.model.projection_dim} x 4 bytes.",
        f"This machine: {time.rate / 1e9:.3g} G multiply-adds/s, measured just now on training steps of this network"
        f" with {crops}; to it come {1e3 * time.measured.optimizer:.0f} ms a step for the update and"
        f" {1e3 * time.measured.contrast:.0f} ms for contrast, measured too. The fastest of some rounds"
        " counts; other programs slow a run down.",
        f"The GPUs: the published peak of the SXM card, of which {100 * GPU_SHARE:.0f} % are assumed to be reached,"
        " which small networks and crops are far from; contrast is left out.",
        f"{_workers(config)}: assumed to be as fast each as one alone. Reading of images, checkpoints and evaluation"
        " are not counted.",
    ]


def _row(label: str, value: str) -> str:
    return _wrapped(f"{label:<{LABEL}}", value)


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(text, COLUMNS, initial_indent=start, subsequent_indent=" " * len(start))


def _workers(config: RunConfig) -> str:
    return "1 worker" if config.train.num_workers == 1 else f"{config.train.num_workers} workers"


def _rough(seconds: float) -> str:
    if seconds < 60:
        return "under a minute"
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def _size(crop: tuple[int, int]) -> str:
    return f"{crop[0]}x{crop[1]}"


def _count(number: int) -> str:
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
