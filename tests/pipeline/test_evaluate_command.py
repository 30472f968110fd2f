"""`python -m pipeline.evaluate`: what it writes and says, and what it refuses."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data.sources import find_all_pairs
from pipeline.evaluate import load_evaluation
from pipeline.evaluate_command import main
from pipeline.prepare import prepare
from pipeline.training.checkpoint import load_segmentor, save_checkpoint
from pixcon_core.data import DATASETS
from pixcon_core.metrics import miou_of, paired_bootstrap

SPEC = DATASETS["camvid"]


@pytest.fixture(scope="module")
def data(ray_cluster, tiny_camvid, tmp_path_factory):
    """Shards with both splits."""
    folder = tmp_path_factory.mktemp("shards") / "camvid"
    prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), folder, max_bad_share=0)
    return folder


@pytest.fixture(scope="module")
def other(fresh_checkpoint, tmp_path_factory):
    """A checkpoint with other weights in its last layer."""
    folder = shutil.copytree(fresh_checkpoint, tmp_path_factory.mktemp("other") / "checkpoint")
    weights = load_file(folder / "model.safetensors")
    last = [name for name in weights if name.startswith("head.classifier") and name.endswith("weight")][-1]
    generator = torch.Generator().manual_seed(1)
    weights[last] = torch.randn(weights[last].shape, generator=generator) * weights[last].std()
    save_file(weights, folder / "model.safetensors")
    return folder


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_scores_and_their_difference_to_a_baseline(fresh_checkpoint, other, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.predicting.predictor.load_segmentor", None)  # once, by the command, is enough
    given = ["--checkpoint", str(fresh_checkpoint), "--data_root", str(data), "--evaluate.scales", "0.5", "1"]
    main([*given, "--baseline", str(other), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.strip().endswith(str(tmp_path / "out" / "result.json"))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["evaluate"]["scales"] == [0.5, 1.0]
    assert (result["dataset"], result["split"], result["images"]) == ("camvid", "val", 6)
    assert list(result["per_class_iou"]) == list(result["per_class_boundary_iou"]) == list(SPEC.classes)
    stored = load_evaluation(tmp_path / "out" / "evaluation.npz")
    assert miou_of(stored.counts) == result["miou"]
    assert np.nanmean(stored.boundary) == pytest.approx(result["boundary_iou"])

    main(["--checkpoint", str(other), *given[2:], "--out", str(tmp_path / "other")])
    baseline = load_evaluation(tmp_path / "other" / "evaluation.npz")
    expected = paired_bootstrap([baseline.counts], [stored.counts])
    difference = result["baseline"]["difference"]
    assert (difference["mean"], difference["low"], difference["high"]) == expected
    assert result["baseline"]["miou"] == miou_of(baseline.counts)
    assert expected.low < expected.mean < expected.high
    points = [f"{100 * value:+.2f}" for value in expected]
    assert f"Difference: {points[0]} points, 95 % interval over images {points[1]} to {points[2]}" in printed

    error = refused(capsys, *given, "--out", tmp_path / "out")
    assert f"{tmp_path / 'out'} has a result.json already; --overwrite writes over it." in error


@pytest.fixture
def no_work(monkeypatch):
    """Shards are neither looked for nor written."""

    def fail(*_):
        raise AssertionError("it began")

    monkeypatch.setattr("pipeline.evaluate_command._find_shards", fail)


@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.usefixtures("no_work")
def test_an_out_that_cannot_be_a_folder_is_refused_before_any_work(fresh_checkpoint, tmp_path, capsys, below):
    (tmp_path / "file").touch()
    given = ["--checkpoint", fresh_checkpoint]
    for flag in ("--out", "--runs"):
        error = refused(capsys, *given, flag, tmp_path / "file" / below)
        assert f"{flag}: {tmp_path / 'file' / below} must be a folder, but {tmp_path / 'file'} is a file." in error


@pytest.mark.usefixtures("no_work")
def test_a_data_set_of_other_classes_is_refused_before_any_work(fresh_checkpoint, tmp_path, capsys):
    error = refused(capsys, "--checkpoint", fresh_checkpoint, "--dataset", "mini-cityscapes", "--runs", tmp_path)
    assert "was trained for 11 classes" in error
    assert "but mini-cityscapes has 19" in error


@pytest.mark.parametrize("flag", ["--checkpoint", "--baseline"])
@pytest.mark.usefixtures("no_work")
def test_damaged_weights_are_named_before_any_work(fresh_checkpoint, tmp_path, capsys, flag):
    damaged = shutil.copytree(fresh_checkpoint, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    given = {"--checkpoint": fresh_checkpoint, "--baseline": fresh_checkpoint} | {flag: damaged}
    error = refused(capsys, *(part for pair in given.items() for part in pair))
    assert f"{damaged / 'model.safetensors'} cannot be read" in error


@pytest.mark.usefixtures("ray_cluster")
def test_what_does_not_go_together_is_refused(fresh_checkpoint, data, tmp_path, capsys):
    given = ["--checkpoint", fresh_checkpoint, "--data_root", data, "--out", tmp_path / "out"]
    assert "has no split test, only train, val" in refused(capsys, *given, "--split", "test")
    assert "needs a GPU" in refused(capsys, *given, "--device", "cuda") or torch.cuda.is_available()
    loaded = load_segmentor(fresh_checkpoint)
    small = tmp_path / "small"
    small.mkdir()
    meta = dataclasses.replace(loaded.meta, classes=("a", "b"), palette=((0, 0, 0), (1, 1, 1)))
    save_checkpoint(small, loaded.model, meta, {})
    error = refused(capsys, *given, "--baseline", small)
    assert f"--baseline: {small} is of 2 classes" in error
    assert not (tmp_path / "out").exists()
