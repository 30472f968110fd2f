"""A search whose trials have several workers: nested trainers, early stopping, kills and a resume."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.tuning.study import open_study, records

pytestmark = [pytest.mark.slow, pytest.mark.soak]

SEARCH = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --search --trials 4 --trial_steps 16 --train.num_workers 2"
    " --cpus_per_trial 1"
)


def workers_below(ancestor):
    """Return the processes of Ray Train's workers that a process has started, itself or through others."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, ValueError):
            if b"RayTrainWorker" in file.read_bytes():
                pid = own = int(file.parent.name)
                while pid > 1 and pid != ancestor:
                    pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if pid == ancestor:
                    found.append(own)
    return found


def wait_for_score(process, out, number):
    """Wait until a trial has one; return all trials."""
    query = "select count(*) from trial_intermediate_values join trials using (trial_id) where number = ?"
    while process.poll() is None:
        time.sleep(0.2)
        for file in out.glob("*/study.db"):
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as study:
                if study.execute(query, (number,)).fetchone()[0]:
                    return records(open_study(file.parent))
    pytest.fail("the search ended before that")


def test_trials_with_several_workers_are_stopped_early_and_survive_kills(tiny_camvid, tmp_path):
    command = [sys.executable, "-m", "pipeline.run", *SEARCH.split(), "--data_root", str(tiny_camvid)]
    command += ["--out", str(tmp_path), "--resume"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for_score(process, tmp_path, 0)
    workers = workers_below(process.pid)
    assert len(workers) >= 2
    os.kill(workers[-1], signal.SIGKILL)
    before = wait_for_score(process, tmp_path, 1)
    process.kill()
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*/best.json")
    after = records(open_study(file.parent))
    assert [one.number for one in after] == [0, 1, 2, 3]
    assert after[0].state == after[1].state == "complete"
    assert {one.state for one in after[2:]} <= {"complete", "stopped"}
    assert list(after[0].points) == list(after[1].points) == [4, 8, 12, 16]
    for old, new in zip(before, after, strict=False):
        assert old.points.items() <= new.points.items()
    assert json.loads(file.read_text())["improvement_noise"]["image_interval"] is not None
    assert not list(file.parent.glob("trials/*/train"))
