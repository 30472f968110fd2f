"""cluster/slurm.sh with stand-ins for Slurm and Ray: what is started, with which token."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "cluster/slurm.sh"

STAND_INS = {
    "scontrol": 'printf "node1\\nnode2\\n"',
    "hostname": 'echo "10.0.0.1 fe80::1"',
    # Runs the command after srun's own options, on this machine.
    "srun": 'while [[ $1 == -* ]]; do shift; done; exec "$@"',
    "ray": 'printf "%s\\n" "$@" > "$SEEN/arguments"; cp -p "$RAY_AUTH_TOKEN_PATH" "$SEEN/token"; '
    'echo "$RAY_AUTH_MODE" > "$SEEN/mode"; exit ${RAY_EXIT:-0}',
}


@pytest.fixture
def submit(tmp_path):
    """Run the script as Slurm would, with a job of two nodes."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    tools, project, seen = (tmp_path / name for name in ("tools", "project", "seen"))
    for folder in (tools, project / ".venv/bin", seen):
        folder.mkdir(parents=True)
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tools / name).chmod(0o755)
    (project / ".venv/bin/activate").write_text("")

    def run(*arguments, **environment):
        job = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SEEN": str(seen),
            "SLURM_SUBMIT_DIR": str(project),
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
        }
        done = subprocess.run(["bash", SCRIPT, *arguments], env=job | environment, capture_output=True, text=True)
        return done, seen, project

    return run


def test_bash_can_read_the_scripts():
    for script in (SCRIPT, ROOT / "cluster/mount.sh"):
        subprocess.run(["bash", "-n", script], check=True)


def test_ray_starts_on_all_nodes_and_the_command_joins_it(submit):
    done, seen, _ = submit("--search", "--out", "/shared/my runs")
    assert done.returncode == 0, done.stderr
    started, command = (seen / "arguments").read_text().split("\n--\n")
    assert started.splitlines() == [
        "symmetric-run",
        *("--address", "10.0.0.1:24567"),
        *("--min-nodes", "2"),
        *("--num-cpus", "32"),
        *("--temp-dir", "/tmp/ray-1234567"),
    ]
    assert command.splitlines() == [
        *("env", "RAY_ADDRESS=10.0.0.1:24567", "python", "-m", "pipeline.run"),
        *("--search", "--out", "/shared/my runs"),
    ]


def test_each_job_has_a_token_that_only_its_owner_reads_and_that_goes_with_it(submit):
    tokens = []
    for exit_code in ("0", "1"):
        done, seen, project = submit("--search", RAY_EXIT=exit_code)
        assert done.returncode == int(exit_code)
        assert stat.S_IMODE((seen / "token").stat().st_mode) == 0o600
        assert (seen / "mode").read_text().strip() == "token"
        tokens.append((seen / "token").read_text())
        assert tokens[-1] not in done.stdout + done.stderr + (seen / "arguments").read_text()
        assert not list(project.glob(".ray-token*"))
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) == 64


def test_slurm_s_own_options_stand_before_the_first_command():
    lines = SCRIPT.read_text().splitlines()
    options = [index for index, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert options
    assert max(options) < first
