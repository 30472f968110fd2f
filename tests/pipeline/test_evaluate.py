"""Evaluation through Ray: against a plain loop, with one worker and with two, and what is kept of it."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.rows import read_rows, split_rows
from pipeline.data.sources import find_all_pairs
from pipeline.evaluate import evaluate, evaluate_here, load_evaluation, save_evaluation
from pipeline.predicting.inference import predict
from pipeline.prepare import prepare
from pipeline.training.checkpoint import load_segmentor
from pixcon_core.boundary import boundary_counts
from pixcon_core.config import EvaluateConfig
from pixcon_core.data import DATASETS
from pixcon_core.metrics import confusion_matrix, miou_of, scores

SPEC = DATASETS["camvid"]


@pytest.fixture(scope="module")
def shards(ray_cluster, tiny_camvid, tmp_path_factory):
    pairs = find_all_pairs(SPEC, tiny_camvid)
    return prepare(SPEC, pairs, tmp_path_factory.mktemp("shards") / "camvid", max_bad_share=0)


@pytest.fixture(scope="module")
def found(fresh_checkpoint, shards):
    return evaluate(fresh_checkpoint, shards, split="train", num_examples=2)


def test_it_is_what_a_plain_loop_over_the_images_gives(fresh_checkpoint, shards, found):
    loaded, matrices, bands, ids = load_segmentor(fresh_checkpoint), [], [], []
    for one in read_rows(shards.folder, split_rows(shards, "train")):
        prediction = predict(loaded, one.image)
        matrices.append(confusion_matrix(prediction, one.label, 11))
        bands.append(boundary_counts(prediction, one.label, 11))
        ids.append(one.id)
    assert len(np.unique(prediction)) > 1
    assert found.num_images == len(ids) == 20
    assert found.images.ids == tuple(ids)
    np.testing.assert_array_equal(found.confusion, sum(matrices))
    np.testing.assert_array_equal(found.boundary, bands)
    assert found.scores == scores(sum(matrices), sum(bands))
    assert miou_of(found.images.counts) == found.scores.miou
    assert 0 < found.scores.boundary_iou < 1
    assert [one.id for one in found.examples] == [ids[0], ids[-1]]


@pytest.mark.parametrize(
    "how", [partial(evaluate, num_workers=2), evaluate_here], ids=["two workers", "in this process"]
)
def test_another_way_gives_the_same(fresh_checkpoint, shards, found, how):
    twice = how(fresh_checkpoint, shards, split="train", num_examples=2)
    assert twice.images.ids == found.images.ids
    for name in ("confusion", "boundary"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(found, name))
    np.testing.assert_array_equal(twice.images.counts, found.images.counts)
    assert twice.scores == found.scores
    for one, other in zip(twice.examples, found.examples, strict=True):
        np.testing.assert_array_equal(one.prediction, other.prediction)


def test_another_protocol_than_the_checkpoint_s_may_be_asked_for(fresh_checkpoint, shards):
    protocol = EvaluateConfig(window=(64, 64), flip=True)
    found = evaluate(fresh_checkpoint, shards, protocol=protocol, num_examples=1)
    example, loaded = found.examples[0], load_segmentor(fresh_checkpoint)
    np.testing.assert_array_equal(example.prediction, predict(loaded, example.image, protocol))
    assert (example.prediction != predict(loaded, example.image)).any()


@pytest.mark.parametrize("how", [evaluate, evaluate_here])
def test_labels_that_are_all_void_are_refused(fresh_checkpoint, shards, how):
    void = dataclasses.replace(shards.splits["val"], class_pixels=(0,) * 11)
    with pytest.raises(ValueError, match=r"^camvid: all labels of split test are void, so there is nothing to score\."):
        how(fresh_checkpoint, dataclasses.replace(shards, splits={"test": void}), split="test")


def test_what_is_kept_comes_back(found, tmp_path):
    file = save_evaluation(found, tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["evaluation.npz"]
    stored = load_evaluation(file)
    assert stored.ids == found.images.ids
    np.testing.assert_array_equal(stored.counts, found.images.counts)
    np.testing.assert_array_equal(stored.confusion, found.confusion)
    np.testing.assert_array_equal(stored.boundary_counts, found.boundary)
    assert [None if np.isnan(one) else one for one in stored.boundary] == [*found.scores.per_class_boundary_iou]


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other", "objects", "shapes"])
def test_what_is_no_evaluation_is_refused(found, tmp_path, damage):
    file = save_evaluation(found, tmp_path)
    arrays = dict(np.load(file))
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "text":
        file.write_text("not this")
    elif damage == "other":
        np.savez(file, ids=arrays["ids"])
    elif damage == "objects":
        np.savez(file, **arrays | {"ids": np.array([Path(), None], dtype=object)})
    else:
        np.savez(file, **arrays | {"counts": arrays["counts"][1:]})
    with pytest.raises(ValueError, match=r"evaluation\.npz is not what an evaluation left"):
        load_evaluation(file)


def test_more_workers_than_there_is_room_for_are_refused(fresh_checkpoint, shards):
    with pytest.raises(ValueError, match="num_workers must be less than the CPUs that Ray has"):
        evaluate(fresh_checkpoint, shards, num_workers=1000)
    with pytest.raises(ValueError, match="num_workers must be >= 1, but got 0"):
        evaluate(fresh_checkpoint, shards, num_workers=0)


def test_a_split_that_is_not_there_is_named(fresh_checkpoint, shards):
    with pytest.raises(ValueError, match="camvid has no split 'test' here, only train, val"):
        evaluate(fresh_checkpoint, shards, split="test")


def test_a_damaged_image_is_left_out_and_named(fresh_checkpoint, shards, tmp_path):
    folder = Path(shutil.copytree(shards.folder, tmp_path / "damaged"))
    file = folder / "val-00000.parquet"
    data = bytearray(file.read_bytes())
    data[data.find(b"\x89PNG") + 60] ^= 0xFF
    file.write_bytes(data)
    found = evaluate(fresh_checkpoint, dataclasses.replace(shards, folder=str(folder)))
    assert found.num_images == 5
    (one,) = found.skipped
    assert one.id not in found.images.ids
    assert "damaged since it was written" in one.reason
