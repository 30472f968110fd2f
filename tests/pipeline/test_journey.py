"""What ends a run before anything is written."""

import dataclasses

import pytest

from pipeline import journey
from pipeline.options import Request
from pixcon_core.config import IngestConfig, ModelConfig, RunConfig, TrainConfig


def request(out, data, **changes):
    config = RunConfig(
        dataset="camvid",
        data_root=str(data),
        model=ModelConfig(backbone="resnet10t", pretrained="false", output_stride=32),
        ingest=IngestConfig(crop=(32, 32)),
        train=TrainConfig(batch_size=2),
    )
    for name, fields in changes.items():
        config = dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **fields)})
    return Request(config, "camvid", out, None, ())


@pytest.mark.parametrize("train", [{"batch_size": 1}, {"batch_size": 2, "accumulate": 2}])
def test_one_image_of_one_pixel_at_a_time_ends_the_run(tmp_path, tiny_camvid, train):
    with pytest.raises(ValueError, match=r"train\.batch_size: one image at a time"):
        journey.run(request(tmp_path / "runs", tiny_camvid, train=train))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_fetched_before_anything_is_written(tmp_path, tiny_camvid, monkeypatch):
    def unreachable(backbone):
        raise ConnectionError("no network")

    monkeypatch.setattr("pixcon_core.models.backbone.check_hub", unreachable)
    with pytest.raises(ValueError, match=r"resnet10t could not be fetched \(no network\)"):
        journey.run(request(tmp_path / "runs", tiny_camvid, model={"pretrained": "true"}))
    assert list(tmp_path.iterdir()) == []
