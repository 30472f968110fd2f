"""Boundary IoU against the definition by distances, class by class."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_cdt

from pixcon_core.boundary import boundary_counts, boundary_width

NUM_CLASSES, VOID = 6, 255


def maps(height, width, seed, void=0.1):
    """Blobs of six classes, a prediction that is like them but for noise and a shift, and some void."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, NUM_CLASSES, (4, 5)).astype(np.uint8)
    labels = cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    predicted = np.roll(labels, (3, -2), (0, 1))
    noise = rng.random(labels.shape)
    predicted = np.where(noise < 0.01, rng.integers(0, NUM_CLASSES, labels.shape), predicted).astype(np.uint8)
    holes = cv2.resize((rng.random((6, 6)) < void).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return predicted, np.where(holes > 0, VOID, labels).astype(np.uint8)


def by_distance(predicted, labels):
    """Chessboard distance of each pixel of a class to the nearest pixel of another one or outside; void is nothing."""
    height, width = labels.shape
    reach = boundary_width(height, width)
    valid = labels != VOID
    counts = np.zeros((3, NUM_CLASSES), dtype=np.int64)
    for number in range(NUM_CLASSES):
        bands = []
        for ids in (labels, predicted):
            other = np.pad((ids != number) & valid, 1, constant_values=True)
            distance = distance_transform_cdt(~other, metric="chessboard")[1:-1, 1:-1]
            bands.append((ids == number) & valid & (distance <= reach))
        truth, answer = bands
        counts[:, number] = (truth & answer).sum(), truth.sum(), answer.sum()
    return counts


@pytest.mark.parametrize(("height", "width"), [(90, 120), (121, 77), (3, 200), (1, 1), (2, 5)])
@pytest.mark.parametrize("void", [0, 0.2])
def test_counts_match_the_definition_by_distances(height, width, void):
    predicted, labels = maps(height, width, seed=height + width, void=void)
    found = boundary_counts(predicted, labels, NUM_CLASSES)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, by_distance(predicted, labels))


def test_without_void_each_mask_is_eroded_as_in_the_authors_code():
    predicted, labels = maps(100, 130, seed=1, void=0)
    reach = boundary_width(100, 130)
    for number, column in enumerate(boundary_counts(predicted, labels, NUM_CLASSES).T):
        masks = [ids == number for ids in (labels, predicted)]
        truth, answer = (mask & ~binary_erosion(mask, np.ones((3, 3)), reach, border_value=0) for mask in masks)
        assert column.tolist() == [(truth & answer).sum(), truth.sum(), answer.sum()]


def test_the_width_is_two_per_cent_of_the_diagonal():
    assert boundary_width(1024, 2048) == 46
    assert boundary_width(3, 4) == 1


def test_what_is_predicted_on_void_counts_for_nothing():
    predicted, labels = maps(90, 120, seed=3, void=0.3)
    other = np.where(labels == VOID, 200, predicted).astype(np.uint8)
    np.testing.assert_array_equal(
        boundary_counts(other, labels, NUM_CLASSES), boundary_counts(predicted, labels, NUM_CLASSES)
    )


def test_a_border_with_void_alone_is_no_boundary():
    labels = np.zeros((400, 400), np.uint8)
    labels[100:300, 100:300] = VOID
    reach = boundary_width(400, 400)
    frame = 400**2 - (400 - 2 * reach) ** 2
    assert boundary_counts(np.zeros_like(labels), labels, 2)[:, 0].tolist() == [frame] * 3


def test_an_image_of_void_has_no_bands():
    labels = np.full((20, 30), VOID, np.uint8)
    assert not boundary_counts(np.zeros_like(labels), labels, 2).any()


@pytest.mark.parametrize("name", ["predicted", "labels"])
def test_an_id_that_is_no_class_is_named_but_not_under_void(name):
    arrays = {"predicted": np.zeros((8, 8), np.uint8), "labels": np.zeros((8, 8), np.uint8)}
    arrays[name][2, 2] = NUM_CLASSES
    with pytest.raises(ValueError, match=rf"{name} must be in 0\.\.5 where not void, but got 0\.\.6"):
        boundary_counts(**arrays, num_classes=NUM_CLASSES)
    arrays["labels"][2, 2] = VOID
    assert boundary_counts(**arrays, num_classes=NUM_CLASSES).sum() > 0
