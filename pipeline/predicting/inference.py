"""A segmentor on images of any size: scales, mirrored images, sliding windows; strip by strip, in bounded memory.

Each way of looking at an image (a scale, mirrored or not) is a view. A view gives logits of rows on demand, and those
of a strip of the image are added up over the views before the next strip is made. Views of whole images hold the
network's own, coarse logits; sliding ones hold classes x (window height + strip) x width floats.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.training.checkpoint import Loaded
from pixcon_core.config import EvaluateConfig
from pixcon_core.models import Segmentor

# Stride of the coarsest features of any backbone here: images are padded to a multiple of it, so that the features
# lie on them without being stretched.
PAD_TO = 32
MAX_WHOLE_PIXELS = 2**23
"""Larger images, at the largest scale, are predicted by windows even if none are asked for: 4096 x 2048 is not."""
LARGE_WINDOW = (1024, 1024)
STRIP_BYTES = 2**24


class Strip(NamedTuple):
    """Some rows of an image."""

    top: int
    logits: Float[Tensor, "class rows width"]
    """Means over all views."""


class _View(Protocol):
    """One way of looking at an image."""

    size: tuple[int, int]

    def rows(self, first: int, last: int) -> Float[Tensor, "1 class rows width"]:
        """Return the logits of rows first to last - 1; `first` never falls from one call to the next."""
        ...


def predict(
    loaded: Loaded, image: UInt8[np.ndarray, "height width 3"], protocol: EvaluateConfig | None = None
) -> UInt8[np.ndarray, "height width"]:
    """Return the class of every pixel of an image of any size.

    Args:
        loaded: The segmentor, and how its images are normalised.
        image: RGB.
        protocol: Scales, flips and windows; None takes those of the checkpoint's configuration.
    """
    ids = np.empty(image.shape[:2], np.uint8)
    for top, logits in strips(loaded, image, protocol):
        # max, not argmax, which is many times slower on a CPU; both take the first of equals.
        ids[top : top + logits.shape[1]] = logits.max(dim=0).indices.to(torch.uint8).cpu().numpy()
    return ids


@torch.inference_mode()
def strips(
    loaded: Loaded, image: UInt8[np.ndarray, "height width 3"], protocol: EvaluateConfig | None = None
) -> Iterator[Strip]:
    """Yield the logits of an image from top to bottom, a strip of at most `STRIP_BYTES` (or one row) at a time.

    Logits of all scales and of mirrored images are averaged at the image's size, as in the paper's code, and those of
    windows where they overlap.
    """
    protocol = protocol or loaded.meta.config.evaluate
    height, width = image.shape[:2]
    base = 1.0 if protocol.short_side is None else protocol.short_side / min(height, width)
    sizes = [(max(1, round(height * base * scale)), max(1, round(width * base * scale))) for scale in protocol.scales]
    window, stride = protocol.window, protocol.stride
    if window is None and max(rows * columns for rows, columns in sizes) > MAX_WHOLE_PIXELS:
        window = LARGE_WINDOW
    pixels = _Pixels(loaded, image)
    views: list[_View] = []
    for size in sizes:
        for is_flipped in (False, True) if protocol.flip else (False,):
            if window is None:
                views.append(_Whole(loaded.model, pixels, size, is_flipped))
            else:
                views.append(_Sliding(loaded.model, pixels, size, is_flipped, window, stride or default_stride(window)))
    step = max(1, STRIP_BYTES // (4 * len(loaded.meta.classes) * width))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        total = _rows_of(views[0], top, bottom, (height, width))
        for view in views[1:]:
            total = total + _rows_of(view, top, bottom, (height, width))
        yield Strip(top, total[0] / len(views) if len(views) > 1 else total[0])


def default_stride(window: tuple[int, int]) -> tuple[int, int]:
    """Return how far windows are apart where nothing else is said: two thirds of their size."""
    return max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along one side; the last one ends with the image."""
    number = -(-max(size - window, 0) // stride) + 1
    return [min(i * stride, max(size - window, 0)) for i in range(number)]


class _Pixels:
    """An image, normalised and resized as much of it as is needed."""

    def __init__(self, loaded: Loaded, image: UInt8[np.ndarray, "height width 3"]) -> None:
        self._image = image
        self._device = next(loaded.model.parameters()).device
        self._mean, self._std = (
            torch.tensor(value, device=self._device).view(3, 1, 1) for value in (loaded.meta.mean, loaded.meta.std)
        )

    def rows(self, first: int, last: int, size: tuple[int, int]) -> Float[Tensor, "1 3 rows width"]:
        """Return rows first to last - 1 of the image at some size."""
        height = self._image.shape[0]
        begin, end = _needed(first, last, height, size[0])
        part = torch.from_numpy(self._image[begin:end].astype(np.float32)).to(self._device)
        normalised = (part.permute(2, 0, 1) / 255 - self._mean) / self._std  # (H, W, 3) -> (3, H, W)
        return _resize_rows(normalised[None], begin, height, first, last, size)


class _Whole:
    """A view in which the network sees the whole image at once."""

    def __init__(self, model: Segmentor, pixels: _Pixels, size: tuple[int, int], is_flipped: bool) -> None:
        self.size = size
        self._is_flipped = is_flipped
        images = pixels.rows(0, size[0], size)
        self._logits, self._padded = _coarse_logits(model, images.flip(3) if is_flipped else images)

    def rows(self, first: int, last: int) -> Float[Tensor, "1 class rows width"]:
        height = self._logits.shape[2]
        begin, end = _needed(first, last, height, self._padded[0])
        found = _resize_rows(self._logits[:, :, begin:end], begin, height, first, last, self._padded)
        found = found[:, :, :, : self.size[1]]
        return found.flip(3) if self._is_flipped else found


class _Sliding:
    """A view in which the network sees one window after the other; logits are averaged where windows overlap."""

    def __init__(
        self,
        model: Segmentor,
        pixels: _Pixels,
        size: tuple[int, int],
        is_flipped: bool,
        window: tuple[int, int],
        stride: tuple[int, int],
    ) -> None:
        self.size = size
        self._model, self._pixels, self._is_flipped = model, pixels, is_flipped
        self._window = min(window[0], size[0]), min(window[1], size[1])
        self._tops, self._lefts = (window_starts(*sides) for sides in zip(size, window, stride, strict=True))
        self._times = [
            _times_covered(starts, part, side)
            for starts, part, side in zip((self._tops, self._lefts), self._window, size, strict=True)
        ]
        self._next = 0
        self._first = 0
        """Row that `_finished` begins with."""
        self._finished: Tensor | None = None
        self._open: Tensor | None = None
        """Sums over windows so far, of rows that later windows add to."""

    def rows(self, first: int, last: int) -> Float[Tensor, "1 class rows width"]:
        while self._finished is None or self._first + self._finished.shape[2] < last:
            self._add_windows()
        self._finished = self._finished[:, :, first - self._first :]
        self._first = first
        found = self._finished[:, :, : last - first]
        return found.flip(3) if self._is_flipped else found

    def _add_windows(self) -> None:
        """Predict one row of windows."""
        number, (height, width) = self._next, self._window
        self._next += 1
        top = self._tops[number]
        images = self._pixels.rows(top, top + height, self.size)
        images = images.flip(3) if self._is_flipped else images
        sums: Tensor | None = None
        for left in self._lefts:
            logits = _logits(self._model, images[:, :, :, left : left + width])
            if sums is None:
                sums = logits.new_zeros(1, logits.shape[1], height, self.size[1])
            sums[:, :, :, left : left + width] += logits
        assert sums is not None  # there is at least one window
        if self._open is not None:
            sums[:, :, : self._open.shape[2]] += self._open
        below = self._tops[number + 1] if number + 1 < len(self._tops) else self.size[0]
        self._open = sums[:, :, below - top :].clone()
        down, across = (times.to(sums.device) for times in self._times)
        found = sums[:, :, : below - top] / (down[top:below, None] * across)
        self._finished = found if self._finished is None else torch.cat([self._finished, found], dim=2)


def _times_covered(starts: list[int], window: int, size: int) -> Float[Tensor, " size"]:
    times = torch.zeros(size)
    for start in starts:
        times[start : start + window] += 1
    return times


def _coarse_logits(
    model: Segmentor, images: Float[Tensor, "1 3 height width"]
) -> tuple[Float[Tensor, "1 class coarse_height coarse_width"], tuple[int, int]]:
    """Return the logits at the network's own resolution, and the size of the padded image that they cover."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % PAD_TO, 0, -height % PAD_TO))
    logits: Tensor = model(padded).logits.float()
    return logits, (padded.shape[2], padded.shape[3])


def _logits(model: Segmentor, images: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 class height width"]:
    """Return the logits of every pixel."""
    coarse, padded = _coarse_logits(model, images)
    return _resize(coarse, padded)[:, :, : images.shape[2], : images.shape[3]]


def _rows_of(view: _View, first: int, last: int, size: tuple[int, int]) -> Float[Tensor, "1 class rows width"]:
    """Return a view's logits of some rows of the image, whose size is `size`."""
    begin, end = _needed(first, last, view.size[0], size[0])
    return _resize_rows(view.rows(begin, end), begin, view.size[0], first, last, size)


def _needed(first: int, last: int, height: int, new_height: int) -> tuple[int, int]:
    """Return which rows of a map, first and last + 1, some rows of the resized map are made of."""
    if height == new_height:
        return first, last
    ratio = height / new_height
    # One more on each side than the formula says, for its rounding.
    return max(0, int((first + 0.5) * ratio - 0.5) - 1), min(height, int((last - 0.5) * ratio + 0.5) + 2)


def _resize_rows(
    maps: Float[Tensor, "1 channel some_rows width"],
    begin: int,
    height: int,
    first: int,
    last: int,
    size: tuple[int, int],
) -> Float[Tensor, "1 channel rows new_width"]:
    """Return rows first to last - 1 of a map resized to `size`.

    Args:
        maps: Those rows of the map that are needed, see `_needed`.
        begin: Which of its rows is the first of these.
        height: Rows of the whole map.
        first: First row wanted.
        last: The one after the last.
        size: Height and width of the resized map.
    """
    if maps.shape[2] == height and (first, last) == (0, size[0]):
        return _resize(maps, size)
    if height != size[0]:
        at = (torch.arange(first, last, dtype=torch.float32, device=maps.device) + 0.5) * (height / size[0]) - 0.5
        at = at.clamp(min=0)
        upper = at.long().clamp(max=height - 1)
        share = (at - upper)[:, None]
        lower = (upper + 1).clamp(max=height - 1)
        maps = torch.lerp(maps[:, :, upper - begin], maps[:, :, lower - begin], share)
    else:
        maps = maps[:, :, first - begin : last - begin]
    return _resize(maps, (last - first, size[1]))


def _resize(
    maps: Float[Tensor, "1 channel height width"], size: tuple[int, int]
) -> Float[Tensor, "1 channel new_height new_width"]:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
