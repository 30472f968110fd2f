"""Sliding windows and strips, against whole images added up window by window, and their memory."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.predicting import inference
from pipeline.predicting.inference import default_stride, predict, strips, window_starts
from pipeline.training.checkpoint import Loaded, Meta
from pixcon_core.config import EvaluateConfig, RunConfig
from pixcon_core.models.segmentor import SegmentorOutput

NUM_CLASSES = 5


class Coarse(nn.Module):
    """Logits at an eighth of the size, each of a neighbourhood; as a segmentor, but small."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.second = nn.Conv2d(8, NUM_CLASSES, 5, stride=2, padding=2)
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        return SegmentorOutput(self.second(torch.tanh(2 * self.first(images))), None, None)


@pytest.fixture
def loaded():
    meta = Meta(RunConfig(), tuple("abcde"), ((0, 0, 0),) * 5, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0)
    return Loaded(Coarse().eval(), meta)


def image(height, width):
    cells = np.random.default_rng(1).integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return cells.repeat(7, axis=0).repeat(7, axis=1)[:height, :width]


def by_hand(loaded, pixels, scales, flips, window, stride):
    """Resize, cut out each window, predict it, add up, divide by how often, resize back."""
    height, width = pixels.shape[:2]
    mean, std = torch.tensor(loaded.meta.mean), torch.tensor(loaded.meta.std)
    whole = ((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]
    total = torch.zeros(1, NUM_CLASSES, height, width)
    for scale, is_flipped in itertools.product(scales, flips):
        rows, columns = round(height * scale), round(width * scale)
        view = F.interpolate(whole, (rows, columns), mode="bilinear")
        view = torch.flip(view, (3,)) if is_flipped else view
        sums, times = torch.zeros(1, NUM_CLASSES, rows, columns), torch.zeros(rows, columns)
        tops, lefts = (
            sorted({min(start, max(0, side - extent)) for start in range(0, side - extent + step, step)} or {0})
            for side, extent, step in zip((rows, columns), window, stride, strict=True)
        )
        for top, left in itertools.product(tops, lefts):
            place = slice(top, min(top + window[0], rows)), slice(left, min(left + window[1], columns))
            part = view[:, :, place[0], place[1]]
            h, w = part.shape[2:]
            part = F.pad(part, (0, -w % 32, 0, -h % 32))
            with torch.no_grad():
                logits = F.interpolate(loaded.model(part).logits, part.shape[2:], mode="bilinear")
            sums[:, :, place[0], place[1]] += logits[:, :, :h, :w]
            times[place] += 1
        mean_logits = F.interpolate(sums / times, (height, width), mode="bilinear")
        total += torch.flip(mean_logits, (3,)) if is_flipped else mean_logits
    return total / (len(scales) * len(flips))


def logits_of(loaded, pixels, protocol):
    made = list(strips(loaded, pixels, protocol))
    assert [strip.top for strip in made] == list(
        itertools.accumulate([strip.logits.shape[1] for strip in made], initial=0)
    )[:-1]
    return torch.cat([strip.logits for strip in made], dim=1)[None]


PROTOCOLS = [
    pytest.param((1.0,), False, (64, 64), (64, 64), id="side-by-side"),
    pytest.param((1.0,), False, (64, 96), (40, 70), id="overlapping"),
    pytest.param((1.0,), True, (64, 96), (20, 33), id="three-times-covered-and-mirrored"),
    pytest.param((0.5, 1.0, 1.3), True, (48, 64), (32, 50), id="scales"),
    pytest.param((1.0, 0.7), False, (500, 64), (300, 42), id="higher-than-the-image"),
    pytest.param((1.0,), True, (500, 600), (300, 400), id="larger-than-the-image"),
]


@pytest.mark.parametrize(("scales", "flip", "window", "stride"), PROTOCOLS)
@pytest.mark.parametrize("strip_bytes", [1, 4 * NUM_CLASSES * 211 * 30, 2**24], ids=["rows", "strips", "whole"])
def test_windows_are_averaged_where_they_overlap(loaded, monkeypatch, scales, flip, window, stride, strip_bytes):
    monkeypatch.setattr(inference, "STRIP_BYTES", strip_bytes)
    pixels = image(157, 211)
    protocol = EvaluateConfig(scales=scales, flip=flip, window=window, stride=stride)
    found = logits_of(loaded, pixels, protocol)
    expected = by_hand(loaded, pixels, scales, (False, True) if flip else (False,), window, stride)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    assert (predict(loaded, pixels, protocol) == expected[0].argmax(dim=0).numpy()).mean() > 0.999
    assert len(expected[0].argmax(dim=0).unique()) > 2


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.7)])
@pytest.mark.parametrize("flip", [False, True])
def test_whole_images_are_the_same_in_strips(loaded, monkeypatch, scales, flip):
    pixels, protocol = image(157, 211), EvaluateConfig(scales=scales, flip=flip)
    at_once = logits_of(loaded, pixels, protocol)
    for rows in (1, 37):
        monkeypatch.setattr(inference, "STRIP_BYTES", 4 * NUM_CLASSES * 211 * rows)
        assert len(list(strips(loaded, pixels, protocol))) == -(-157 // rows)
        torch.testing.assert_close(logits_of(loaded, pixels, protocol), at_once, rtol=0, atol=2e-4)


def test_a_window_as_large_as_the_image_is_the_whole_image(loaded):
    pixels = image(100, 130)
    whole, slid = (logits_of(loaded, pixels, EvaluateConfig(window=window)) for window in (None, (100, 130)))
    torch.testing.assert_close(slid, whole, rtol=0, atol=1e-5)


def test_images_above_the_bound_are_predicted_by_windows_by_themselves(loaded, monkeypatch):
    monkeypatch.setattr(inference, "MAX_WHOLE_PIXELS", 100 * 130)
    monkeypatch.setattr(inference, "LARGE_WINDOW", (64, 64))
    predict(loaded, image(100, 130))
    predict(loaded, image(101, 130))
    assert loaded.model.sizes[0] == (128, 160)
    assert set(loaded.model.sizes[1:]) == {(64, 64)}
    assert len(loaded.model.sizes) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [(100, 40, 30, [0, 30, 60]), (101, 40, 30, [0, 30, 60, 61]), (40, 40, 30, [0]), (10, 40, 30, [0])],
)
def test_windows_begin_a_stride_apart_and_the_last_ends_with_the_image(size, window, stride, starts):
    assert window_starts(size, window, stride) == starts


