"""The whole description of one run: typed, frozen, checked where it is made.

Every field is a command-line flag (`--contrast.temperature 0.07`), a name in search spaces, in error messages
and in reports; by these names `pixcon_core.override` changes them. Checks that need the data set or the
installed packages are in `pipeline.data.checks`, not here.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

from pixcon_core.override import fits, words_of

Keys = Literal["batch", "pixel", "region", "pixel+region"]
KeySampling = Literal["random", "hardest", "semi_hard"]
LabelMode = Literal["nearest", "majority"]
Device = Literal["auto", "cpu", "cuda"]


def _require(holds: bool, name: str, rule: str, value: object, way_out: str = "") -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, but got {value}." + (f" {way_out}" if way_out else ""))


def check_fields(section: Any, name: str) -> None:
    """Refuse words that are none of a field's, and inf and nan, which comparisons let through or explain badly."""
    hints = get_type_hints(type(section))
    for one in fields(section):
        value, hint = getattr(section, one.name), hints[one.name]
        words = words_of(hint)
        _require(
            not words or isinstance(value, tuple) or fits(value, hint),
            f"{name}.{one.name}",
            f"one of {', '.join(map(str, words))}",
            repr(value),
        )
        numbers = value if isinstance(value, tuple) else (value,)
        _require(
            all(math.isfinite(number) for number in numbers if isinstance(number, float)),
            f"{name}.{one.name}",
            "finite",
            value,
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The segmentor: a timm backbone, a head, and in training a projection head."""

    backbone: str = "resnet10t"
    """A timm model that has `features_only` and takes images of any size, by name."""

    pretrained: str = "auto"
    """false: fresh weights. true: ImageNet weights, from pixcon[lite] where it has them, else timm's hub.
    auto: from pixcon[lite] where installed, else fresh. Else: path of a .safetensors file or of one of torch.save."""

    head: Literal["fcn", "deeplabv3", "hrnet", "ocr"] = "fcn"
    """fcn: two feature levels, small. The others as in the paper."""

    output_stride: Literal[8, 16, 32] = 16
    """Input pixels for each pixel of the backbone's last feature map."""

    head_channels: int = 128
    """Width of the head (paper: 512)."""

    aux_weight: float = 0.4
    """Factor of the auxiliary cross-entropy, for the heads that have one."""

    projection_dim: int = 256
    """D, the length of an embedding."""

    def __post_init__(self) -> None:
        check_fields(self, "model")
        _require(self.head_channels >= 8, "model.head_channels", ">= 8", self.head_channels)
        _require(self.aux_weight >= 0, "model.aux_weight", ">= 0", self.aux_weight)
        _require(self.projection_dim >= 2, "model.projection_dim", ">= 2", self.projection_dim)


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """The pixel-contrast term. Defaults are the paper's."""

    weight: float = 0.1
    """Factor of the contrast loss beside cross-entropy; 0 turns the term off."""

    temperature: float = 0.1
    """Softmax temperature, no unit. Lower weighs hard negatives more."""

    learnable_temperature: bool = False
    """Train the temperature, starting from the given one."""

    keys: Keys = "pixel+region"
    """What anchors are compared with: the batch, or the batch and a memory of pixels, regions, or both."""

    key_sampling: KeySampling = "semi_hard"
    """How each anchor's keys are drawn; semi_hard is a random draw out of the hardest tenth."""

    num_positives: int | None = 1024
    """Positive keys for each anchor, at most; None takes all."""

    num_negatives: int | None = 2048
    """Negative keys for each anchor, at most; None takes all."""

    max_anchors: int = 1024
    """Anchor pixels of each worker in one step, at most; with train.accumulate, of each part."""

    max_views: int = 100
    """Anchor pixels of one class in one image, at most."""

    hard_anchor_ratio: float | None = 0.5
    """Share of anchors from wrongly predicted pixels; None draws them at random."""

    memory_size: int = 5000
    """Keys kept for each class and kind."""

    pixels_per_class: int = 10
    """Pixels of one class stored from one image, at most."""

    warmup_steps: int | None = None
    """Steps before contrast begins; None is an eighth of train.steps, at most 5000."""

    label_mode: LabelMode = "nearest"
    """How labels come to feature resolution."""

    def __post_init__(self) -> None:
        check_fields(self, "contrast")
        _require(self.weight >= 0, "contrast.weight", ">= 0", self.weight, "0 turns the term off.")
        _require(self.temperature > 0, "contrast.temperature", "> 0", self.temperature, "The paper uses 0.1.")
        for name in ("num_positives", "num_negatives"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"contrast.{name}", ">= 1, or None for all", value)
        off = "To turn the term off, set contrast.weight=0."
        _require(self.max_anchors >= 1, "contrast.max_anchors", ">= 1", self.max_anchors, off)
        _require(self.max_views >= 1, "contrast.max_views", ">= 1", self.max_views, off)
        ratio = self.hard_anchor_ratio
        _require(ratio is None or 0 <= ratio <= 1, "contrast.hard_anchor_ratio", "in [0, 1], or None", ratio)
        needs_memory = "To do without memory, set contrast.keys=batch."
        _require(self.memory_size >= 1, "contrast.memory_size", ">= 1", self.memory_size, needs_memory)
        _require(
            self.pixels_per_class >= 1,
            "contrast.pixels_per_class",
            ">= 1",
            self.pixels_per_class,
            needs_memory,
        )
        _require(
            self.warmup_steps is None or self.warmup_steps >= 0,
            "contrast.warmup_steps",
            ">= 0",
            self.warmup_steps,
        )


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """From Parquet shards to augmented batches."""

    crop: tuple[int, int] = (128, 128)
    """Height and width of training crops, in pixels."""

    short_side: int | None = None
    """Images are first brought to this shorter side, in pixels; None leaves them."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Random resize, smallest and largest factor (paper: 0.5 to 2)."""

    aspect: tuple[float, float] = (0.9, 1.1)
    """Random width-to-height change, smallest and largest (paper: 0.9 to 1.1)."""

    flip: float = 0.5
    """Chance of a left-right flip."""

    brightness: int = 10
    """Brightness shift, at most so many grey levels up or down (paper: 10)."""

    contrast: float = 0.0
    """Random contrast, by a factor of 1 - this to 1 + this (paper: 0)."""

    saturation: float = 0.0
    """Random saturation, by a factor of 1 - this to 1 + this (paper: 0)."""

    hue: float = 0.0
    """Random turn of the hue, at most this share of the whole circle either way (paper: 0)."""

    max_class_share: float = 0.75
    """A crop that one class fills beyond this share is drawn again, up to ten times; 1 takes any."""

    window: int = 64
    """Images read, decoded and shuffled together."""

    prefetch: int = 4
    """Batches made ahead of the training step."""

    cache: Literal["auto", "on", "off"] = "auto"
    """Keep decoded images in Ray's object store, for all epochs. auto: where they are seen more than once and fit."""

    cache_share: float = 0.5
    """Share of the object store that these may take."""

    max_bad_share: float = 0.01
    """Unreadable or mislabelled images are skipped and named; more than this share of a split, rounded up,
    ends the run. 0 ends it at the first."""

    def __post_init__(self) -> None:
        check_fields(self, "ingest")
        _require(min(self.crop) >= 32, "ingest.crop", "at least 32 32", self.crop)
        for name in ("scale", "aspect"):
            low, high = getattr(self, name)
            _require(0 < low <= high, f"ingest.{name}", "two factors, 0 < smallest <= largest", (low, high))
        _require(0 <= self.flip <= 1, "ingest.flip", "in [0, 1]", self.flip)
        _require(0 <= self.brightness <= 255, "ingest.brightness", "in [0, 255]", self.brightness)
        for name in ("contrast", "saturation"):
            _require(0 <= getattr(self, name) <= 1, f"ingest.{name}", "in [0, 1]", getattr(self, name))
        _require(0 <= self.hue <= 0.5, "ingest.hue", "in [0, 0.5]", self.hue)
        _require(self.short_side is None or self.short_side >= 32, "ingest.short_side", ">= 32", self.short_side)
        _require(0 < self.max_class_share <= 1, "ingest.max_class_share", "in (0, 1]", self.max_class_share)
        _require(self.window >= 1, "ingest.window", ">= 1", self.window)
        _require(self.prefetch >= 1, "ingest.prefetch", ">= 1", self.prefetch)
        _require(0 < self.cache_share <= 1, "ingest.cache_share", "in (0, 1]", self.cache_share)
        _require(0 <= self.max_bad_share < 1, "ingest.max_bad_share", "in [0, 1)", self.max_bad_share)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation."""

    steps: int = 400
    """Optimiser steps."""

    batch_size: int = 8
    """Images in one step, over all workers together."""

    accumulate: int = 1
    """Parts that each worker's images of a step go through the network in, one after the other, to save memory. Batch
    norm and contrast see one part at a time."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """sgd has momentum 0.9 (paper)."""

    lr: float = 1e-3
    """Learning rate at the start; falls to 0 as (1 - step/steps)^0.9 (paper)."""

    lr_warmup_steps: int = 0
    """Steps in which the learning rate rises from 0."""

    head_lr_factor: float = 1.0
    """Learning rate of everything but the backbone, as a multiple of lr."""

    weight_decay: float = 0.01
    """Weight decay; not on biases and norms."""

    clip_norm: float | None = None
    """Gradients are scaled down to this norm; None leaves them."""

    class_weights: Literal["none", "balanced"] | tuple[float, ...] = "balanced"
    """balanced: rare classes weigh more in cross-entropy, 1 / log(1.02 + share) with mean 1. Or one number a class."""

    ohem_threshold: float | None = None
    """Online hard example mining: pixels whose class has at least this probability are left out of the main
    cross-entropy; None takes all."""

    ohem_min_kept: int = 100_000
    """Pixels of a worker's batch that mining keeps at least, the hardest ones."""

    lovasz_weight: float = 0.0
    """Factor of the Lovász-softmax loss, a smooth stand-in for 1 - mIoU, beside cross-entropy; needs pixcon[lovasz]."""

    ema_decay: float | None = None
    """Evaluate and export an exponential moving average of the weights with this decay, 0.999 for one; None has
    none."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type; auto is bfloat16 where the hardware computes in it, else float16 on a GPU. With float16 the loss
    is scaled, and steps whose gradients overflow are left out."""

    compile: bool = False
    """torch.compile the segmentor: a minute or more at the start, faster steps after it."""

    channels_last: bool = True
    """Memory format of images and convolutions."""

    log_every: int = 10
    """Steps between two lines of metrics."""

    checkpoint_every: int = 100
    """Steps between two checkpoints; there is always one at the end."""

    num_workers: int = 1
    """Processes that train side by side, each on one GPU or on CPU."""

    min_workers: int | None = None
    """Where machines come and go, training goes on with fewer processes, down to so many, and takes in more as there is
    room for them, up to num_workers. None waits until there is room for all."""

    device: Device = "auto"
    """auto: a GPU for each worker where the cluster has any."""

    def __post_init__(self) -> None:
        check_fields(self, "train")
        _require(self.steps >= 1, "train.steps", ">= 1", self.steps)
        _require(self.batch_size >= 1, "train.batch_size", ">= 1", self.batch_size)
        _require(self.lr > 0, "train.lr", "> 0", self.lr)
        _require(self.lr_warmup_steps >= 0, "train.lr_warmup_steps", ">= 0", self.lr_warmup_steps)
        _require(self.head_lr_factor > 0, "train.head_lr_factor", "> 0", self.head_lr_factor)
        _require(self.weight_decay >= 0, "train.weight_decay", ">= 0", self.weight_decay)
        weights = self.class_weights
        _require(
            isinstance(weights, str) or (len(weights) > 0 and min(weights) >= 0 < max(weights)),
            "train.class_weights",
            "none, balanced, or one number >= 0 for each class",
            weights,
        )
        ohem, ema = self.ohem_threshold, self.ema_decay
        _require(ohem is None or 0 < ohem <= 1, "train.ohem_threshold", "in (0, 1], or None", ohem)
        _require(self.lovasz_weight >= 0, "train.lovasz_weight", ">= 0", self.lovasz_weight)
        _require(self.ohem_min_kept >= 1, "train.ohem_min_kept", ">= 1", self.ohem_min_kept)
        _require(ema is None or 0 < ema < 1, "train.ema_decay", "in (0, 1), or None", ema)
        _require(self.clip_norm is None or self.clip_norm > 0, "train.clip_norm", "> 0, or None", self.clip_norm)
        _require(self.log_every >= 1, "train.log_every", ">= 1", self.log_every)
        _require(self.checkpoint_every >= 1, "train.checkpoint_every", ">= 1", self.checkpoint_every)
        _require(self.num_workers >= 1, "train.num_workers", ">= 1", self.num_workers)
        _require(self.accumulate >= 1, "train.accumulate", ">= 1", self.accumulate)
        self._check_shares()

    def _check_shares(self) -> None:
        """Check how a batch is shared."""
        least, most = self.min_workers, self.num_workers
        if least is None:
            parts = f" times train.accumulate ({self.accumulate})" if self.accumulate > 1 else ""
            _require(
                self.batch_size % (most * self.accumulate) == 0,
                "train.batch_size",
                f"a multiple of train.num_workers ({most}){parts}",
                self.batch_size,
            )
            return
        _require(1 <= least <= most, "train.min_workers", f"in 1..train.num_workers ({most}), or None", least)
        _require(self.batch_size >= most, "train.batch_size", f">= train.num_workers ({most})", self.batch_size)
        _require(
            self.accumulate == 1,
            "train.accumulate",
            "1 with train.min_workers",
            self.accumulate,
            "Workers' parts of a batch are not all of one size then.",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How images are predicted: logits of all scales, and of mirrored images, are added up."""

    short_side: int | None = None
    """Images are first brought to this shorter side, in pixels; None leaves them. Scores are at the labels' size."""

    scales: tuple[float, ...] = (1.0,)
    """Factors by which images are resized; 1.0 alone is the single-scale protocol."""

    flip: bool = False
    """Predict mirrored images too."""

    window: tuple[int, int] | None = None
    """Height and width of windows, in pixels of the resized image, that are predicted one by one; mmsegmentation's
    slide mode and its crop_size. None predicts images whole, up to 2^23 pixels at the largest scale; larger ones by
    windows of 1024 1024."""

    stride: tuple[int, int] | None = None
    """Pixels from one window to the next, down and across; logits are averaged where windows overlap. None is two
    thirds of the window."""

    def __post_init__(self) -> None:
        check_fields(self, "evaluate")
        _require(self.short_side is None or self.short_side >= 32, "evaluate.short_side", ">= 32", self.short_side)
        _require(
            len(self.scales) > 0 and min(self.scales) > 0, "evaluate.scales", "one or more factors > 0", self.scales
        )
        window, stride = self.window, self.stride
        _require(window is None or min(window) >= 32, "evaluate.window", "at least 32 32, or None", window)
        if stride is not None:
            _require(window is not None, "evaluate.stride", "None without evaluate.window", stride)
            _require(
                all(1 <= step <= side for step, side in zip(stride, window or stride, strict=True)),
                "evaluate.stride",
                f"from 1 1 to evaluate.window ({window})",
                stride,
                "Larger ones would leave gaps.",
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: what is learned from which images, and how."""

    dataset: str = "mini-camvid"
    """Data set by name, or one's own by its .toml or .yaml; the mini-... ones are made on the spot."""

    data_root: str | None = None
    """Folder of the data set as its authors lay it out, or folder or URL of what pipeline.prepare made of it; not
    needed for the mini-... ones."""

    seed: int = 0
    """Of weights, order, augmentation and sampling: the same seed gives the same run again."""

    model: ModelConfig = field(default_factory=ModelConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)", self.seed)
        stride = self.model.output_stride
        _require(
            all(side % stride == 0 for side in self.ingest.crop),
            "ingest.crop",
            f"multiples of model.output_stride ({stride})",
            self.ingest.crop,
        )

    @property
    def warmup_steps(self) -> int:
        """Steps before contrast begins: the paper's 5000 of 40 000 as a share of shorter runs."""
        given = self.contrast.warmup_steps
        return min(5000, self.train.steps // 8) if given is None else given
