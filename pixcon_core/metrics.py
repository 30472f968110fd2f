"""Segmentation scores, out of a confusion matrix or of each image's share of it.

Void pixels (`ignore_index` in the truth) are left out altogether, as Cityscapes' and OpenMMLab's evaluators do. Some
published CamVid figures instead count every prediction on a void pixel as a false positive, which lowers mIoU by
a point or two: the sources differ, so say which rule a figure was made with.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer
from numpy import ndarray

RESAMPLES_AT_ONCE = 100


class ImageCounts(NamedTuple):
    """What each image of a split adds to the scores of one checkpoint: enough for those of any choice of images."""

    ids: tuple[str, ...]
    counts: Int64[ndarray, "image 3 class"]
    """Pixels that are right (the intersection), in the truth, in the prediction; void left out."""


class Difference(NamedTuple):
    """A difference of mIoU between two methods, in -1..1, and an interval around it."""

    mean: float
    """Over seeds, on all images."""
    low: float
    high: float


class Scores(NamedTuple):
    """Scores of a data set, each in 0..1."""

    miou: float
    """Mean of `per_class_iou` over the classes that have one; NaN where none has."""
    per_class_iou: tuple[float | None, ...]
    """Intersection over union; None for a class that is in neither truth nor prediction."""
    pixel_accuracy: float
    """Share of pixels that are predicted right."""
    mean_class_accuracy: float
    """Mean over the classes in the truth of the share of their pixels that are predicted right."""
    frequency_weighted_iou: float
    """Mean of intersection over union, each class weighing as many pixels as it has in the truth."""
    boundary_iou: float
    """Mean of `per_class_boundary_iou` over the classes that have one; NaN where none has."""
    per_class_boundary_iou: tuple[float | None, ...]
    """Intersection over union of what lies near boundaries, see `pixcon_core.boundary`; None where there is none."""


def confusion_matrix(
    predicted: Integer[ndarray, "*size"],
    labels: Integer[ndarray, "*size"],
    num_classes: int,
    ignore_index: int = 255,
) -> Int64[ndarray, "truth prediction"]:
    """Count pixels by class: rows are the truth, columns the prediction. Matrices of images add up.

    Args:
        predicted: Class ids of one image or many.
        labels: The true ones; any shape, the same for both.
        num_classes: Ids run from 0 to num_classes - 1.
        ignore_index: Label of void pixels, which are left out whatever was predicted there.

    Raises:
        ValueError: If a pixel that is not void has an id outside 0..num_classes - 1.
    """
    valid = labels != ignore_index
    truth, answer = labels[valid].astype(np.int64), predicted[valid].astype(np.int64)
    check_ids(truth, answer, num_classes)
    counts = np.bincount(truth * num_classes + answer, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def check_ids(truth: Integer[ndarray, " pixel"], answer: Integer[ndarray, " pixel"], num_classes: int) -> None:
    """Raise ValueError if a class id of pixels that are not void is outside 0..num_classes - 1."""
    for name, ids in (("labels", truth), ("predicted", answer)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"{name} must be in 0..{num_classes - 1} where not void, but got {ids.min()}..{ids.max()}."
            )


def counts_of(matrix: Int64[ndarray, "truth prediction"]) -> Int64[ndarray, "3 class"]:
    """Return the pixels of each class that are right, in the truth, in the prediction."""
    return np.stack([np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)])


def scores(matrix: Int64[ndarray, "truth prediction"], boundary: Int64[ndarray, "3 class"] | None = None) -> Scores:
    """Return the scores of a confusion matrix.

    A mean over no class, of a data set without valid pixels, is NaN.

    Args:
        matrix: Summed over the whole data set.
        boundary: What `boundary_counts` gives, summed as well; without it there are no boundary scores.
    """
    counts = counts_of(matrix)
    iou = iou_of(counts)
    right, in_truth, _ = counts
    accuracy = np.divide(right, in_truth, out=np.full_like(iou, np.nan), where=in_truth > 0)
    near = np.full_like(iou, np.nan) if boundary is None else iou_of(boundary)
    total = in_truth.sum()
    return Scores(
        miou=_mean(iou),
        per_class_iou=_listed(iou),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
        mean_class_accuracy=_mean(accuracy),
        frequency_weighted_iou=float(np.nansum(in_truth * iou) / total) if total else float("nan"),
        boundary_iou=_mean(near),
        per_class_boundary_iou=_listed(near),
    )


def iou_of(
    counts: Integer[ndarray, "*more 3 class"] | Float64[ndarray, "*more 3 class"],
) -> Float64[ndarray, "*more class"]:
    """Return intersection over union of each class; NaN for one that is in neither truth nor prediction."""
    right, in_truth, in_prediction = np.moveaxis(counts.astype(np.float64), -2, 0)
    union = in_truth + in_prediction - right
    iou: ndarray = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
    return iou


def miou_of(counts: Int64[ndarray, "*image 3 class"]) -> float:
    """Return the mIoU of some images together, as `scores` does; NaN where there is no valid pixel."""
    return _mean(iou_of(counts.reshape(-1, *counts.shape[-2:]).sum(axis=0)))


def paired_bootstrap(
    baseline: Sequence[Int64[ndarray, "_image 3 class"]],
    treated: Sequence[Int64[ndarray, "_image 3 class"]],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return by how much the mIoU of one method is above that of another, on the same images.

    Images are drawn anew, as many as there are and with replacement; the same ones for both methods and all seeds, so
    that images that are hard for both do not widen the interval. It says how far the difference hangs on the choice of
    images. It says nothing of other seeds than the given ones.

    Args:
        baseline: `ImageCounts.counts` of each seed.
        treated: The same of the other method: the same images in the same order, and paired by seed.
        resamples: Draws.
        level: Share of the draws that lie in the interval, as many below it as above.
        seed: Of the draws.

    Raises:
        ValueError: If the two are not of the same seeds, images and classes, or there are none.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: the percentile interval.
    """
    shapes = {counts.shape for counts in (*baseline, *treated)}
    if len(baseline) != len(treated) or len(shapes) != 1 or 0 in next(iter(shapes)):
        raise ValueError(
            "paired_bootstrap must get counts of the same images, classes and seeds for both methods, but got"
            f" {[counts.shape for counts in baseline]} and {[counts.shape for counts in treated]}."
        )
    if not (0 < level < 1 and resamples >= 1):
        raise ValueError(f"level must be in (0, 1) and resamples >= 1, but got {level} and {resamples}.")
    num_images, _, num_classes = next(iter(shapes))
    # (image, method x seed x 3 x class): one product with the numbers of draws sums all. Exact below 2^53 pixels.
    stacked = np.stack([*baseline, *treated], axis=1).reshape(num_images, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = []
    for first in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - first)
        times = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=size).astype(np.float64)
        drawn.append(_mean_difference((times @ stacked).reshape(size, 2, len(baseline), 3, num_classes)))
    differences = np.concatenate(drawn)
    tail = (1 - level) / 2
    low, high = np.nanquantile(differences, [tail, 1 - tail])
    whole = _mean_difference(stacked.sum(axis=0).reshape(1, 2, len(baseline), 3, num_classes))
    return Difference(float(whole[0]), float(low), float(high))


def _mean_difference(sums: Float64[ndarray, "draw 2 seed 3 class"]) -> Float64[ndarray, " draw"]:
    iou = iou_of(sums)
    number = (~np.isnan(iou)).sum(axis=-1)
    means = np.divide(np.nansum(iou, axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0)
    difference: ndarray = (means[:, 1] - means[:, 0]).mean(axis=-1)
    return difference


def _listed(values: Float64[ndarray, " class"]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _mean(values: Float64[ndarray, " class"]) -> float:
    defined = values[~np.isnan(values)]
    # Added one after the other, as the Cityscapes evaluator does: the last digit depends on it.
    return float(np.cumsum(defined)[-1] / defined.size) if defined.size else float("nan")
