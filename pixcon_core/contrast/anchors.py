"""Which pixels ask: anchors, drawn by class and image.

Everything has a fixed shape and a mask: no loop over classes or images, no `nonzero`, no wait for a GPU.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from pixcon_core.contrast.draws import ANCHOR_TIES, HARD_PHASE, PIXEL_ORDER, random_bits, random_unit


class ClassOrder(NamedTuple):
    """All pixels of a batch, sorted by (image, class), in random order within.

    A group is one class in one image; group ids are image * num_classes + class.
    """

    pixel: Int64[Tensor, " pixel"]
    """Flat index into (B, h, w)."""
    group: Int64[Tensor, " pixel"]
    """Group of that pixel; B * num_classes where it is ignored."""
    start: Int64[Tensor, " group_plus_one"]
    """Where each group begins; the last entry is where the ignored pixels do."""
    draw: Int64[Tensor, " pixel"]
    """The random number of that pixel, in [0, 2^32)."""


class Anchors(NamedTuple):
    """The anchor pixels, those that most need a place first; padded."""

    pixel: Int64[Tensor, " anchor"]
    """Flat index into (B, h, w); 0 in the padding."""
    label: Int64[Tensor, " anchor"]
    """Class; -1 in the padding."""
    is_hard: Bool[Tensor, " anchor"]
    """Whether the pixel is wrongly predicted."""
    draw: Int64[Tensor, " anchor"]
    """The random number of the pixel, in [0, 2^32)."""


def shuffle_by_class(
    labels: Int64[Tensor, "batch h w"],
    num_classes: int,
    seed: Int64[Tensor, ""],
    first_image: Int64[Tensor, ""] | int = 0,
) -> ClassOrder:
    """Sort a batch's pixels by image and class, at random within.

    Args:
        labels: Class ids; -1 is ignored.
        num_classes: Ids run from 0 to num_classes - 1.
        seed: Of this step's draws.
        first_image: Number of the batch's first image among those of all workers, so that each image has
            draws of its own and the same ones whichever worker has it.
    """
    batch, pixels = len(labels), labels[0].numel()
    flat = labels.flatten(1)  # (B, h, w) -> (B, h*w)
    image = torch.arange(batch, device=labels.device)[:, None]
    group = torch.where(flat >= 0, image * num_classes + flat, batch * num_classes).flatten()
    within = torch.arange(pixels, device=labels.device)[None, :]
    bits = random_bits(seed, PIXEL_ORDER, image + first_image, within).flatten()
    # One integer carries both: sorting it is several times faster than an argsort and a stable sort after it.
    composite, pixel = torch.sort((group << 32) | bits)
    group = composite >> 32
    start = torch.searchsorted(group, torch.arange(batch * num_classes + 1, device=labels.device))
    return ClassOrder(pixel, group, start, composite & 0xFFFFFFFF)


def sample_anchors(
    order: ClassOrder,
    is_wrong: Bool[Tensor, " pixel"] | None,
    *,
    num_classes: int,
    max_anchors: int,
    max_views: int,
    hard_anchor_ratio: float | None,
    seed: Int64[Tensor, ""],
) -> Anchors:
    """Draw anchors: each class of each image gets its first before any gets its second, and so on.

    So places that a small class leaves unused go to the others, and where groups outnumber `max_anchors`, a
    random choice of them gets one each. Within a group, a share `hard_anchor_ratio` of however many it gets
    are wrongly predicted pixels, rounded up or down at random with that mean; where one kind is short the
    other fills up.

    Args:
        order: The batch's pixels by image and class.
        is_wrong: Whether each pixel, by its flat index, is wrongly predicted; None if that is not known.
        num_classes: As in `order`.
        max_anchors: At most so many in all.
        max_views: At most so many of one class in one image.
        hard_anchor_ratio: In [0, 1]; None draws without regard to predictions.
        seed: Of this step's draws.

    Source:
        Wang et al., ICCV 2021, "segmentation-aware hard anchor sampling"; equal shares for classes of unequal
        size and for any number of classes are this implementation's.
    """
    last = order.pixel.numel() - 1
    is_hard = torch.zeros_like(order.pixel, dtype=torch.bool) if is_wrong is None else is_wrong[order.pixel]
    begin = order.start[order.group]
    if hard_anchor_ratio is None:
        rank = torch.arange(last + 1, device=begin.device) - begin
    else:
        rank = _rank_with_share(order, is_hard, begin, hard_anchor_ratio, seed)

    is_candidate = (order.group < len(order.start) - 1) & (rank < max_views)
    urgency = rank + random_unit(seed, ANCHOR_TIES, order.draw)
    urgency = torch.where(is_candidate, urgency, math.inf)
    urgency, chosen = urgency.topk(min(max_anchors, last + 1), largest=False)
    is_anchor = urgency < math.inf
    return Anchors(
        pixel=torch.where(is_anchor, order.pixel[chosen], 0),
        label=torch.where(is_anchor, order.group[chosen] % num_classes, -1),
        is_hard=is_hard[chosen] & is_anchor,
        draw=order.draw[chosen],
    )


def pad_anchors(anchors: Anchors, length: int) -> Anchors:
    """Return the anchors with padding up to a length that all workers agree on."""
    missing = length - len(anchors.label)
    return Anchors(
        F.pad(anchors.pixel, (0, missing)),
        F.pad(anchors.label, (0, missing), value=-1),
        F.pad(anchors.is_hard, (0, missing)),
        F.pad(anchors.draw, (0, missing)),
    )


def _rank_with_share(
    order: ClassOrder,
    is_hard: Bool[Tensor, " pixel"],
    begin: Int64[Tensor, " pixel"],
    ratio: float,
    seed: Int64[Tensor, ""],
) -> Int64[Tensor, " pixel"]:
    """Rank each group's pixels so that every prefix holds the wanted share of hard ones.

    Systematic sampling: with a random phase u of the group, the j-th hard pixel is due at place
    ceil((j + 1 - u) / ratio), the j-th easy one at floor((j + u) / (1 - ratio)) + 1; together they fill each
    place once. A kind that has run out is skipped, so its places fall to the other.
    """
    place = torch.arange(len(is_hard), device=is_hard.device)
    hard_before = torch.cat([is_hard.new_zeros(1, dtype=torch.long), is_hard.cumsum(0)])
    end = torch.cat([order.start, order.start.new_full((1,), len(place))])[order.group + 1]
    hard_at_begin = hard_before[begin]
    num_hard = hard_before[end] - hard_at_begin
    num_easy = end - begin - num_hard
    hard_index = hard_before[:-1] - hard_at_begin
    easy_index = place - begin - hard_index
    index = torch.where(is_hard, hard_index, easy_index)

    # The group's phase comes from its first pixel, not from its id: renaming the classes changes no draw.
    phase = random_unit(seed, HARD_PHASE, order.draw[begin.clamp(max=len(place) - 1)])
    never = torch.full_like(phase, 2.0**31)
    hard_due = torch.ceil((index + 1 - phase) / ratio) if ratio > 0 else never
    easy_due = torch.floor((index + phase) / (1 - ratio)) + 1 if ratio < 1 else never
    others_before = torch.where(is_hard, hard_due, easy_due).long() - 1 - index
    return index + torch.minimum(others_before, torch.where(is_hard, num_easy, num_hard)).clamp(min=0)
