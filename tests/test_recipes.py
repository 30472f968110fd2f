"""The paper's recipes against a table, and one step of each."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.ingest import Batch
from pipeline.prepare import RowGroup, Shards, Split
from pipeline.train import Job, Worker, train
from pipeline.training.checkpoint import load_meta
from pixcon_core.config import RunConfig
from pixcon_core.data import DATASETS
from pixcon_core.models import build_segmentor
from pixcon_core.override import flatten
from pixcon_core.recipes import RECIPES, page, source

EVERYWHERE = {
    "model.pretrained": "true",
    "model.output_stride": 8,
    "model.head_channels": 512,
    "model.aux_weight": 0.4,
    "model.projection_dim": 256,
    "contrast.weight": 0.1,
    "contrast.keys": "pixel+region",
    "contrast.key_sampling": "semi_hard",
    "contrast.num_positives": 1024,
    "contrast.num_negatives": 2048,
    "contrast.max_anchors": 1024,
    "contrast.max_views": 100,
    "contrast.hard_anchor_ratio": 0.5,
    "contrast.memory_size": 5000,
    "contrast.pixels_per_class": 10,
    "contrast.warmup_steps": 5000,
    "contrast.label_mode": "nearest",
    "ingest.scale": (0.5, 2.0),
    "ingest.aspect": (0.9, 1.1),
    "ingest.flip": 0.5,
    "ingest.brightness": 10,
    "ingest.contrast": 0.0,
    "ingest.saturation": 0.0,
    "ingest.hue": 0.0,
    "ingest.max_class_share": 1.0,
    "train.optimizer": "sgd",
    "train.lr_warmup_steps": 0,
    "train.clip_norm": None,
    "train.ohem_min_kept": 100_000,
    "train.lovasz_weight": 0.0,
    "evaluate.scales": (1.0,),
    "evaluate.flip": False,
    "evaluate.window": None,
    "evaluate.stride": None,
}
BY_DATA = {
    "dataset": ("cityscapes", "pascal-context", "coco-stuff-10k", "camvid"),
    "ingest.crop": ((512, 1024), (520, 520), (520, 520), (360, 480)),
    "ingest.short_side": (None, 520, 520, None),
    "evaluate.short_side": (None, 520, 520, None),
    "train.batch_size": (8, 16, 16, 16),
    "train.steps": (40_000, 60_000, 60_000, 30_000),
    "train.lr": (0.01, 0.001, 0.001, 0.001),
    "train.head_lr_factor": (1.0, 10.0, 10.0, 1.0),
    "train.weight_decay": (5e-4, 1e-4, 1e-4, 1e-4),
    "contrast.temperature": (0.1, 0.07, 0.07, 0.07),
}
BY_MODEL = {
    "model.backbone": ("resnet101", "hrnet_w48", "hrnet_w48"),
    "model.head": ("deeplabv3", "hrnet", "ocr"),
}
DATA = ("cityscapes", "pascal-context", "coco-stuff", "camvid")
MODELS = ("deeplabv3-r101", "hrnet-w48", "ocr-hrnet-w48")
CITYSCAPES_WEIGHTS = (
    "0.8373 0.9180 0.8660 1.0345 1.0166 0.9969 0.9754 1.0489 0.8786 1.0023 0.9539 0.9843 1.1116 0.9037 1.0865 1.0955"
    " 1.0865 1.1529 1.0507"
)


def expected(data, model):
    i, j = DATA.index(data), MODELS.index(model)
    table = EVERYWHERE | {name: values[i] for name, values in BY_DATA.items()}
    table |= {name: values[j] for name, values in BY_MODEL.items()}
    weights = tuple(float(weight) for weight in CITYSCAPES_WEIGHTS.split())
    table["train.class_weights"] = weights if data == "cityscapes" else "none"
    table["train.ohem_threshold"] = 0.9 if (data, model) == ("coco-stuff", "ocr-hrnet-w48") else None
    return table


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_that_of_the_table(data, model):
    flat = flatten(RECIPES[f"{data}-{model}"])
    table = expected(data, model)
    assert {name: flat[name] for name in table} == table
    # What the table leaves out is ours: the default, but for what changes no result.
    default = flatten(RunConfig())
    rest = {name for name in flat if name not in table and flat[name] != default[name]}
    assert rest == {"train.log_every", "train.checkpoint_every"}
    assert all(source(f"{data}-{model}", name) == "ours" for name in rest)


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_the_table_has_a_source(name):
    data = next(data for data in DATA if name.startswith(data))
    found = {field: source(name, field) for field in flatten(RECIPES[name])}
    assert set(found.values()) == {"paper", "code", "ours"}
    ours = {field for field in expected(data, name.removeprefix(f"{data}-")) if found[field] == "ours"}
    open_on_camvid = {"model.pretrained", "model.aux_weight", "train.head_lr_factor"}
    assert ours == (open_on_camvid if data == "camvid" else set())
    with pytest.raises(KeyError):
        source(name, "train.nothing")


@pytest.mark.parametrize("name", RECIPES)
def test_class_weights_are_as_many_as_classes(name):
    weights = RECIPES[name].train.class_weights
    assert isinstance(weights, str) or len(weights) == len(DATASETS[RECIPES[name].dataset].classes)


def test_the_page_of_recipes_is_current():
    stored = Path(__file__).parent.parent / "docs" / "recipes.md"
    assert stored.read_text() == page(), "write it anew: python -m pixcon_core.recipes > docs/recipes.md"


# The three networks on one data set; with the classes of the others when asked for.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name.startswith("coco") else pytest.param(name, marks=pytest.mark.soak) for name in RECIPES]
)
def test_one_step_of_each_moves_the_whole_model(name, tmp_path):
    config = RECIPES[name]
    classes = DATASETS[config.dataset].classes
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pretrained="false"),
        contrast=dataclasses.replace(config.contrast, warmup_steps=0, memory_size=50),
        ingest=dataclasses.replace(config.ingest, crop=(64, 64)),
        train=dataclasses.replace(config.train, steps=1, batch_size=2, precision="float32"),
    )
    group = RowGroup("train-00000.parquet", 0, 2)
    split = Split((group,), tuple(range(1, len(classes) + 1)))
    shards = Shards("nowhere", config.dataset, classes, ((0, 0, 0),) * len(classes), {"train": split}, ())
    rng = np.random.default_rng(0)
    cells = rng.integers(0, len(classes), (2, 4, 4), dtype=np.uint8)
    batch = Batch(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), cells.repeat(16, axis=1).repeat(16, axis=2))
    records, weights = [], {}

    def keep(folder):
        assert load_meta(folder).config == config
        weights.update(load_file(folder / "model.safetensors"))

    train(Job(config, shards), Worker(), lambda first: [batch], start=None, put=records.append, keep=keep)
    assert records[-1]["contrast"] > 0
    assert np.isfinite(records[-1]["loss"])
    torch.manual_seed(config.seed)
    fresh = {k: v for k, v in build_segmentor(config.model, len(classes)).state_dict().items() if v.is_floating_point()}
    moved = {name for name, value in fresh.items() if not torch.equal(value, weights[name])}
    for part in ("head.", "projection."):
        assert moved >= {name for name in fresh if name.startswith(part)}
    # A ResNet's blocks begin as identities: timm's first weights let no gradient into them in the first step.
    assert len(moved) > 0.7 * len(fresh)
    assert "backbone.conv1.weight" in moved
