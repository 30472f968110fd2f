"""Cross-entropy at the labels' resolution, with class weights and online hard example mining; Lovász-softmax."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from pixcon_core.contrast.workers import World, sum_over_ranks
from pixcon_core.models.segmentor import SegmentorOutput

ALONE = World(1, 0)


class Ohem(NamedTuple):
    """Online hard example mining: the loss of easy pixels is left out.

    The mean is over the pixels kept, as in openseg.pytorch; OpenMMLab's divides by all pixels, and keeps `min_kept`
    for each image. Both lose one pixel where a batch has no more than `min_kept`; here it keeps them all.
    """

    threshold: float = 0.9
    """A pixel is easy if its true class has at least this probability."""
    min_kept: int = 100_000
    """Pixels of a worker's part of a batch that are kept at least, the hardest ones."""


def segmentation_loss(
    output: SegmentorOutput,
    labels: Integer[Tensor, "batch height width"],
    *,
    class_weights: Float[Tensor, " class"] | None = None,
    aux_weight: float,
    ignore_index: int = 255,
    ohem: Ohem | None = None,
    lovasz_weight: float = 0.0,
    world: World = ALONE,
) -> Float[Tensor, ""]:
    """Return cross-entropy of the logits plus `aux_weight` times that of the auxiliary logits, if there are any.

    Args:
        output: Logits of any resolution; they are brought bilinearly to the labels'.
        labels: Class ids.
        class_weights: Weight of each class; the loss is the mean over pixels weighted so, as PyTorch's.
        aux_weight: Factor of the auxiliary term; 0 leaves it out. (A DeepLabV3 that was built with another weight
            then has parameters without a gradient, for which distributed training waits in vain.)
        ignore_index: Label that is left out.
        ohem: Leaves easy pixels out of the main term.
        lovasz_weight: Factor of the Lovász-softmax loss of the main logits; needs segmentation_models_pytorch.
        world: The workers that train together, all of which call this at once. The mean is then over the pixels of
            all: the losses of the workers, which may have more or fewer void pixels, average to that of the whole
            batch, and so do the gradients under DDP. Lovász-softmax stays each worker's own.

    Returns:
        A float32 scalar, 0 with a graph where every label is ignored.
    """
    labels = labels.long()
    loss = _cross_entropy(output.logits, labels, class_weights, ignore_index, ohem, world)
    if lovasz_weight > 0:
        loss = loss + lovasz_weight * lovasz_softmax(output.logits, labels, ignore_index=ignore_index)
    if output.aux_logits is None or aux_weight == 0:
        return loss
    return loss + aux_weight * _cross_entropy(output.aux_logits, labels, class_weights, ignore_index, None, world)


def lovasz_softmax(
    logits: Float[Tensor, "batch class _ _"], labels: Int64[Tensor, "batch height width"], *, ignore_index: int = 255
) -> Float[Tensor, ""]:
    """Return a smooth stand-in for 1 - mIoU, over the classes that occur in the batch.

    Args:
        logits: Of any resolution; they are brought bilinearly to the labels'.
        labels: Class ids.
        ignore_index: Label that is left out.

    Returns:
        A float32 scalar in 0..1, 0 with a graph where every label is ignored.

    Source:
        Berman et al., "The Lovász-Softmax loss", CVPR 2018; computed by segmentation_models_pytorch.
    """
    from segmentation_models_pytorch.losses import MULTICLASS_MODE, LovaszLoss  # optional, and slow to import

    logits = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    if (labels == ignore_index).all():
        return logits.sum() * 0.0
    loss: Tensor = LovaszLoss(MULTICLASS_MODE, ignore_index=ignore_index)(logits, labels)
    return loss


def balanced_class_weights(class_pixels: Sequence[int]) -> Float[Tensor, " class"]:
    """Return weights 1 / log(1.02 + share of pixels), scaled to mean 1: rare classes weigh more.

    A class without pixels has the greatest weight, which is finite (1 / log(1.02), 35 times that of a class of all
    pixels, before scaling).

    Source:
        Paszke et al., "ENet", 2016, section 5.2.
    """
    total = sum(class_pixels)
    if total == 0:
        return torch.ones(len(class_pixels))
    raw = [1 / math.log(1.02 + pixels / total) for pixels in class_pixels]
    return torch.tensor(raw) * (len(raw) / sum(raw))


def _cross_entropy(
    logits: Float[Tensor, "batch class _ _"],
    labels: Int64[Tensor, "batch height width"],
    class_weights: Float[Tensor, " class"] | None,
    ignore_index: int,
    ohem: Ohem | None,
    world: World,
) -> Float[Tensor, ""]:
    logits = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    if ohem is not None:
        labels = _keep_hard(logits.detach(), labels, ignore_index, ohem)
    total = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_index, reduction="sum")
    valid = labels != ignore_index
    pixel_weights = valid if class_weights is None else class_weights[labels.masked_fill(~valid, 0)] * valid
    weight = sum_over_ranks(pixel_weights.sum().float(), world)
    # Not PyTorch's own mean, which is 0 / 0 where every label is ignored.
    return world.size * total / weight.clamp(min=torch.finfo(torch.float32).tiny)


def _keep_hard(
    logits: Float[Tensor, "batch class height width"],
    labels: Int64[Tensor, "batch height width"],
    ignore_index: int,
    ohem: Ohem,
) -> Int64[Tensor, "batch height width"]:
    """Return the labels with the easy pixels ignored."""
    valid = labels != ignore_index
    own = labels.masked_fill(~valid, 0)
    probability = logits.softmax(dim=1).gather(1, own[:, None])[:, 0]
    if labels.numel() <= ohem.min_kept:
        return labels
    # Void pixels rank last, so that the threshold is infinite where others are too few; no wait for a GPU.
    ranked = torch.where(valid, probability, math.inf).flatten()
    threshold = ranked.kthvalue(ohem.min_kept + 1).values.clamp(min=ohem.threshold)
    return labels.masked_fill(probability >= threshold, ignore_index)
