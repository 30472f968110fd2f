"""The paper's recipes: three models on four data sets, each field with its source.

    python -m pixcon_core.recipes > docs/recipes.md

A source is one word. `paper`: the paper's method or experiments. `code`: its public research code, where the paper is
silent. `ours`: neither says so, or we do otherwise on purpose. The code has no configuration of its own for contrast
on three of the four data sets; there the fields are those that its configuration files share.

What the code does and these recipes do not: normalise with ImageNet's figures in the wrong channel order, start a
ResNet-101 with three convolutions in its stem, decay biases and norms, resize with bicubic interpolation, draw the
place of an image in a larger crop, scale the loss by temperature over 0.07 (on Cityscapes 1.43), report the checkpoint
that is best on the validation images. Memory is the paper's, for all models; the code has it for one, with other
settings (one view of each class, weight 1) with which its users report bad results. Its figures for test images are
of seven scales, 0.5 to 2.0, each mirrored too: `--evaluate.scales 0.5 0.75 1 1.25 1.5 1.75 2 --evaluate.flip`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pixcon_core.config import ContrastConfig, EvaluateConfig, IngestConfig, ModelConfig, RunConfig, TrainConfig
from pixcon_core.override import flatten

Source = Literal["paper", "code", "ours"]

CITYSCAPES_CLASS_WEIGHTS = (
    0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip
"""In the order of the 19 train ids; from the code."""


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What depends on the data set alone."""

    dataset: str
    crop: tuple[int, int]
    short_side: int | None = None
    batch_size: int
    steps: int
    lr: float
    head_lr_factor: float = 1.0
    weight_decay: float
    temperature: float
    class_weights: tuple[float, ...] | Literal["none"] = "none"


_DATA = {
    "cityscapes": _Data(
        dataset="cityscapes",
        crop=(512, 1024),
        batch_size=8,
        steps=40_000,
        lr=0.01,
        weight_decay=5e-4,
        temperature=0.1,
        class_weights=CITYSCAPES_CLASS_WEIGHTS,
    ),
    "pascal-context": _Data(
        dataset="pascal-context",
        crop=(520, 520),
        short_side=520,
        batch_size=16,
        steps=60_000,
        lr=0.001,
        head_lr_factor=10.0,
        weight_decay=1e-4,
        temperature=0.07,
    ),
    "coco-stuff": _Data(
        dataset="coco-stuff-10k",  # the paper's; for the large one: --dataset coco-stuff
        crop=(520, 520),
        short_side=520,
        batch_size=16,
        steps=60_000,
        lr=0.001,
        head_lr_factor=10.0,
        weight_decay=1e-4,
        temperature=0.07,
    ),
    "camvid": _Data(
        dataset="camvid",
        crop=(360, 480),
        batch_size=16,
        steps=30_000,
        lr=0.001,
        weight_decay=1e-4,
        temperature=0.07,
    ),
}

_MODELS = {
    "deeplabv3-r101": ModelConfig(
        backbone="resnet101", pretrained="true", head="deeplabv3", output_stride=8, head_channels=512
    ),
    # HRNet's features have strides 4 to 32 whatever is asked for; 8 is what crops have to be multiples of.
    "hrnet-w48": ModelConfig(backbone="hrnet_w48", pretrained="true", head="hrnet", output_stride=8, head_channels=512),
    "ocr-hrnet-w48": ModelConfig(
        backbone="hrnet_w48", pretrained="true", head="ocr", output_stride=8, head_channels=512
    ),
}

