"""Evaluation protocols: what `predict` adds up, against the same by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.predicting.inference import predict
from pipeline.training.checkpoint import Loaded, Meta
from pixcon_core.config import EvaluateConfig, ModelConfig, RunConfig
from pixcon_core.models import build_segmentor

MODEL = ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16)


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    model = build_segmentor(MODEL, 5, projection=False)
    for norm in model.modules():  # logits of fresh weights hardly differ from pixel to pixel
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 96, 128).repeat_interleave(2, dim=2))
    model.eval().head.classifier[-1].bias.data.zero_()
    meta = Meta(RunConfig(model=MODEL), tuple("abcde"), ((0, 0, 0),) * 5, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0)
    return Loaded(model, meta)


def with_protocol(loaded, **protocol):
    config = dataclasses.replace(loaded.meta.config, evaluate=EvaluateConfig(**protocol))
    return loaded._replace(meta=dataclasses.replace(loaded.meta, config=config))


def image(height, width):
    cells = np.random.default_rng(1).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return cells.repeat(10, axis=0).repeat(10, axis=1)[:height, :width]


def by_hand(loaded, pixels, sizes, flips):
    """Resize, pad to 32, predict, cut, resize back, mirror back, add up: one view after the other."""
    height, width = pixels.shape[:2]
    mean, std = torch.tensor(loaded.meta.mean), torch.tensor(loaded.meta.std)
    whole = ((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]
    total = torch.zeros(1, 5, height, width)
    for (rows, columns), is_flipped in itertools.product(sizes, flips):
        view = F.interpolate(whole, (rows, columns), mode="bilinear")
        view = torch.flip(view, (3,)) if is_flipped else view
        canvas = torch.zeros(1, 3, -(-rows // 32) * 32, -(-columns // 32) * 32)
        canvas[:, :, :rows, :columns] = view
        with torch.no_grad():
            logits = F.interpolate(loaded.model(canvas).logits, canvas.shape[2:], mode="bilinear")
        logits = F.interpolate(logits[:, :, :rows, :columns], (height, width), mode="bilinear")
        total += torch.flip(logits, (3,)) if is_flipped else logits
    return total.argmax(dim=1)[0].numpy()


@pytest.mark.parametrize(
    ("protocol", "sizes", "flips"),
    [
        ({}, [(90, 110)], [False]),
        ({"flip": True}, [(90, 110)], [False, True]),
        ({"scales": (0.5, 1.0, 1.75), "flip": True}, [(45, 55), (90, 110), (158, 192)], [False, True]),
        ({"short_side": 135}, [(135, 165)], [False]),
        ({"short_side": 180, "scales": (0.5, 1.0)}, [(90, 110), (180, 220)], [False]),
    ],
)
def test_each_protocol_adds_up_its_views(loaded, protocol, sizes, flips):
    pixels = image(90, 110)
    expected = by_hand(loaded, pixels, sizes, flips)
    assert len(np.unique(expected)) > 1
    predicted = predict(with_protocol(loaded, **protocol), pixels)
    assert predicted.shape == (90, 110)
    assert (predicted == expected).mean() > 0.999  # sums in another order may tip a tie


def test_protocols_differ(loaded):
    pixels = image(90, 110)
    plain = predict(loaded, pixels)
    for protocol in ({"flip": True}, {"scales": (0.5,)}, {"short_side": 180}):
        assert (predict(with_protocol(loaded, **protocol), pixels) != plain).any()


def test_a_mirrored_image_gives_the_mirrored_prediction_where_flips_are_added_up(loaded):
    symmetric = with_protocol(loaded, flip=True)
    pixels = image(64, 96)
    mirrored = predict(symmetric, pixels[:, ::-1])[:, ::-1]
    assert (mirrored == predict(symmetric, pixels)).mean() > 0.999
