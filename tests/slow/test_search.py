"""Whole searches, as a user starts them."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

import tune_spaces
from pipeline.data.shards import Shards
from pipeline.evaluate import evaluate
from pipeline.options import parse
from pipeline.progress import open_mailbox
from pipeline.run import main
from pipeline.search import trial_config
from pipeline.session import ray_session
from pipeline.train import Job
from pipeline.training.checkpoint import load_segmentor
from pipeline.tuning import trial as trial_module
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.study import StudyScheduler, open_study, records
from pipeline.tuning.trial import Task, run_trial, val_rows

pytestmark = pytest.mark.slow

SMALL = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.precision float32"
)


SECRETS = {name: f"planted-{name}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "HF_TOKEN")}


def arguments(root, out, more):
    return [*SMALL.split(), "--data_root", str(root), "--out", str(out), "--search", *more.split()]


def study_of(folder):
    return records(open_study(folder))


@pytest.fixture(scope="module")
def searched(ray_cluster, tiny_camvid, tmp_path_factory):
    """The folder of a finished search, and what it printed."""
    out = tmp_path_factory.mktemp("searched")
    command = [sys.executable, "-m", "pipeline.run", *arguments(tiny_camvid, out, "--trials 4 --trial_steps 8")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | SECRETS)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*/best.json")
    return file.parent, done


def test_no_secret_gets_into_the_run_folder_or_its_logs(searched):
    folder, done = searched
    planted = list(SECRETS.values())
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        planted.append(token.read_text().strip())
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert any("logs" in file.parts for file in files)
    for text in (done.stdout.encode(), *(file.read_bytes() for file in files)):
        assert not [one for one in planted if one.encode() in text]


def test_start_comes_first_and_the_baseline_second_and_both_to_their_end(searched):
    start, baseline, *others = study_of(searched[0])
    assert (start.role, baseline.role) == ("start", "baseline")
    assert start.state == baseline.state == "complete"
    assert list(start.points) == list(baseline.points) == [2, 4, 6, 8]
    assert start.changes["contrast.temperature"] == 0.1
    assert start.changes["contrast.memory_size"] == 50
    assert baseline.changes == {"contrast.weight": 0.0}
    assert [one.number for one in others] == [2, 3]
    for one in others:
        assert one.changes.keys() == start.changes.keys()
        assert one.changes != start.changes
        assert one.state in ("complete", "stopped")


def test_the_result_compares_best_start_and_baseline(searched):
    folder, _ = searched
    best = json.loads((folder / "best.json").read_text())
    found = study_of(folder)
    ended = [one for one in found if one.state == "complete" and one.role != "baseline"]
    assert best["best"]["miou"] == max(one.miou for one in ended)
    assert best["improvement"] == pytest.approx(best["best"]["miou"] - found[1].miou)
    assert best["start_values"] == found[0].changes
    assert sum(best["trials"].values()) == 4
    assert best["trial_hours"] > 0
    trials = json.loads((folder / "trials.json").read_text())
    assert [(one["number"], one["state"]) for one in trials] == [(one.number, one.state) for one in found]


def test_the_command_makes_the_best_trial_s_configuration(searched):
    folder, _ = searched
    best = json.loads((folder / "best.json").read_text())
    python, *rest = shlex.split(best["command"])
    assert (python, rest[:2]) == ("python", ["-m", "pipeline.run"])
    asked = parse(rest[2:]).config
    trained = load_segmentor(folder / "checkpoint").meta.config
    assert trained == replace(asked, train=replace(asked.train, checkpoint_every=2))


def test_the_checkpoint_kept_is_the_best_trial_s_and_there_is_no_other(searched):
    folder, _ = searched
    best = json.loads((folder / "best.json").read_text())
    (shards,) = (folder.parent / "shards").glob("camvid-*")
    with ray_session():
        found = evaluate(folder / "checkpoint", Shards.load(str(shards)))
    assert found.scores.miou == pytest.approx(best["best"]["miou"], abs=1e-6)
    assert [file.parent for file in folder.rglob("model.safetensors")] == [folder / "checkpoint"]
    assert not (folder / "tune").exists()


def test_what_is_printed_fits_80_columns_and_is_ours(searched):
    folder, done = searched
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    free = [line for line in lines if "python -m" not in line and str(folder.parent) not in line]
    assert max(map(len, free)) <= 80
    rows = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert sorted(int(row[0]) for row in rows) == [0, 1, 2, 3]
    assert any(re.match(r"running .*\b0: [246]/8 ", line) for line in lines)
    assert "None" not in done.stdout
    assert lines[-1] == str(folder / "best.json")
    assert lines[-2] == f"Page:  {folder / 'report.html'}"
    assert "without contrast" in (folder / "report.html").read_text()


def test_a_finished_search_that_is_resumed_shows_its_end_and_with_more_trials_goes_on(searched, tiny_camvid, capsys):
    folder, _ = searched
    before = study_of(folder)
    main(arguments(tiny_camvid, folder.parent, "--resume"))
    assert "4 of them done" in capsys.readouterr().out
    assert study_of(folder) == before
    main(arguments(tiny_camvid, folder.parent, "--resume --trials 5"))
    after = study_of(folder)
    assert after[:4] == before
    assert len(after) == 5
    assert after[4].state in ("complete", "stopped")


class Terminal:
    """A terminal that stands in for standard error, and keeps what it was sent."""

    def __init__(self):
        self._ours, theirs = pty.openpty()
        self.file, self._parts = os.fdopen(theirs, "w"), []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        with contextlib.suppress(OSError):  # the other end was closed
            while part := os.read(self._ours, 1024):
                self._parts.append(part)

    def text(self):
        self.file.close()
        self._thread.join(10)
        return b"".join(self._parts).decode()


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(tiny_camvid, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal.file)
    spaces = tmp_path / "spaces"
    spaces.mkdir()
    (spaces / "wild.py").write_text(
        "from optuna.distributions import CategoricalDistribution\n"
        "def space(start):\n"
        "    return {'train.lr': CategoricalDistribution([start['train.lr'], 1e30])}\n"
    )
    monkeypatch.setattr(tune_spaces, "__path__", [*tune_spaces.__path__, str(spaces)])
    main(arguments(tiny_camvid, tmp_path / "out", "--space wild --trials 4 --trial_steps 8 --concurrent 1"))
    (file,) = tmp_path.glob("out/*/best.json")
    found = study_of(file.parent)
    assert len(found) == 4
    failed = [one for one in found if one.state == "failed"]
    assert [one.number for one in failed] == [one.number for one in found if one.changes.get("train.lr") == 1e30]
    assert 1 <= len(failed) <= 2
    for one in failed:
        assert "The loss is not a finite number at step" in one.reason
        assert "DivergedError" in (file.parent / "trials" / str(one.number) / "error.txt").read_text()
    assert json.loads(file.read_text())["best"]["changes"]["train.lr"] < 1
    monkeypatch.undo()
    shown = re.split(r"[\r\n]+", terminal.text())
    assert max(map(len, shown)) < 80
    lines = [line for line in shown if line.startswith("running ")]
    assert any(re.search(r"\b0: [246]/8 +\d+\.\d", line) for line in lines)
    assert not shown[-1].strip()  # nothing is left there


def wait_for(process, out, is_reached):
    """Return the trials as soon as they fulfil a condition."""
    while process.poll() is None:
        time.sleep(0.1)
        for file in out.glob("*/best.json"):  # written as the first trial ends
            found = study_of(file.parent)
            if is_reached(found):
                return found
    pytest.fail("the search ended before that")


def some_ended_and_one_half_way(found):
    return any(one.state == "running" and one.points for one in found) and any(one.state != "running" for one in found)


@pytest.mark.soak
def test_a_search_that_is_stopped_by_hand_and_resumed_loses_no_trial_and_no_score(tiny_camvid, tmp_path):
    command = [sys.executable, "-m", "pipeline.run", *arguments(tiny_camvid, tmp_path, "--trials 4 --trial_steps 40")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, start_new_session=True)
    before = wait_for(process, tmp_path, some_ended_and_one_half_way)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    (file,) = tmp_path.glob("*/best.json")
    assert process.returncode == 130
    assert "with --resume goes on" in said.strip().splitlines()[-1]
    assert len(said.strip().splitlines()) == 1
    assert "Trials: " in printed
    assert json.loads(file.read_text())["trials"]["running"] > 0
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = study_of(file.parent)
    assert [one.number for one in after] == [0, 1, 2, 3]
    assert {one.state for one in after} <= {"complete", "stopped"}
    for old, new in zip(before, after, strict=False):
        assert old.changes.items() <= new.changes.items()
        assert old.points.items() <= new.points.items()
        assert old.state in ("running", new.state)
    assert after[0].state == after[1].state == "complete"
    assert sum(json.loads(file.read_text())["trials"].values()) == 4


class KilledError(BaseException):
    """Ends a trial as nothing else does."""


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.soak
def test_a_trial_goes_on_from_its_last_checkpoint_bit_for_bit(searched, tmp_path, monkeypatch):
    (shards,) = (searched[0].parent / "shards").glob("camvid-*")
    shards = Shards.load(str(shards))
    config = trial_config(parse(SMALL.split()).config, SearchOptions(trial_steps=8))
    weights, told, mailbox = {}, {}, open_mailbox()
    for name, num_seeds in (("undisturbed", 2), ("killed", 2), ("second alone", 1)):
        seed = 1 if name == "second alone" else 0
        job = Job(replace(config, seed=seed), shards)
        task = Task(job, tmp_path / name, val_rows(shards, 4), None, mailbox, at_once=2, num_seeds=num_seeds)
        told[name] = reports = []

        def report(result, reports=reports, name=name):
            reports.append(result)
            if name == "killed" and len(reports) == 2:
                raise KilledError

        monkeypatch.setattr(trial_module.tune, "report", report)
        if name == "killed":
            with pytest.raises(KilledError):
                run_trial({"number": 3, "changes": {"contrast.weight": 0.5}}, task)
        run_trial({"number": 3, "changes": {"contrast.weight": 0.5}}, task)
        checkpoints = sorted((tmp_path / name / "3").glob("seed-*/checkpoint-*"))
        assert [checkpoint.name for checkpoint in checkpoints] == ["checkpoint-00000008"] * num_seeds
        weights[name] = [(checkpoint / "model.safetensors").read_bytes() for checkpoint in checkpoints]
    assert weights["killed"] == weights["undisturbed"]
    assert weights["undisturbed"][1:] == weights["second alone"]
    assert [result["step"] for result in told["killed"]] == [2, 4, 2, 4, 6, 8]
    assert told["killed"][:2] == told["killed"][2:4]
    assert [r["seeds"] for r in told["killed"][2:]] == [r["seeds"] for r in told["undisturbed"]]
    for both, alone in zip(told["undisturbed"], told["second alone"], strict=True):
        assert both["seeds"][1] == alone["miou"]
        assert both["miou"] == pytest.approx(sum(both["seeds"]) / 2)


def test_early_stopping_decides_after_a_resume_as_before(tmp_path):
    # Rungs at 5 and 15 steps. Scores of ten trials, then the same ones out of the study.
    class Named:
        def __init__(self, number):
            self.trial_id, self.config = f"ray{number}", {"number": number, "role": ""}

    study = open_study(tmp_path)
    live = StudyScheduler(20, 5, [])
    rng = np.random.default_rng(0)
    for number in range(10):
        trial, named = study.ask(), Named(number)
        live.on_trial_add(None, named)
        for step in (5, 10, 15):
            score = float(rng.random())
            trial.report(score, step)
            if live.on_trial_result(None, named, {"step": step, "miou": score}) == "STOP":
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
    found = records(study)
    assert {one.state for one in found} == {"stopped", "running"}
    resumed = StudyScheduler(20, 5, found)
    for one in found:
        if one.state == "running":
            resumed.on_trial_add(None, Named(one.number))
            for step, score in one.points.items():
                assert resumed.on_trial_result(None, Named(one.number), {"step": step, "miou": score}) == "CONTINUE"
    for score in np.linspace(0, 1, 50):
        decisions = []
        for scheduler in (live, resumed):
            scheduler.on_trial_add(None, Named(10))
            decisions.append(scheduler.on_trial_result(None, Named(10), {"step": 5, "miou": score}))
            del scheduler._brackets[0]._rungs[-1][1]["10"]
        assert decisions[0] == decisions[1]


def test_a_trial_that_was_ending_as_the_search_was_killed_has_ended(tmp_path):
    study = open_study(tmp_path)
    for ending in (("stopped", 5, 0.2), ("complete", 20, 0.4), ("failed", 5, 0.2), None):
        trial = study.ask()
        trial.report(0.1, 2)
        if ending:
            trial.set_user_attr("ending", ending)
    found = records(open_study(tmp_path))
    assert [one.state for one in found] == ["stopped", "complete", "failed", "running"]
    assert [one.points for one in found] == [{2: 0.1, 5: 0.2}, {2: 0.1, 20: 0.4}, {2: 0.1}, {2: 0.1}]


def test_the_start_and_the_baseline_are_never_stopped_early():
    scheduler = StudyScheduler(20, 5, [])
    trials = {}
    for number, role in enumerate(("", "start", "baseline", "")):
        trials[number] = type("Named", (), {"config": {"number": number, "role": role}})()
        scheduler.on_trial_add(None, trials[number])
    decisions = [
        scheduler.on_trial_result(None, trials[number], {"step": 5, "miou": score})
        for number, score in enumerate((0.9, 0.5, 0.4, 0.1))
    ]
    assert decisions == ["CONTINUE", "CONTINUE", "CONTINUE", "STOP"]
    assert scheduler.on_trial_result(None, trials[1], {"step": 20, "miou": 0.1}) == "STOP"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--train.num_workers 2 --gpus_per_trial 0.5", "--gpus_per_trial must be 2"),
        ("--gpus_per_trial 2", "at most 1"),
        ("--gpus_per_trial 1 --train.device cpu", "train.device is cpu"),
        ("--storage postgresql://me:secret@localhost:1/db", "postgresql://me:***@localhost:1/db"),
        ("--storage sqlite:////nowhere/study.db", "--storage: sqlite:////nowhere/study.db cannot be used"),
        ("--storage study.db", "is no URL of a database"),
        ("--storage journal:///$NO_SUCH_VARIABLE", "names $NO_SUCH_VARIABLE"),
        ("--contrast.weight 0", "contrast.weight is 0"),
        ("--space contrst", "Did you mean contrast"),
        ("--contrast.temperature 0.01", "starts from 0.01"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_anything_starts(tiny_camvid, tmp_path, more, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments(tiny_camvid, tmp_path, more))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())
