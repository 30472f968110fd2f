"""What a batch adds to the memory: some pixels of each class, and the mean of each class in each image.

Rows come by class group (image by image, class by class) with a fixed shape and label -1 where there is none.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pixcon_core.contrast.anchors import ClassOrder

MIN_LENGTH = 1e-12
"""A vector that is no longer than this counts as zero, and is neither an anchor nor a key."""


class Keys(NamedTuple):
    """Embeddings to compare with."""

    embeddings: Float[Tensor, "key dim"]
    """Unit length."""
    labels: Int64[Tensor, " key"]
    """Class of each; -1 where there is none."""


def select_pixels(embeddings: Float[Tensor, "batch dim h w"], pixel: Int64[Tensor, " n"]) -> Float[Tensor, "n dim"]:
    """Return the embeddings of some pixels, by flat index into (B, h, w), as they are.

    Only these are read: a copy of the whole map with the channels last would cost more than the loss.
    """
    rows: Tensor = _SelectPixels.apply(embeddings, pixel)
    return rows


class _SelectPixels(torch.autograd.Function):
    """Indexing, but the gradient has the layout of the embeddings: autograd's own would be copied into it."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, pixel: Tensor) -> Tensor:
        area = embeddings.shape[2] * embeddings.shape[3]
        image, position = pixel // area, pixel % area
        ctx.save_for_backward(image, position)
        ctx.shape, ctx.is_channels_last = embeddings.shape, _is_channels_last(embeddings)
        return embeddings.flatten(2).transpose(1, 2)[image, position]  # (B, D, h*w) -> (n, D)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        image, position = ctx.saved_tensors
        batch, dim, h, w = ctx.shape
        if ctx.is_channels_last:
            rows = grad.new_zeros(batch, h * w, dim)
            whole = rows.view(batch, h, w, dim).permute(0, 3, 1, 2)
        else:
            whole = grad.new_zeros(ctx.shape)
            rows = whole.view(batch, dim, h * w).transpose(1, 2)
        rows.index_put_((image, position), grad, accumulate=True)
        return whole, None


def _is_channels_last(embeddings: Tensor) -> bool:
    return embeddings.stride(1) == 1 and embeddings.shape[1] > 1


def pixel_keys(
    embeddings: Float[Tensor, "batch dim h w"], order: ClassOrder, num_classes: int, pixels_per_class: int
) -> Keys:
    """Return the first pixels of each class and image in the random order, normalised and detached.

    Args:
        embeddings: Of any length.
        order: The batch's pixels by image and class.
        num_classes: As in `order`.
        pixels_per_class: At most so many for each class and image.
    """
    per_group = torch.arange(pixels_per_class, device=order.start.device)
    place = order.start[:-1, None] + per_group  # (group, pixels_per_class)
    exists = place < order.start[1:, None]
    pixel = torch.where(exists, order.pixel[place.clamp(max=len(order.pixel) - 1)], 0)
    group = torch.arange(len(order.start) - 1, device=place.device)[:, None]
    labels = torch.where(exists, group % num_classes, -1)
    rows = select_pixels(embeddings.detach(), pixel.flatten())
    return _storable(rows, labels.flatten())


def region_keys(
    embeddings: Float[Tensor, "batch dim h w"], labels: Int64[Tensor, "batch h w"], num_classes: int
) -> Keys:
    """Return for each image and class the mean of its unit-length embeddings, normalised and detached.

    Pixels without a direction are left out; a class that has no others has no key.

    Args:
        embeddings: Of any length.
        labels: Class ids; -1 is ignored.
        num_classes: Ids run from 0 to num_classes - 1.
    """
    pixels = embeddings.detach().flatten(2)  # (B, D, h, w) -> (B, D, h*w)
    flat = labels.flatten(1)
    # Each pixel's length goes into its weight, so that the map is not normalised as a whole.
    length = torch.linalg.vector_norm(pixels, dim=1, dtype=_at_least_float32(pixels.dtype))
    has_direction = _has_direction(length)
    weight = torch.where((flat >= 0) & has_direction, 1 / length, 0)
    # A weight of 0 does not silence what is not finite: one such pixel would undo the means of its whole image.
    pixels = torch.where(has_direction[:, None], pixels, 0)
    membership = torch.zeros(*flat.shape, num_classes, dtype=weight.dtype, device=weight.device)
    membership.scatter_(2, flat.clamp(min=0)[..., None], weight[..., None])
    sums = pixels.to(weight.dtype) @ membership  # (B, D, h*w) @ (B, h*w, class) -> (B, D, class)
    exists = torch.zeros(len(flat), num_classes + 1, dtype=torch.bool, device=flat.device)
    exists.scatter_(1, torch.where(flat >= 0, flat, num_classes), True)
    classes = torch.arange(num_classes, device=flat.device)
    names = torch.where(exists[:, :num_classes], classes, -1)
    return _storable(sums.transpose(1, 2).reshape(-1, sums.shape[1]), names.flatten())


def _storable(rows: Float[Tensor, "key dim"], labels: Int64[Tensor, " key"]) -> Keys:
    """Normalise; drop rows without a direction: they would stay for long."""
    rows = rows.to(_at_least_float32(rows.dtype))
    has_direction = _has_direction(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
    rows = torch.where(has_direction, rows, 0)
    return Keys(F.normalize(rows, dim=1), torch.where(has_direction[:, 0], labels, -1))


def _has_direction(length: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return which vectors are neither zero nor NaN nor infinite, which an overflow can make them."""
    return (length > MIN_LENGTH) & (length < torch.inf)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
