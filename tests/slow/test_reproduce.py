"""Whole reproductions, as a user starts them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate import load_evaluation
from pipeline.options import load, store
from pipeline.reproduce import main
from pipeline.tuning.options import SearchOptions
from pixcon_core.metrics import miou_of, paired_bootstrap
from pixcon_core.override import override
from pixcon_core.presets import PRESETS

pytestmark = pytest.mark.slow

SMALL = {
    "dataset": "camvid",
    "model": {"head_channels": 16, "projection_dim": 16},
    "contrast": {"memory_size": 50},
    "ingest": {"crop": (64, 64)},
    "train": {"batch_size": 4, "precision": "float32", "log_every": 1, "checkpoint_every": 4, "steps": 24},
}
RUNS = ["camvid/contrast-seed0", "camvid/baseline-seed0"]


def write_search(out, root, changes, **train):
    """Leave what a search leaves, with one trial."""
    folder = out / "camvid-search-1"
    folder.mkdir(parents=True)
    config = override(PRESETS["mini-camvid"], {**SMALL, "data_root": str(root), "train": {**SMALL["train"], **train}})
    store(folder, "mini-camvid", config, SearchOptions())
    trial = {"number": 3, "state": "complete", "changes": changes, "miou": 0.1, "step": 8, "reason": ""}
    (folder / "best.json").write_text(json.dumps({"best": trial, "trial_steps": 8}))
    (folder / "trials.json").write_text(json.dumps([trial]))
    return folder


def command(out, more="--seeds 1"):
    return [sys.executable, "-m", "pipeline.reproduce", "--trial", "best", "--out", str(out), *more.split()]


def only_folder(out):
    (file,) = out.glob("reproduce-*/reproduce.json")
    return file.parent


def steps_of(folder):
    file = folder / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines() if line] if file.exists() else []


@pytest.fixture(scope="module")
def undisturbed(tiny_camvid, tmp_path_factory):
    """The folder of a reproduction that nothing happened to, and what it printed."""
    out = tmp_path_factory.mktemp("undisturbed")
    write_search(out, tiny_camvid, {"contrast.temperature": 0.3})
    done = subprocess.run(command(out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return only_folder(out), done


def test_each_run_has_a_folder_as_any_run_has(undisturbed):
    folder, _ = undisturbed
    for name in RUNS:
        run, result = load(folder / name), json.loads((folder / name / "result.json").read_text())
        assert run.preset == "mini-camvid"
        assert run.config.train.steps == result["steps"] == 24
        assert run.config.contrast.weight == (0.1 if "contrast" in name else 0)
        assert run.config.contrast.temperature == 0.3
        assert result["images"] == 6
        assert steps_of(folder / name) == list(range(1, 25))
        assert (folder / name / "checkpoint" / "model.safetensors").exists()
        assert (folder / name / "predictions.png").exists()
        images = load_evaluation(folder / name / "evaluation.npz")
        assert miou_of(images.counts) == pytest.approx(result["miou"])
        assert len(images.ids) == 6


def test_a_pair_begins_with_the_same_weights_and_images(undisturbed):
    folder, _ = undisturbed
    first, other = (json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[0]) for name in RUNS)
    assert first["cross_entropy"] == other["cross_entropy"]


def test_the_summary_is_that_of_the_runs(undisturbed):
    folder, _ = undisturbed
    state = json.loads((folder / "reproduce.json").read_text())
    assert [(run["folder"], run["state"]) for run in state["runs"]] == [(name, "finished") for name in RUNS]
    assert state["trial"] == {"name": "trial3", "dataset": "camvid", "origin": str(folder.parent / "camvid-search-1")}
    assert (state["seeds"], state["steps"], state["shortened"]) == ([0], {"camvid": 24}, False)
    assert state["datasets"]["camvid"]["data"] == "real"
    assert Path(state["datasets"]["camvid"]["shards"], "dataset.json").exists()
    assert list(state["absent"]) == ["cityscapes", "pascal-context", "coco-stuff"]
    summary = state["summary"]["camvid"]
    counts = []
    for name in reversed(RUNS):
        images = load_evaluation(folder / name / "evaluation.npz")
        counts.append([images.counts[np.argsort(images.ids)]])
        assert summary[name.split("/")[1].split("-")[0]]["miou"] == pytest.approx([miou_of(images.counts)])
    assert summary["difference"] == pytest.approx(paired_bootstrap(*counts)._asdict())


def test_what_is_printed_fits_80_columns(undisturbed):
    folder, done = undisturbed
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    free = [line for line in lines if str(folder.parent) not in line]
    assert max(map(len, free)) <= 80
    assert [line.split()[0] for line in lines if line.count("±") or "mIoU" in line][:2]
    assert f"Page:  {folder / 'report.html'}" in lines
    assert lines[-1] == str(folder / "reproduce.json")


def test_the_same_command_after_the_end_shows_it_again_and_trains_nothing(undisturbed):
    folder, done = undisturbed
    before = {name: (folder / name / "result.json").stat().st_mtime_ns for name in RUNS}
    again = subprocess.run(command(folder.parent), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2 of them done" in again.stdout
    assert {name: (folder / name / "result.json").stat().st_mtime_ns for name in RUNS} == before
    table = [line for line in done.stdout.splitlines() if line.startswith("camvid  ")]
    assert table == [line for line in again.stdout.splitlines() if line.startswith("camvid  ")]


def wait_for(process, out, at_least):
    """Wait until some run has done so many steps, and none is done."""
    while process.poll() is None:
        time.sleep(0.05)
        for file in out.glob("reproduce-*/*/*/metrics.jsonl"):
            with contextlib.suppress(ValueError):
                if max(steps_of(file.parent), default=0) >= at_least:
                    return
    pytest.fail("it ended before that")


def training_process(ancestor):
    """Return a process in which a run trains, below another one."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(b"ray::train_run") and is_below(int(file.parent.name), ancestor):
                return int(file.parent.name)
    return pytest.fail("nothing trains")


