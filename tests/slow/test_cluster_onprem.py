"""`cluster.onprem.yaml` on a head and two workers, which are namespaces of this machine (`tests/slow/hosts.py`).

Each offers one CPU, and its Python brings the packages of this one, so that README's installation finds them there.
"""

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from pipeline.tuning.study import open_study, records
from pixcon_core.data import make_miniature

from .hosts import Host, hosts, why_not

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).parents[2]
RUN = (
    "python -m pipeline.run --dataset camvid --data_root /mnt/pixcon/camvid --out /mnt/pixcon/runs --preset mini-camvid"
    " --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16 --model.projection_dim 16"
    " --contrast.memory_size 50"
)
RAY = f"{sys.executable} -m ray.scripts.scripts"
OF_RAY = ("raylet", "gcs_server", "ray::", "/ray/dashboard/", "/ray/_private/", "/ray/autoscaler/")
"""In the command lines of its processes."""

LAPTOP = f"""
set -e
mkdir -m 700 .ssh
install -m 600 /mnt/pixcon/key .ssh/pixcon_cluster
mv /mnt/pixcon/cluster.yaml .
(umask 077; {RAY} get-auth-token --generate > /dev/null)
"""

MACHINE = """
set -e
mkdir /mnt/host/bin
install -m 755 /mnt/pixcon/python3 /mnt/host/bin
cat > .bashrc <<'END'
export PATH=/mnt/host/bin:$PATH PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 RAY_OVERRIDE_RESOURCES='{"CPU": 1}'
END
"""
PYTHON = f"""#!/bin/bash
set -e
if [ "$1 $2" != '-m venv' ]; then exec {sys.executable} "$@"; fi
{sys.executable} -m venv --without-pip "$3"
echo {sysconfig.get_path("purelib")} > "$(echo "$3"/lib/python*/site-packages)/lent.pth"
for command in pip:pip._internal.cli.main ray:ray.scripts.scripts; do
    printf '#!%s\\nfrom %s import main\\nmain()\\n' "$PWD/$3/bin/python" "${{command#*:}}" > "$3/bin/${{command%:*}}"
    chmod +x "$3/bin/${{command%:*}}"
done
"""


class Cluster(NamedTuple):
    laptop: Host
    """Where the user is."""
    head: Host
    workers: list[Host]
    shared: Path
    """Their /mnt/pixcon."""

    @property
    def machines(self):
        return [self.head, *self.workers]

    def command(self, command, *given):
        """Return what runs one of Ray's commands on the laptop, in the project's folder as docs/onprem.md says."""
        yes = ["-y"] if command in ("up", "down") else []
        return self.laptop.command(
            f"cd {PROJECT}; {RAY} {command} {shlex.join(yes)} ~/cluster.yaml {shlex.join(given)}"
        )

    def ray(self, command, *given, timeout):
        """Run one of Ray's commands to its end."""
        command = self.command(command, *given)
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout}\n{self.log()}"

    def submit(self, name, command):
        """Submit a job once all machines are there; no connection is held while it runs."""
        status = ". ~/.bashrc; ray status"
        wait_until(lambda: "/3.0 CPU" in self.head.run(status, timeout=300).stdout, 300, self, every=5)
        self.ray("exec", f"ray job submit --no-wait --submission-id {name} -- {command}", timeout=300)

    def wait_for(self, name):
        """Wait until a job has come to its end, which has to be a good one."""
        wait_until(lambda: self.has_ended(name), 900, self, every=10)
        said = self.said(name)
        assert "succeeded" in said, said

    def has_ended(self, name):
        """Return whether a job has come to its end, a good one or not."""
        status = self.head.run(f". ~/.bashrc; ray job status {name}", timeout=300).stdout
        return any(word in status for word in ("succeeded", "failed", "stopped"))

    def said(self, name):
        """Return what a job has come to, and what it has printed."""
        return self.head.run(f". ~/.bashrc; ray job status {name}; ray job logs {name}", timeout=300).stdout

    def ran(self, actor):
        """Return the machines on which such an actor has run."""
        script = f"grep -ls ':actor_name:{actor}' /tmp/ray/session_latest/logs/worker-*.out"
        return [host for host in self.machines if host.run(script, timeout=60).stdout.strip()]

    def log(self, lines=40):
        """Return the end of what the autoscaler has written."""
        return self.head.run(f"tail -n {lines} /tmp/ray/session_latest/logs/monitor.log", timeout=60).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Hosts on which `ray up` has brought up the cluster."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("onprem")
    shared = folder / "shared"
    make_miniature("mini-camvid", shared / "camvid", num_train=20, num_val=6)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", shared / "key"], check=True)
    (shared / "python3").write_text(PYTHON)
    config = yaml.safe_load((PROJECT / "cluster.onprem.yaml").read_text())
    needed = {Path(sys.prefix), Path(sys.base_prefix), PROJECT}
    own = [Path(place) for place in ("/tmp", "/run", "/mnt", "/dev/shm")] + [Path.home()]
    keep = [path for path in sorted(needed) if any(path.is_relative_to(place) for place in own)]
    names = ["laptop", "head", "worker1", "worker2"]
    with hosts(names, shared, keep, (shared / "key.pub").read_text().strip()) as (laptop, head, *workers):
        config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
        config["auth"]["ssh_user"] = "root"
        (shared / "cluster.yaml").write_text(yaml.safe_dump(config))
        found = Cluster(laptop, head, workers, shared)
        for host, script in [(laptop, LAPTOP), *((host, MACHINE) for host in found.machines)]:
            done = host.run(script, timeout=120)
            assert done.returncode == 0, done.stdout
        found.ray("up", timeout=600)
        wait_until(lambda: " 3 local.cluster.node" in found.log(), 300, found)
        yield found