_SOURCES: dict[str, Source] = {
    "dataset": "paper",
    "model.backbone": "paper",
    "model.pretrained": "paper",
    "model.head": "paper",
    "model.output_stride": "code",
    "model.head_channels": "code",
    "model.aux_weight": "code",
    "model.projection_dim": "paper",
    "contrast.weight": "code",
    "contrast.temperature": "code",
    "contrast.keys": "paper",
    "contrast.key_sampling": "paper",
    "contrast.num_positives": "paper",
    "contrast.num_negatives": "paper",
    "contrast.max_anchors": "code",
    "contrast.max_views": "code",
    "contrast.hard_anchor_ratio": "paper",
    "contrast.memory_size": "code",
    "contrast.pixels_per_class": "code",
    "contrast.warmup_steps": "code",
    "contrast.label_mode": "code",
    "ingest.crop": "code",
    "ingest.short_side": "code",
    "ingest.scale": "code",
    "ingest.aspect": "code",
    "ingest.flip": "code",
    "ingest.brightness": "code",
    "ingest.contrast": "code",
    "ingest.saturation": "code",
    "ingest.hue": "code",
    "ingest.max_class_share": "code",
    "train.steps": "code",
    "train.batch_size": "code",
    "train.optimizer": "code",
    "train.lr": "code",
    "train.lr_warmup_steps": "code",
    "train.head_lr_factor": "code",
    "train.weight_decay": "code",
    "train.clip_norm": "code",
    "train.class_weights": "code",
    "train.ohem_threshold": "code",
    "train.ohem_min_kept": "code",
    "train.lovasz_weight": "code",
    "evaluate.short_side": "code",
    "evaluate.scales": "code",
    "evaluate.flip": "code",
    "evaluate.window": "code",
    "evaluate.stride": "code",
}
"""Fields that are not here are ours."""


def recipe(data: str, model: str) -> RunConfig:
    """Return the paper's recipe for one of its data sets and models, by their names in `RECIPES`."""
    given = _DATA[data]
    # Mining belongs to the code's one configuration of OCR on COCO-Stuff.
    mines = (data, model) == ("coco-stuff", "ocr-hrnet-w48")
    return RunConfig(
        dataset=given.dataset,
        model=_MODELS[model],
        contrast=ContrastConfig(temperature=given.temperature, warmup_steps=5000),
        ingest=IngestConfig(crop=given.crop, short_side=given.short_side, max_class_share=1.0),
        train=TrainConfig(
            steps=given.steps,
            batch_size=given.batch_size,
            optimizer="sgd",
            lr=given.lr,
            head_lr_factor=given.head_lr_factor,
            weight_decay=given.weight_decay,
            class_weights=given.class_weights,
            ohem_threshold=0.9 if mines else None,
            log_every=50,
            checkpoint_every=1000,
        ),
        evaluate=EvaluateConfig(short_side=given.short_side),
    )


RECIPES: dict[str, RunConfig] = {f"{data}-{model}": recipe(data, model) for data in _DATA for model in _MODELS}
"""The twelve recipes by the name that `--preset` takes."""


def source(name: str, field: str) -> Source:
    """Return where a field of a recipe comes from, `contrast.temperature` for one.

    Raises:
        KeyError: If there is no such recipe or field.
    """
    flatten(RECIPES[name])[field]  # for the KeyError
    if name.startswith("camvid") and field in ("model.pretrained", "model.aux_weight", "train.head_lr_factor"):
        return "ours"  # the code leaves them open
    return _SOURCES.get(field, "ours")


def page() -> str:
    """Return docs/recipes.md: every field of every recipe with its source."""
    lines = ["# The paper's recipes", "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    for data in _DATA:
        columns = {model: flatten(RECIPES[f"{data}-{model}"]) for model in _MODELS}
        lines += [f"## {data}", "", f"| field | {' | '.join(f'`{data}-{model}`' for model in _MODELS)} | source |"]
        lines += ["|---" * (len(columns) + 2) + "|"]
        for field in next(iter(columns.values())):
            cells = [_cell(flat[field]) for flat in columns.values()]
            lines.append(f"| {field} | {' | '.join(cells)} | {source(f'{data}-deeplabv3-r101', field)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value == CITYSCAPES_CLASS_WEIGHTS:
        return "19 numbers, 0.8373 to 1.1529"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(page(), end="")
