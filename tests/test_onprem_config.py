"""`cluster.onprem.yaml` by itself; tests/slow/test_cluster_onprem.py brings it up."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((PROJECT / "cluster.onprem.yaml").read_text())


def test_ray_takes_it(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])


def test_all_that_it_sends_is_there_and_enough_to_install(config):
    sent = {there: here for there, here in config["file_mounts"].items() if there.startswith("~/pixcon/")}
    assert all((PROJECT / here).exists() and there == f"~/pixcon/{here}" for there, here in sent.items())
    packages = {folder.parent.name for folder in PROJECT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"pyproject.toml", "README.md"} == set(sent.values())


def test_it_installs_as_readme_says(config):
    (step,) = re.findall(
        r"^python (-m venv \S+ && .* && pip install -e \.) &&", (PROJECT / "README.md").read_text(), re.M
    )
    assert any(command.endswith(f"python3 {step}") for command in config["setup_commands"])


def test_its_commands_are_correct_shell(config):
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[name]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_only_ports_that_ask_for_the_token_are_open(config):
    starts = [config[f"{node}_start_ray_commands"][-1] for node in ("head", "worker")]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in config["setup_commands"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
