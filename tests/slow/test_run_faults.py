"""Runs whose processes, nodes, disk and storage fail at seeded moments end with the bits of one left in peace."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import ray
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from pipeline.prepare import main as prepare

from .disk import fill

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

STEPS = 240
RUN = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.log_every 1 --train.checkpoint_every 8"
    f" --train.steps {STEPS} --train.precision float32 --ingest.window 20"
)
KILLS = 20
# What Ray calls them; the driver is the command itself. A killed raylet is a killed node: here, the only one.
VICTIMS = {
    "training worker": rb"ray::_?RayTrainWorker",
    "data worker": rb"ray::(Map|ReadRange|IDLE)",
    "raylet": rb"/raylet/raylet",
    "driver": rb"pipeline\.run",
}


class Command:
    """The command as a user gives it, in the background."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-m", "pipeline.run", *RUN.split(), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}
        )

    def end(self):
        """Wait for its end and return the exit code and what it printed."""
        printed, _ = self.process.communicate()
        return self.process.returncode, printed

    def find(self, victim):
        """Return its processes of a kind."""
        there = descendants(self.process.pid)
        return [pid for pid, line in there.items() if re.search(VICTIMS[victim], line)]

    def kill(self, victim):
        """Kill one of these; return whether there was one."""
        found = [self.process.pid] if victim == "driver" else self.find(victim)
        for pid in found[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(found)


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


def step_of(out):
    """Return the last step in the metrics of the one run in a folder; 0 if there is none yet."""
    lines = [line for file in out.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
    with contextlib.suppress(ValueError):  # a line that is being written
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def wait_for_step(command, out, step):
    """Wait until a run has done so many; return how many it has."""
    while step_of(out) < step:
        assert command.process.poll() is None, command.end()
        time.sleep(0.02)
    return step_of(out)


def outcome(out):
    (file,) = out.glob("*/result.json")
    result = json.loads(file.read_text())
    records = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [(one["step"], one["loss"]) for one in records]
    return (file.parent / "checkpoint" / "model.safetensors").read_bytes(), losses, result["per_class_iou"]


@pytest.fixture(scope="module")
def undisturbed(tiny_camvid, tmp_path_factory):
    """What the run comes to in peace."""
    out = tmp_path_factory.mktemp("undisturbed")
    code, printed = Command("--data_root", tiny_camvid, "--out", out).end()
    assert code == 0, printed
    assert len(outcome(out)[1]) == STEPS
    return outcome(out)


def test_processes_killed_at_twenty_random_moments(undisturbed, tiny_camvid, tmp_path):
    out, rng = tmp_path / "killed", np.random.default_rng(0)
    out.mkdir()
    again = ["--data_root", tiny_camvid, "--out", out, "--resume"]
    command, table = Command(*again), []
    # More training workers in a row than Ray Train has tries for.
    victims = ["training worker"] * 5 + [
        str(one) for one in rng.choice(list(VICTIMS), KILLS - 5, p=(0.2, 0.3, 0.2, 0.3))
    ]
    for victim, moment in zip(victims, np.sort(rng.integers(1, STEPS - 8, KILLS)), strict=True):
        reached = wait_for_step(command, out, moment)
        time.sleep(rng.uniform(0, 0.5))
        while not command.kill(victim):
            assert command.process.poll() is None, command.end()
        if victim in ("driver", "raylet"):
            assert command.end()[0] != 0
            command = Command(*again)
        # What was lost is done again: the next moment is one after that.
        began = time.monotonic()
        wait_for_step(command, out, reached + 1)
        table.append((victim, reached, f"{time.monotonic() - began:.1f} s"))
    code, printed = command.end()
    assert code == 0, printed
    print(*table, sep="\n")
    assert outcome(out) == undisturbed


def test_a_node_that_is_lost_twice(undisturbed, tiny_camvid, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=4) for _ in range(2)]
        command = Command("--data_root", tiny_camvid, "--out", tmp_path, env={"RAY_ADDRESS": cluster.address})
        for moment in (30, 120):
            reached = wait_for_step(command, tmp_path, moment)
            (lost,) = (node for node in nodes if trains(node))
            cluster.remove_node(lost, allow_graceful=False)
            nodes.remove(lost)
            nodes.append(cluster.add_node(num_cpus=4))
            began = time.monotonic()
            wait_for_step(command, tmp_path, reached + 1)
            print(f"node lost at step {reached}: {time.monotonic() - began:.1f} s")
        code, printed = command.end()
        assert code == 0, printed
    finally:
        cluster.shutdown()
        ray.shutdown()
    assert outcome(tmp_path) == undisturbed


def test_the_number_of_workers_follows_the_machines(tiny_camvid, tmp_path, monkeypatch):
    # More than one worker does in the minute after which Ray Train looks for room for another.
    steps = 800
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # these nodes share the cores of one machine and do not know it
    elastic = f"--train.num_workers 2 --train.min_workers 1 --train.steps {steps}".split()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]  # room for a worker each, and to make images
        environment = {"RAY_ADDRESS": cluster.address}
        command = Command("--data_root", tiny_camvid, "--out", tmp_path, *elastic, env=environment)
        reached = wait_for_step(command, tmp_path, 40)
        cluster.remove_node(nodes[1], allow_graceful=False)
        began = time.monotonic()
        wait_for_step(command, tmp_path, reached + 10)
        print(f"node lost at step {reached}: with one worker after {time.monotonic() - began:.1f} s")
        cluster.add_node(num_cpus=2)
        code, printed = command.end()
        assert code == 0, printed
    finally:
        cluster.shutdown()
        ray.shutdown()
    (metrics,) = tmp_path.glob("*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [one["step"] for one in records] == [*range(1, steps + 1)]
    changes = [(one["step"], one["workers"]) for one in records]
    changes = changes[:1] + [new for old, new in itertools.pairwise(changes) if old[1] != new[1]]
    print("workers, from step on:", changes)
    assert [workers for _, workers in changes] == [2, 1, 2]
    assert changes[1][0] <= reached + 1
    # A change of number is no setback: batches of four images scatter, means of ten of them less than what was learned.
    losses = [one["cross_entropy"] for one in records]
    means = [fmean(losses[at : at + 10]) for at in (0, changes[1][0] - 1, changes[2][0] - 1, steps - 10)]
    assert means == sorted(means, reverse=True)


def trains(node):
    """Return whether a node has the training worker."""
    (raylet,) = node.all_processes["raylet"]
    return any(re.search(VICTIMS["training worker"], line) for line in descendants(raylet.process.pid).values())


def test_a_disk_that_gets_full_while_checkpoints_are_written(undisturbed, tiny_camvid, small_disk):
    out = small_disk / "runs"
    out.mkdir()
    command = Command("--data_root", tiny_camvid, "--out", out)
    reached = wait_for_step(command, out, 60)
    filler = fill(small_disk)
    code, printed = command.end()
    last = printed.strip().splitlines()[-1]
    print(f"disk full at step {reached}: {last}")
    assert code == 1
    assert "No space left on device" in last
    assert "Make room there." in last
    assert "--resume goes on" in last
    filler.unlink()
    code, printed = Command("--data_root", tiny_camvid, "--out", out, "--resume").end()
    assert code == 0, printed
    assert outcome(out) == undisturbed


def test_storage_that_cannot_be_reached_for_half_a_minute(undisturbed, tiny_camvid, tmp_path, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    subprocess.run(
        [sys.executable, "-c", "import boto3; boto3.client('s3').create_bucket(Bucket='bucket')"],
        check=True,
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
    )
    prepare(["--dataset", "camvid", "--data_root", str(tiny_camvid), "--out", "s3://bucket/camvid"])
    command = Command("--data_root", "s3://bucket/camvid", "--out", tmp_path, "--ingest.cache", "off")
    try:
        reached = wait_for_step(command, tmp_path, 40)
        server.stop()
        time.sleep(30)
        during = step_of(tmp_path)
    finally:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
        server.start()
    print(f"storage away from step {reached} on, at {during} after half a minute")
    code, printed = command.end()
    server.stop()
    assert during < STEPS
    assert code == 0, printed
    assert outcome(tmp_path) == undisturbed
