"""What Ray Data is asked to do on GPUs, which it refuses or takes before any of it runs: also where there are none."""

import numpy as np
import pytest

from pipeline.data.sources import find_all_pairs
from pipeline.evaluate import evaluate
from pipeline.predicting import predictor
from pipeline.predicting.input_files import Input
from pipeline.predicting.prediction import Output, predict_files
from pipeline.predicting.predictor import Workers
from pipeline.prepare import prepare
from pixcon_core.config import EvaluateConfig
from pixcon_core.data import DATASETS

ON_A_GPU = Workers(1, True, 1)


def rows_instead(monkeypatch, *rows):
    """Let executions end at once, with these rows."""
    monkeypatch.setattr("ray.data.Dataset.iter_rows", lambda dataset: iter(rows))


def test_evaluation_can_be_planned(ray_cluster, fresh_checkpoint, tiny_camvid, tmp_path, monkeypatch):
    spec = DATASETS["camvid"]
    shards = prepare(spec, find_all_pairs(spec, tiny_camvid), tmp_path / "camvid", max_bad_share=0)
    monkeypatch.setattr(predictor, "count_workers", lambda *_, **__: ON_A_GPU)
    rows_instead(monkeypatch, {"confusion": np.zeros((11, 11), int), "counted": [], "skipped": "{}"})
    with pytest.raises(ValueError, match="no image of split train can be read"):
        evaluate(fresh_checkpoint, shards, split="train", use_gpu=True)


def test_prediction_can_be_planned(ray_cluster, fresh_checkpoint, tmp_path, monkeypatch):
    rows_instead(monkeypatch, {"failure": "", "number": 0, "height": 4, "width": 5, "reason": ""})
    inputs = [Input(str(tmp_path / "a.png"), "a")]
    output = Output(tmp_path, ("labels",), ((0, 0, 0),) * 11)
    (found,) = predict_files(fresh_checkpoint, inputs, output, EvaluateConfig(), ON_A_GPU, lambda done, of: None)
    assert (found.height, found.width) == (4, 5)
