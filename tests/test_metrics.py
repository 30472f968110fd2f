import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from pixcon_core.metrics import confusion_matrix, scores

IGNORE = 255


@pytest.fixture
def maps():
    """Predictions that are right for two pixels in three, and labels with every class and some void."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size=(3, 17, 23)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 2 / 3, labels, rng.integers(0, 5, size=labels.shape))
    labels[:, :4] = IGNORE
    return predicted.astype(np.uint8), labels


def counted(predicted, labels, num_classes):
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for answer, truth in zip(predicted.ravel(), labels.ravel(), strict=True):
        if truth != IGNORE:
            matrix[truth, answer] += 1
    return matrix


def test_confusion_matrix_matches_a_plain_count(maps):
    matrix = confusion_matrix(*maps, num_classes=5)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, counted(*maps, 5))


def test_confusion_matrix_and_scores_match_torchmetrics(maps):
    predicted, labels = (torch.from_numpy(ids.astype(np.int64)) for ids in maps)
    matrix = confusion_matrix(*maps, num_classes=5)
    theirs = multiclass_confusion_matrix(predicted, labels, 5, ignore_index=IGNORE)
    np.testing.assert_array_equal(matrix, theirs.numpy())

    ours = scores(matrix)
    settings = {"num_classes": 5, "ignore_index": IGNORE}
    per_class = multiclass_jaccard_index(predicted, labels, average="none", **settings)
    weighted = multiclass_jaccard_index(predicted, labels, average="weighted", **settings)
    np.testing.assert_allclose(ours.per_class_iou, per_class, rtol=1e-6)
    assert ours.miou == pytest.approx(per_class.mean().item())
    assert ours.frequency_weighted_iou == pytest.approx(weighted.item())
    assert ours.pixel_accuracy == pytest.approx(
        multiclass_accuracy(predicted, labels, average="micro", **settings).item()
    )
    assert ours.mean_class_accuracy == pytest.approx(
        multiclass_accuracy(predicted, labels, average="macro", **settings).item()
    )


def test_matrices_of_images_add_up_to_that_of_the_set(maps):
    predicted, labels = maps
    parts = [confusion_matrix(p, y, 5) for p, y in zip(predicted, labels, strict=True)]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(predicted, labels, 5))


def test_a_prediction_on_void_counts_for_nothing(maps):
    predicted, labels = maps
    other = np.where(labels == IGNORE, 77, predicted).astype(np.uint8)
    np.testing.assert_array_equal(confusion_matrix(other, labels, 5), confusion_matrix(predicted, labels, 5))


@pytest.mark.parametrize(
    ("predicted", "labels", "name"),
    [
        pytest.param([0, 5], [0, 1], "predicted", id="prediction-too-high"),
        pytest.param([0, -1], [0, 1], "predicted", id="prediction-negative"),
        pytest.param([0, 1], [0, 7], "labels", id="label-too-high"),
    ],
)
def test_an_id_out_of_range_is_an_error_that_names_it(predicted, labels, name):
    with pytest.raises(ValueError, match=rf"{name} must be in 0\.\.4 where not void, but got"):
        confusion_matrix(np.array(predicted), np.array(labels), 5)


def test_a_class_in_neither_truth_nor_prediction_is_left_out_of_the_mean():
    matrix = confusion_matrix(np.array([0, 0, 1, 3]), np.array([0, 1, 1, 1]), 5)
    result = scores(matrix)
    assert result.per_class_iou == (0.5, pytest.approx(1 / 3), None, 0.0, None)
    assert result.miou == pytest.approx((0.5 + 1 / 3 + 0) / 3)
    assert result.mean_class_accuracy == pytest.approx((1 + 1 / 3) / 2), "class 3 has no pixel to be accurate about"
    assert result.pixel_accuracy == 0.5
    assert result.frequency_weighted_iou == pytest.approx((1 * 0.5 + 3 / 3) / 4)


def test_scores_without_any_valid_pixel_are_not_a_number():
    result = scores(confusion_matrix(np.array([0, 1]), np.array([IGNORE, IGNORE]), 3))
    assert result.per_class_iou == (None, None, None)
    assert np.isnan([value for value in result if not isinstance(value, tuple)]).all()


def test_a_perfect_prediction_scores_one():
    labels = np.arange(4).repeat(3)
    result = scores(confusion_matrix(labels, labels, 4))
    assert (result.miou, result.pixel_accuracy, result.mean_class_accuracy, result.frequency_weighted_iou) == (
        1,
        1,
        1,
        1,
    )
