"""A run whose processes are killed at random moments, again and again, ends with the bits of one left in peace."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.soak]

RUN = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.log_every 1 --train.steps 240"
    " --train.checkpoint_every 8 --train.precision float32"
)
KILLS = 20
# What Ray calls them; the driver is the command itself. A killed raylet is a killed node: here, the only one.
VICTIMS = {
    "training worker": rb"ray::RayTrainWorker|ray::_RayTrainWorker",
    "data worker": rb"ray::(Map|ReadRange|MapBatches|MapWorker|IDLE)",
    "raylet": rb"/raylet/raylet",
    "driver": rb"pipeline\.run",
}


def descendants(pid):
    """Return the command lines of a process and all below it."""
    parents, lines = {}, {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            stat = (file.parent / "stat").read_text()
            parents[int(file.parent.name)] = int(stat.rpartition(")")[2].split()[1])
            lines[int(file.parent.name)] = file.read_bytes()
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return {one: lines[one] for one in found if one in lines}


class Command:
    """The command, in a session of its own, and what it prints."""

    def __init__(self, arguments):
        command = [sys.executable, "-m", "pipeline.run", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def kill(self, victim):
        """Kill one of its processes; return whether there was one of this kind."""
        there = descendants(self.process.pid)
        those = [pid for pid, line in there.items() if re.search(VICTIMS[victim], line)]
        if victim == "driver":
            those = [self.process.pid]
        for pid in those[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(those)


def step_of(out):
    lines = [line for file in out.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    with contextlib.suppress(ValueError):  # a line that is being written
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def outcome(out):
    (file,) = out.glob("*/result.json")
    result = json.loads(file.read_text())
    records = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [(one["step"], one["loss"]) for one in records]
    return (file.parent / "checkpoint" / "model.safetensors").read_bytes(), losses, result["per_class_iou"]


@pytest.mark.timeout(3600)
def test_a_run_that_is_killed_at_twenty_random_moments_ends_with_the_same_bits(tiny_camvid, tmp_path):
    given = [*RUN.split(), "--data_root", str(tiny_camvid)]
    undisturbed = Command([*given, "--out", str(tmp_path / "undisturbed")])
    assert undisturbed.process.wait() == 0
    out, rng = tmp_path / "killed", np.random.default_rng(0)
    out.mkdir()
    moments = np.sort(rng.integers(1, 232, KILLS))
    running, table = None, []
    for number, moment in enumerate(moments):
        victim = list(VICTIMS)[number % len(VICTIMS)]
        before = step_of(out)
        killed = False
        while not killed:
            if running is None or running.process.poll() is not None:
                assert running is None or running.process.returncode != 0, "it ended before it was killed"
                running = Command([*given, "--out", str(out), "--resume"])
            if step_of(out) >= moment and step_of(out) >= before:
                time.sleep(rng.uniform(0, 0.5))
                reached, killed = step_of(out), running.kill(victim)
            time.sleep(0.02)
        if victim in ("driver", "raylet"):
            running.process.wait()
        time.sleep(1)
        table.append((victim, int(moment), reached))
    if running.process.wait() != 0:
        assert Command([*given, "--out", str(out), "--resume"]).process.wait() == 0
    print(*table, sep="\n")
    assert outcome(out) == outcome(tmp_path / "undisturbed")
