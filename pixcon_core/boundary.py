"""Boundary IoU: intersection over union of what lies near the boundaries of truth and prediction.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. A pixel belongs to the
band of its class if another class, or the edge of the image, is at most `width` pixels away, along rows, columns or
diagonals: the authors' code erodes each class's mask by so many steps of a 3x3 square, with nothing outside the image.
Intersections and unions of bands are summed over the data set before they are divided, as for IoU.

The authors have no void. Here it is left out as everywhere: a void pixel belongs to no band, and being near one puts no
pixel into a band, neither in the truth nor in the prediction, in which the same pixels are void.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy import ndarray

from pixcon_core.metrics import check_ids

DIAGONAL_SHARE = 0.02


def boundary_width(height: int, width: int) -> int:
    """Return how wide bands are in an image of this size, in pixels: 2 % of its diagonal."""
    return max(1, round(DIAGONAL_SHARE * float(np.hypot(height, width))))


def boundary_counts(
    predicted: UInt8[ndarray, "height width"],
    labels: UInt8[ndarray, "height width"],
    num_classes: int,
    ignore_index: int = 255,
) -> Int64[ndarray, "3 class"]:
    """Count the pixels of bands by class: in both bands, in the truth's, in the prediction's. Counts of images add up.

    Args:
        predicted: Class ids of one image.
        labels: The true ones.
        num_classes: Ids run from 0 to num_classes - 1 where the truth is not void.
        ignore_index: Label of void pixels, above all ids.

    Raises:
        ValueError: If a pixel that is not void has an id outside 0..num_classes - 1.
    """
    void = labels == ignore_index
    check_ids(labels[~void], predicted[~void], num_classes)
    width = boundary_width(*labels.shape)
    truth = _band(labels, void, width)
    answer = _band(predicted, void, width)
    both = truth & answer & (labels == predicted)
    return np.stack(
        [np.bincount(ids, minlength=num_classes) for ids in (labels[both], labels[truth], predicted[answer])]
    )


def _band(
    ids: UInt8[ndarray, "height width"], void: Bool[ndarray, "height width"], width: int
) -> Bool[ndarray, "height width"]:
    """Return which pixels are in the band of their class.

    A square that holds another class is one whose largest and smallest id differ: so all classes are done at once.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    largest = cv2.dilate(np.where(void, np.uint8(0), ids), square)
    smallest = cv2.erode(np.where(void, np.uint8(255), ids), square)
    band: ndarray = largest != smallest
    band[:width] = band[-width:] = band[:, :width] = band[:, -width:] = True
    band &= ~void
    return band