def wait_until(is_so, seconds, cluster, every=1, say=Cluster.log):
    """Wait until something is so; not a measurement, but an end to a test that failed."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            pytest.fail(f"not so after {seconds} s\n{say(cluster)}")
        time.sleep(every)


def test_machines_have_the_project_and_a_token_that_is_nobody_elses(cluster):
    look = ". ~/.bashrc; stat -c %a .ray/auth_token; cd /; python -c 'import pipeline; print(pipeline.__file__)'"
    for host in cluster.machines:
        mode, file = host.run(look, timeout=120).stdout.split()
        assert (mode, file) == ("600", str(Path.home() / "pixcon/pipeline/__init__.py"))


def test_the_dashboard_is_reached_through_the_tunnel_and_with_the_token_alone(cluster):
    ask = "curl -s -o /dev/null -w '%{http_code}' --max-time 60"
    ask_with = f'{ask} -H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    port = "/api/version"
    tunnel = subprocess.Popen(
        cluster.laptop.command(f"{RAY} dashboard ~/cluster.yaml"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        there = f"http://localhost:8265{port}"
        wait_until(lambda: cluster.laptop.run(f"{ask_with} {there}", timeout=90).stdout == "200", 120, cluster)
        assert cluster.laptop.run(f"{ask} {there}", timeout=90).stdout == "401"
    finally:
        tunnel.kill()
        tunnel.wait()
    outside = cluster.workers[0].run(f"{ask_with} http://{cluster.head.address}:8265{port}", timeout=90)
    assert outside.stdout == "000"


def test_a_search_goes_on_when_a_machine_is_lost_and_the_machine_comes_back(cluster):
    def there():
        return next((one for one in cluster.workers if one.processes("ray::ImplicitFunc")), None)

    cluster.submit("search", f"{RUN} --search --trials 3 --trial_steps 40 --concurrent 2")
    wait_until(lambda: (num_scores(cluster.shared) and there()) or cluster.has_ended("search"), 900, cluster, every=5)
    assert not cluster.has_ended("search"), cluster.said("search")
    lost = there()
    assert cluster.head.processes("ray::Mailbox")
    (study,) = cluster.shared.glob("runs/*/study.db")
    before = {one.number: one.points for one in records(open_study(study.parent))}
    (raylet,) = lost.processes("raylet/raylet")
    os.kill(raylet, signal.SIGKILL)
    cluster.wait_for("search")
    after = records(open_study(study.parent))
    assert {one.state for one in after} <= {"complete", "stopped"}
    assert len(after) == 3
    assert all(points.items() <= after[number].points.items() for number, points in before.items())
    assert json.loads((study.parent / "best.json").read_text())["best"]["miou"] > 0
    assert len(cluster.ran("ImplicitFunc")) >= 2
    wait_until(lambda: lost.processes("raylet/raylet"), 300, cluster)


def num_scores(shared):
    """Return how many scores the search has."""
    for file in shared.glob("runs/*/study.db"):
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as study:
            return study.execute("select count(*) from trial_intermediate_values").fetchone()[0]
    return 0


def test_two_workers_of_one_training_run_on_two_machines(cluster):
    cluster.submit("training", f"{RUN} --train.num_workers 2 --train.steps 12")
    cluster.wait_for("training")
    (result,) = cluster.shared.glob("runs/*/result.json")
    assert json.loads(result.read_text())["steps"] == 12
    assert len(cluster.ran("RayTrainWorker")) == 2


def test_no_log_and_no_run_folder_has_the_token(cluster):
    look = 'grep -rlsF -D skip "$(cat ~/.ray/auth_token)" /tmp/ray* /mnt/pixcon'
    for host in [cluster.laptop, *cluster.machines]:
        found = host.run(look, timeout=120)
        assert found.stdout == ""


def test_down_leaves_no_process_on_any_machine(cluster):
    cluster.ray("down", timeout=300)
    wait_until(lambda: not left_over(cluster), 300, cluster, say=left_over)


def left_over(cluster):
    """Return which of Ray's processes there are still, by machine."""
    found = {host.name: [part for part in OF_RAY if host.processes(part)] for host in cluster.machines}
    return {name: parts for name, parts in found.items() if parts}
