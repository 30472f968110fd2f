"""The commands on a machine that has a GPU, as a user starts them. Without a GPU all of it is skipped."""

import json

import pytest
import torch

from pipeline.evaluate_command import main as evaluate
from pipeline.run import main as run
from pipeline.tuning.study import open_study, records

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

SMALL = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.log_every 2"
)


@pytest.fixture(scope="module")
def finished(ray_cluster, tiny_camvid, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("finished")
    more = f"--train.steps 40 --data_root {tiny_camvid} --out {out}"
    run([*SMALL.split(), *more.split()])
    (file,) = out.glob("*/result.json")
    return file.parent


def test_a_run_is_scored_the_same_on_a_cpu(finished, tiny_camvid, tmp_path):
    found = json.loads((finished / "result.json").read_text())
    for device in ("cuda", "cpu"):
        given = f"--checkpoint {finished / 'checkpoint'} --data_root {tiny_camvid} --device {device}"
        evaluate([*given.split(), "--out", str(tmp_path / device)])
        result = json.loads((tmp_path / device / "result.json").read_text())
        assert result["miou"] == pytest.approx(found["miou"], abs=0.005), device
        assert result["images"] == 6


def test_a_search_shares_the_gpu(ray_cluster, tiny_camvid, tmp_path):
    more = f"--search --trials 3 --trial_steps 8 --concurrent 2 --data_root {tiny_camvid} --out {tmp_path}"
    run([*SMALL.split(), *more.split()])
    (best,) = tmp_path.glob("*/best.json")
    assert {trial.state for trial in records(open_study(best.parent))} <= {"complete", "stopped"}
