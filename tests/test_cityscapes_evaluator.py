"""Scores against the official Cityscapes evaluator, on files in Cityscapes' layout, to the last digit."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from pixcon_core.data import DATASETS, load_pair, make_miniature
from pixcon_core.data.cityscapes import RAW_IDS
from pixcon_core.metrics import confusion_matrix, counts_of, miou_of, scores

SPEC = DATASETS["cityscapes"]
TO_RAW = np.array(list(RAW_IDS.values()), np.uint8)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A miniature, and predictions for it: train ids by image id; one in five pixels of noise, and no `sky` at all."""
    root = make_miniature("mini-cityscapes", tmp_path_factory.mktemp("city"), num_train=2, num_val=5)
    rng, made = np.random.default_rng(0), {}
    for pair in SPEC.find_pairs(root, "val"):
        label = load_pair(SPEC, pair).label
        noise = rng.integers(0, 19, label.shape)
        prediction = np.where((rng.random(label.shape) < 0.2) | (label == 255), noise, label).astype(np.uint8)
        prediction[prediction == 10] = 2
        made[pair] = label, prediction
    return made


@pytest.fixture(scope="module")
def official(predicted, tmp_path_factory):
    """What the evaluator says of label PNGs; on void pixels these have ids of classes that are not evaluated, too."""
    evaluator = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    folder = tmp_path_factory.mktemp("results")
    truths, files = [], []
    for number, (pair, (label, prediction)) in enumerate(predicted.items()):
        raw = TO_RAW[prediction]
        raw[(label == 255) & (np.indices(label.shape)[1] % 2 == 0)] = (0, 4, 5, 9, 29)[number]
        files.append(str(folder / f"{pair.id}.png"))
        truths.append(str(pair.label))
        Image.fromarray(raw).save(files[-1])
    arguments = evaluator.args
    arguments.evalInstLevelScore, arguments.JSONOutput, arguments.quiet = False, False, True
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluateImgLists(files, truths, arguments)


def test_each_class_and_the_mean_are_the_evaluators_to_the_last_digit(predicted, official):
    matrices = [confusion_matrix(prediction, label, 19) for label, prediction in predicted.values()]
    ours = scores(sum(matrices))
    theirs = [official["classScores"][name] for name in SPEC.classes]
    assert [float("nan") if value is None else value for value in ours.per_class_iou] == pytest.approx(
        theirs, rel=0, abs=0, nan_ok=True
    )
    assert ours.miou == official["averageScoreClasses"]
    assert miou_of(np.stack([counts_of(matrix) for matrix in matrices])) == official["averageScoreClasses"]
    assert 0.3 < ours.miou < 0.9
    assert any(label.tobytes().count(255) for label, _ in predicted.values())


def test_and_those_of_a_plain_count(predicted):
    matrix = np.zeros((19, 19), np.int64)
    for label, prediction in predicted.values():
        for truth, answer in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if truth != 255:
                matrix[truth, answer] += 1
    found = sum(confusion_matrix(prediction, label, 19) for label, prediction in predicted.values())
    np.testing.assert_array_equal(found, matrix)
