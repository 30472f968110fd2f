"""A search that is killed at random moments, again and again, ends as one that never was."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from pipeline.run import main
from pipeline.tuning.study import open_study, records

pytestmark = [pytest.mark.slow, pytest.mark.soak]

SEARCH = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.precision float32 --search --trials 7"
    " --trial_steps 12 --concurrent 1"
)
KILLS = 10


def trials(out):
    """Return what a search wrote of its trials, the time that they took aside."""
    (file,) = out.glob("*/trials.json")
    return [{**one, "seconds": 0} for one in json.loads(file.read_text())]


def num_scores(out):
    """Return how many scores the study has; 0 where there is none yet."""
    for file in out.glob("*/study.db"):
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as study:
            return study.execute("select count(*) from trial_intermediate_values").fetchone()[0]
    return 0


def trial_processes():
    """Return the processes of this session's Ray in which trials run now."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if file.read_bytes().startswith(b"ray::ImplicitFunc") and is_below(int(file.parent.name), os.getpid()):
                found.append(int(file.parent.name))
    return found


def is_below(pid, ancestor):
    while pid > 1 and pid != ancestor:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor


def ended(out):
    (file,) = out.glob("*/study.db")
    return {one.number: one for one in records(open_study(file.parent)) if one.state != "running"}


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_that_is_killed_at_ten_random_moments_ends_as_if_it_had_not_been(tiny_camvid, tmp_path):
    given = [*SEARCH.split(), "--data_root", str(tiny_camvid)]
    main([*given, "--out", str(tmp_path / "undisturbed")])
    expected = trials(tmp_path / "undisturbed")
    assert {one["state"] for one in expected} == {"complete", "stopped"}

    out, rng = tmp_path / "killed", np.random.default_rng(0)
    command = [sys.executable, "-m", "pipeline.run", *given, "--out", str(out)]
    env = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}

    def start():
        process = subprocess.Popen([*command, "--resume"], env=env, stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith("Search: "):
                return process
        pytest.fail("the search did not begin")

    # By how far the search is, not by the clock: so there is always something left to kill.
    moments = np.sort(rng.integers(0, sum(len(one["points"]) for one in expected) - 3, KILLS))
    process, before = start(), {}
    for number, moment in enumerate(moments):
        while num_scores(out) < moment:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.4))
        running = trial_processes()
        if number % 2 and running:
            os.kill(rng.choice(running), signal.SIGKILL)
            continue
        process.kill()
        assert process.wait() == -signal.SIGKILL
        found = ended(out)
        assert {number: found[number] for number in before} == before
        before = found
        process = start()
    process.communicate()
    assert process.returncode == 0
    assert trials(out) == expected
    best = [json.loads(next(tmp_path.glob(f"{name}/*/best.json")).read_text()) for name in ("undisturbed", "killed")]
    assert best[0]["best"] == best[1]["best"]
    assert best[0]["improvement_noise"] == best[1]["improvement_noise"]
    weights = [next(tmp_path.glob(f"{name}/*/checkpoint/model.safetensors")) for name in ("undisturbed", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