def test_the_default_stride_is_two_thirds():
    assert default_stride((512, 769)) == (341, 512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (16, 64)}, r"evaluate\.window must be at least 32 32, or None, but got \(16, 64\)"),
        ({"stride": (10, 10)}, r"evaluate\.stride must be None without evaluate\.window"),
        ({"window": (64, 64), "stride": (64, 65)}, r"evaluate\.stride must be from 1 1 to evaluate\.window \(\(64, 64"),
        ({"window": (64, 64), "stride": (0, 10)}, r"evaluate\.stride must be from 1 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**settings)


def test_memory_for_a_high_image_is_that_of_a_few_rows_of_windows(loaded, monkeypatch):
    """Logits of the whole image would be 5 x 6000 x 96 floats; what views hold is a twentieth of that."""
    monkeypatch.setattr(inference, "STRIP_BYTES", 4 * NUM_CLASSES * 96 * 16)
    held = []
    rows = inference._Sliding.rows

    def watched(self, first, last):
        found = rows(self, first, last)
        held.append(sum(part.untyped_storage().nbytes() for part in (self._finished, self._open)))
        return found

    monkeypatch.setattr(inference._Sliding, "rows", watched)
    predict(loaded, image(6000, 96), EvaluateConfig(window=(96, 96), stride=(64, 64)))
    assert max(held) < 4 * NUM_CLASSES * 96 * 6000 / 20
