"""Augmentation of one image with its labels, from the recipe of the paper.

Works on numpy arrays with Pillow, so that data workers need not import torch. The crop is chosen first and only its
part of the image is resized: the result is that of resizing and then cropping, for a fraction of the work.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from pixcon_core.config import IngestConfig

CROP_TRIES = 10


class Crop(NamedTuple):
    """A training crop taken out of a resized image."""

    resized: tuple[int, int]
    """Height and width that the whole image is resized to."""
    top: int
    """First row of the crop in the resized image."""
    left: int
    """First column of the crop in the resized image."""


def augment(
    image: UInt8[np.ndarray, "height width 3"],
    label: UInt8[np.ndarray, "height width"],
    config: IngestConfig,
    rng: np.random.Generator,
    *,
    ignore_index: int = 255,
) -> tuple[UInt8[np.ndarray, "crop_h crop_w 3"], UInt8[np.ndarray, "crop_h crop_w"]]:
    """Resize at random, crop, flip and change the colours.

    Args:
        image: RGB, 0..255.
        label: Class ids of its pixels.
        config: Ranges of the random choices, and the size of the crop.
        rng: The only source of randomness.
        ignore_index: Label of pixels outside the image, where it is smaller than the crop. They are grey (128).

    Returns:
        The crop of the image and of its labels.

    Source:
        Scales, aspect, flip and brightness as in the paper's recipes; the bound on one class's share of a crop as in
        mmsegmentation's recipes.
    """
    crop = _choose_crop(label, config, rng, ignore_index)
    image_crop = _take(image, crop, config.crop, Image.Resampling.BILINEAR, fill=128)
    label_crop = _take(label, crop, config.crop, Image.Resampling.NEAREST, fill=ignore_index)
    if rng.random() < config.flip:
        image_crop, label_crop = image_crop[:, ::-1], label_crop[:, ::-1]
    return _change_colours(image_crop, config, rng), np.ascontiguousarray(label_crop)


def _change_colours(
    image: UInt8[np.ndarray, "height width 3"], config: IngestConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Shift brightness, then change contrast (about the image's mean grey), saturation and hue."""
    shift = int(rng.integers(-config.brightness, config.brightness + 1))
    levels = np.arange(256) + shift
    if config.contrast:
        grey = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))
        mean = grey.mean() + shift
        levels = np.rint(mean + rng.uniform(1 - config.contrast, 1 + config.contrast) * (levels - mean))
    changed: UInt8[np.ndarray, "height width 3"] = np.clip(levels, 0, 255).astype(np.uint8)[image]
    if config.saturation:
        enhance = ImageEnhance.Color(Image.fromarray(changed))
        changed = np.asarray(enhance.enhance(rng.uniform(1 - config.saturation, 1 + config.saturation)))
    if config.hue:
        hsv = np.array(Image.fromarray(changed).convert("HSV"))
        hsv[..., 0] += np.uint8(round(256 * rng.uniform(-config.hue, config.hue)) % 256)  # a circle: it wraps
        changed = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return changed


def _choose_crop(
    label: UInt8[np.ndarray, "height width"], config: IngestConfig, rng: np.random.Generator, ignore_index: int
) -> Crop:
    """Draw size and place, again and again while one class fills too much of the crop."""
    scale = rng.uniform(*config.scale)
    if config.short_side is not None:
        scale *= config.short_side / min(label.shape)
    stretch = np.sqrt(np.exp(rng.uniform(*np.log(config.aspect))))
    height = max(1, round(label.shape[0] * scale / stretch))
    width = max(1, round(label.shape[1] * scale * stretch))
    # Shares need no more than every eighth pixel each way of the crop.
    step_y, step_x = max(1, round(8 * label.shape[0] / height)), max(1, round(8 * label.shape[1] / width))
    for _ in range(CROP_TRIES):
        top = int(rng.integers(0, max(height - config.crop[0], 0) + 1))
        left = int(rng.integers(0, max(width - config.crop[1], 0) + 1))
        crop = Crop((height, width), top, left)
        y0, x0, y1, x1 = (int(v) for v in _source_box(label.shape, crop, config.crop))
        counts = np.bincount(label[y0 : max(y1, y0 + 1) : step_y, x0 : max(x1, x0 + 1) : step_x].ravel())
        counts = counts[:ignore_index]
        if counts.size and 0 < counts.max() <= config.max_class_share * counts.sum():
            break
    return crop


def _source_box(
    shape: tuple[int, ...], crop: Crop, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the crop's part of the original image as top, left, bottom, right, in its pixels."""
    y, x = shape[0] / crop.resized[0], shape[1] / crop.resized[1]
    bottom = min(crop.top + size[0], crop.resized[0])
    right = min(crop.left + size[1], crop.resized[1])
    return crop.top * y, crop.left * x, min(bottom * y, float(shape[0])), min(right * x, float(shape[1]))


def _take(
    pixels: UInt8[np.ndarray, "..."], crop: Crop, size: tuple[int, int], resample: Image.Resampling, fill: int
) -> UInt8[np.ndarray, "..."]:
    """Cut the crop out and resize it; fill what lies outside the image."""
    top, left, bottom, right = _source_box(pixels.shape, crop, size)
    inside = min(size[0], crop.resized[0] - crop.top), min(size[1], crop.resized[1] - crop.left)
    part = Image.fromarray(pixels).resize(inside[::-1], resample, box=(left, top, right, bottom))
    if inside == size:
        return np.asarray(part)
    padded = np.full((*size, *pixels.shape[2:]), fill, dtype=np.uint8)
    padded[: inside[0], : inside[1]] = np.asarray(part)
    return padded