def is_below(pid, ancestor):
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


@pytest.mark.soak
@pytest.mark.parametrize("what", ["command killed", "command stopped", "training killed"])
def test_what_was_killed_half_way_goes_on_to_the_same_weights(what, undisturbed, tiny_camvid, tmp_path):
    write_search(tmp_path, tiny_camvid, {"contrast.temperature": 0.3})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(tmp_path), **pipes, start_new_session=True)
    wait_for(process, tmp_path, at_least=10)
    if what == "training killed":
        os.kill(training_process(process.pid), signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode == 0, said
    else:
        process.send_signal(signal.SIGKILL if what == "command killed" else signal.SIGINT)
        _, said = process.communicate()
        if what == "command stopped":
            assert process.returncode == 130
            assert len(said.strip().splitlines()) == 1
            assert "The same command goes on where it was" in said
        done = subprocess.run(command(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folder = only_folder(tmp_path)
    for name in RUNS:
        for file in ("model.safetensors", "meta.json"):
            mine = (folder / name / "checkpoint" / file).read_bytes()
            assert mine == (undisturbed[0] / name / "checkpoint" / file).read_bytes()
        assert steps_of(folder / name) == list(range(1, 25))
        assert [file.name for file in (folder / name).glob("checkpoint*")] == ["checkpoint"]
    mine, theirs = (json.loads((one / "reproduce.json").read_text()) for one in (folder, undisturbed[0]))
    for summary in (mine["summary"]["camvid"], theirs["summary"]["camvid"]):
        for method in ("contrast", "baseline"):
            del summary[method]["images_per_second"]
    assert mine["summary"] == theirs["summary"]


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_that_fails_is_recorded_and_the_others_go_on_and_so_do_more_seeds(tiny_camvid, tmp_path, capsys):
    write_search(tmp_path, tiny_camvid, {"contrast.weight": 1e38, "contrast.warmup_steps": 0}, steps=4)
    arguments = ["--out", str(tmp_path), "--seeds", "1"]
    main(arguments)
    folder = only_folder(tmp_path)
    contrast, baseline = json.loads((folder / "reproduce.json").read_text())["runs"]
    assert (contrast["state"], baseline["state"]) == ("failed", "finished")
    assert "The loss is not a finite number" in contrast["reason"]
    assert "DivergedError" in (folder / RUNS[0] / "error.txt").read_text()
    printed = capsys.readouterr().out
    assert f"Failed: {RUNS[0]}" in printed
    main([*arguments[:-1], "2"])
    assert "Runs: 4 (contrast and baseline; 2 seeds), 1 of them done." in capsys.readouterr().out
    assert only_folder(tmp_path) == folder
    states = {run["folder"]: run["state"] for run in json.loads((folder / "reproduce.json").read_text())["runs"]}
    assert states[RUNS[1]] == states["camvid/baseline-seed1"] == "finished"


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_an_ablation_writes_its_table_beside_the_comparison(tiny_camvid, tmp_path, capsys):
    write_search(tmp_path, tiny_camvid, {"contrast.temperature": 0.3}, steps=2)
    main(["--out", str(tmp_path), "--seeds", "1", "--ablation", "memory"])
    folder = only_folder(tmp_path)
    found = json.loads((folder / "ablation-memory.json").read_text())
    assert (found["ablation"], found["dataset"], found["seeds"], found["steps"]) == ("memory", "camvid", [0], 2)
    assert [len(row["miou"]) for row in found["rows"]] == [1] * 5
    assert found["rows"][0]["changes"] == {"contrast.weight": 0.0}
    table = capsys.readouterr().out.partition("Memory: camvid, 1 seed, 2 steps")[2].splitlines()
    assert [line[:28].strip() for line in table[2:7]] == [row["label"] for row in found["rows"]]
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path), "--trial", "4"])
    assert stop.value.code == 2
