"""Segmentation scores, all out of one confusion matrix.

Void pixels (`ignore_index` in the truth) are left out altogether, as Cityscapes' and OpenMMLab's evaluators do. Some
published CamVid figures instead count every prediction on a void pixel as a false positive, which lowers mIoU by
a point or two: the sources differ, so say which rule a figure was made with.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer
from numpy import ndarray


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
    for name, ids in (("labels", truth), ("predicted", answer)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"{name} must be in 0..{num_classes - 1} where not void, but got {ids.min()}..{ids.max()}."
            )
    counts = np.bincount(truth * num_classes + answer, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def scores(matrix: Int64[ndarray, "truth prediction"]) -> Scores:
    """Return the scores of a confusion matrix, which is summed over the whole data set.

    A mean over no class, of a data set without valid pixels, is NaN.
    """
    right = np.diag(matrix).astype(np.float64)
    in_truth, in_prediction = matrix.sum(axis=1), matrix.sum(axis=0)
    union = in_truth + in_prediction - right
    iou = np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
    accuracy = np.divide(right, in_truth, out=np.full_like(right, np.nan), where=in_truth > 0)
    total = in_truth.sum()
    return Scores(
        miou=_mean(iou),
        per_class_iou=tuple(None if np.isnan(value) else float(value) for value in iou),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
        mean_class_accuracy=_mean(accuracy),
        frequency_weighted_iou=float(np.nansum(in_truth * iou) / total) if total else float("nan"),
    )


def _mean(values: ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
