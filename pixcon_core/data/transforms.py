"""Augmentation of one image with its labels, from the recipe of the paper.

Works on numpy arrays, so that data workers need not import torch; with OpenCV, which resizes five times as fast as
Pillow. What will be the crop is chosen first and only that part of the image is resized.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from pixcon_core.config import IngestConfig

CROP_TRIES = 10
GREY = 128
"""Colour of pixels outside the image."""

cv2.setNumThreads(1)  # one image is too little to share, and data workers run side by side


class Crop(NamedTuple):
    """A part of an image that becomes a training crop, or a part of one where the image is too small."""

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    """Height and width that it is resized to."""


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
        ignore_index: Label of pixels outside the image, where it is smaller than the crop. They are grey.

    Returns:
        The crop of the image and of its labels.

    Source:
        Scales, aspect, flip and brightness as in the paper's recipes; the bound on one class's share of a crop as in
        mmsegmentation's recipes.
    """
    crop = _choose_crop(label, config, rng, ignore_index)
    image_crop = _take(image, crop, config.crop, cv2.INTER_LINEAR, fill=GREY)
    label_crop = _take(label, crop, config.crop, cv2.INTER_NEAREST_EXACT, fill=ignore_index)
    if rng.random() < config.flip:
        image_crop, label_crop = cv2.flip(image_crop, 1), cv2.flip(label_crop, 1)
    return _change_colours(image_crop, config, rng), label_crop


def _change_colours(
    image: UInt8[np.ndarray, "height width 3"], config: IngestConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Shift brightness, then change contrast (about the image's mean grey), saturation and hue."""
    shift = int(rng.integers(-config.brightness, config.brightness + 1))
    levels = np.arange(256) + shift
    if config.contrast:
        mean = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()) + shift
        levels = np.rint(mean + rng.uniform(1 - config.contrast, 1 + config.contrast) * (levels - mean))
    image = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8))
    if config.saturation:
        factor = rng.uniform(1 - config.saturation, 1 + config.saturation)
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, factor, grey, 1 - factor, 0)
    if config.hue:
        turned = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        turned[..., 0] += np.uint8(round(256 * rng.uniform(-config.hue, config.hue)) % 256)  # a circle: it wraps
        image = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)
    return image


def _choose_crop(
    label: UInt8[np.ndarray, "height width"], config: IngestConfig, rng: np.random.Generator, ignore_index: int
) -> Crop:
    """Draw size and place, again and again while one class fills too much of the crop."""
    scale = rng.uniform(*config.scale)
    if config.short_side is not None:
        scale *= config.short_side / min(label.shape)
    stretch = np.sqrt(np.exp(rng.uniform(*np.log(config.aspect))))
    (height, rows), (width, columns) = (
        _extent(whole, side, factor)
        for whole, side, factor in zip(label.shape, config.crop, (scale / stretch, scale * stretch), strict=True)
    )
    # Shares need no more than every eighth pixel each way of the crop.
    step_y, step_x = max(1, round(8 * height / rows)), max(1, round(8 * width / columns))
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(0, w - p + 1)) for w, p in zip(label.shape, (height, width), strict=True))
        counts = np.bincount(label[top : top + height : step_y, left : left + width : step_x].ravel())
        counts = counts[:ignore_index]
        if counts.size and 0 < counts.max() <= config.max_class_share * counts.sum():
            break
    return Crop(top, left, height, width, (rows, columns))


def _extent(whole: int, crop: int, factor: float) -> tuple[int, int]:
    """Return how many pixels of an image's side a crop takes, and how many pixels of the crop they become."""
    part = max(1, round(crop / factor))
    return (part, crop) if part < whole else (whole, min(crop, max(1, round(whole * factor))))


def _take(
    pixels: UInt8[np.ndarray, "..."], crop: Crop, size: tuple[int, int], interpolation: int, fill: int
) -> UInt8[np.ndarray, "..."]:
    """Cut the crop out and resize it; fill what lies outside the image."""
    part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    inside = cv2.resize(part, crop.resized[::-1], interpolation=interpolation)
    if crop.resized == size:
        return inside
    padded = np.full((*size, *pixels.shape[2:]), fill, dtype=np.uint8)
    padded[: crop.resized[0], : crop.resized[1]] = inside
    return padded
