"""Whole runs, as a user starts them."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.predicting.inference import predict
from pipeline.prepare import dataset_spec
from pipeline.run import main
from pipeline.training.checkpoint import load_segmentor
from pixcon_core.data import load_pair
from pixcon_core.metrics import confusion_matrix, scores

pytestmark = pytest.mark.slow

SMALL = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.log_every 2"
)
STEPS = 36
LENGTH = f"--train.steps {STEPS} --train.checkpoint_every 6"
STOPPED = "error: stopped. The same command with --resume goes on from the last checkpoint"


def arguments(root, out, more=""):
    return [*SMALL.split(), "--data_root", str(root), "--out", str(out), *more.split()]


def last_line(text):
    return text.strip().splitlines()[-1]


def steps_done(out):
    """Return the last step in the metrics of the one run in a folder; 0 if there is none yet."""
    lines = [line for file in out.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.fixture(scope="module")
def finished(ray_cluster, tiny_camvid, tmp_path_factory):
    """The output folder of a finished run."""
    out = tmp_path_factory.mktemp("finished")
    main(arguments(tiny_camvid, out, LENGTH))
    return out


@pytest.fixture
def folder(finished):
    (file,) = finished.glob("*/result.json")
    return file.parent


def test_the_result_says_all_that_it_should(folder):
    result = json.loads((folder / "result.json").read_text())
    spec = dataset_spec("camvid")
    assert list(result["per_class_iou"]) == list(spec.classes)
    known = [iou for iou in result["per_class_iou"].values() if iou is not None]
    assert result["miou"] == pytest.approx(np.mean(known))
    assert 0 < result["pixel_accuracy"] < 1
    assert result["steps"] == STEPS
    assert result["images"] == 6
    assert result["skipped"] == []
    assert result["images_per_second"] > 0
    assert 0 <= result["data_wait"] < 1
    assert result["checkpoint"] == str(folder / "checkpoint")


def test_the_scores_are_those_of_the_checkpoint_on_the_files(folder, tiny_camvid):
    spec, loaded = dataset_spec("camvid"), load_segmentor(folder / "checkpoint")
    total = np.zeros((11, 11), dtype=np.int64)
    for pair in spec.find_pairs(tiny_camvid, "val"):
        image = np.array(Image.open(pair.image))
        total += confusion_matrix(predict(loaded, image), load_pair(spec, pair).label, 11)
    result = json.loads((folder / "result.json").read_text())
    assert result["miou"] == pytest.approx(scores(total).miou, abs=1e-6)
    assert result["pixel_accuracy"] == pytest.approx(scores(total).pixel_accuracy, abs=1e-6)


def test_the_run_folder_has_metrics_a_picture_and_the_configuration(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(2, STEPS + 1, 2))
    assert list((folder / "tensorboard").glob("events*"))
    picture = np.array(Image.open(folder / "predictions.png"))
    assert picture.shape[0] > 4 * 200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    assert json.loads((folder / "config.json").read_text())["config"]["ingest"]["crop"] == [64, 64]


def test_resuming_a_finished_run_shows_its_result_again(finished, folder, tiny_camvid, capsys):
    before = (folder / "result.json").read_bytes()
    main(arguments(tiny_camvid, finished, f"{LENGTH} --resume"))
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert last_line(printed) == str(folder / "result.json")
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.soak
def test_a_run_that_stopped_before_its_evaluation_is_gone_on_with(finished, folder, tiny_camvid, capsys):
    weights = (folder / "checkpoint" / "model.safetensors").read_bytes()
    before = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    main(arguments(tiny_camvid, finished, f"{LENGTH} --resume"))
    assert (folder / "checkpoint" / "model.safetensors").read_bytes() == weights
    after = json.loads((folder / "result.json").read_text())
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--train.batch_size 21", "train.batch_size must be at most the number of training images (20), but got 21"),
        ("--model.backbone resnet10x", "resnet10"),
        ("--data_root nowhere", "nowhere"),
        ("--train.class_weights 1 2 3", "one number for each of the 11 classes of camvid, but got 3"),
        ("--model.pretrained weights.pth", "weights.pth"),
        ("--train.device cuda", "train.device=cuda"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tiny_camvid, tmp_path, more, message, capsys):
    if "cuda" in more and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stop:
        main(arguments(tiny_camvid, tmp_path, f"--train.steps 2 {more}"))
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert message in error


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.soak
def test_a_run_that_diverges_says_so_once_and_is_not_tried_again(tiny_camvid, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments(tiny_camvid, tmp_path, "--train.steps 8 --train.lr 1e30 --train.precision float32"))
    assert stop.value.code == 2
    assert "The loss is not a finite number at step" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/result.json"))


@pytest.mark.parametrize(
    ("sign", "code"),
    [
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGINT, 130, id="stopped", marks=pytest.mark.soak),
    ],
)
def test_a_run_that_ended_early_and_is_resumed_comes_to_the_same_bits(
    sign, code, folder, tiny_camvid, tmp_path, capsys
):
    command = [sys.executable, "-m", "pipeline.run", *arguments(tiny_camvid, tmp_path, LENGTH)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and steps_done(tmp_path) < 14:
        time.sleep(0.02)
    process.send_signal(sign)
    _, errors = process.communicate()
    assert process.returncode == code, errors
    assert (STOPPED in errors) == (sign is signal.SIGINT)
    assert not list(tmp_path.glob("*/result.json"))
    main(arguments(tiny_camvid, tmp_path, f"{LENGTH} --resume"))
    assert f"Training: {STEPS}/{STEPS}" in capsys.readouterr().out
    (resumed,) = (file.parent for file in tmp_path.glob("*/result.json"))
    outcomes = []
    for one in (folder, resumed):
        records = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        weights = (one / "checkpoint" / "model.safetensors").read_bytes()
        outcomes.append((weights, [(record["step"], record["loss"]) for record in records]))
    assert outcomes[0] == outcomes[1]
