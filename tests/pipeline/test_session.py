"""What Ray prints where nobody asked."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from pipeline import session
from pipeline.cores import num_cores
from pipeline.environment import OPENMP, _has_libgomp
from pipeline.session import ray_session


@ray.remote(max_retries=0)
def die():
    os._exit(1)


@pytest.mark.usefixtures("ray_cluster")
def test_of_a_process_that_died_ray_says_nothing_on_the_terminal(capfd):
    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote())
    time.sleep(2)  # it comes from another thread
    assert capfd.readouterr() == ("", "")


def test_that_ray_did_not_come_up_is_a_failure_told_in_one_line(monkeypatch):
    def fail(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(OSError, match=r"^Ray could not be started: The current node timed out during startup\."),
        ray_session(),
    ):
        pass


def test_a_cluster_that_runs_here_is_not_joined_but_named(monkeypatch, capsys):
    given = []

    def stop(**options):
        given.append(options["address"])
        raise Exception("enough")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", stop)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        monkeypatch.setattr(ray._private.services, "find_bootstrap_address", lambda _: address)
        with pytest.raises(OSError, match="enough"), ray_session():
            pass
        said = capsys.readouterr().err
        assert said == f"note: a Ray cluster runs here, at {address}. With RAY_ADDRESS=auto it is used.\n"
    with pytest.raises(OSError, match="enough"), ray_session():
        pass
    assert capsys.readouterr().err == ""  # nothing listens there any more
    assert given == ["local", "local"]


@pytest.mark.parametrize("kind", [ValueError, ConnectionError])
def test_an_address_that_is_of_no_cluster_is_named(monkeypatch, kind):
    def fail(**_):
        raise kind("Invalid address format: nonsense")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    error = ValueError if kind is ValueError else OSError
    with (
        pytest.raises(error, match=r"^RAY_ADDRESS must be .* but with 'nonsense' there is: Invalid address format"),
        ray_session(),
    ):
        pass


def test_of_a_cluster_that_asks_for_a_token_the_error_says_so(monkeypatch):
    def fail(**_):
        raise ConnectionError("Failed to connect to Ray cluster at auto") from RuntimeError(
            "Failed to connect to GCS. Last connection error: ... RPC error: InvalidAuthToken: ..."
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(OSError, match=r"cluster at auto\. .* set RAY_AUTH_MODE=token"), ray_session():
        pass


def test_an_address_at_which_nothing_listens_is_told_before_ray_waits_for_it(monkeypatch):
    tried = []

    def fail(**_):
        tried.append(1)
        raise ConnectionError("no cluster of Ray's")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(OSError, match="no cluster of Ray's"), ray_session():
            pass
    with (
        pytest.raises(OSError, match=rf"^RAY_ADDRESS must be .* but with '{address}' there is: .*refused"),
        ray_session(),
    ):
        pass
    assert len(tried) == 1


def test_too_little_shared_memory_is_told_with_what_docker_takes(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=64 * 2**20))
    said = session._small_memory(7.5 * 2**30)
    assert said.startswith("/dev/shm has 64 MiB, and Ray keeps up to 7,680 MiB of images")
    assert said.endswith("In Docker: --shm-size 9g.")
    assert session._small_memory(64.0 * 2**20) is None


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_a_home_folder_is_not_needed_where_a_token_is_given(monkeypatch, given):
    monkeypatch.setenv("HOME", "/proc/nobody")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "x")
    assert session._can_keep_token() == (given is not None)


def test_a_home_folder_keeps_the_token_of_all_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert session._can_keep_token()
    (tmp_path / ".ray/auth_token").write_text("x")
    assert session._can_keep_token()


@pytest.mark.slow
def test_ray_starts_without_a_home_folder():
    script = (
        "import ray; from pipeline.session import ray_session\n"
        "with ray_session(): print(ray.get(ray.remote(lambda: 6 * 7).remote()))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=kept | {"HOME": "/proc/nobody"}, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.mark.slow
def test_a_temporary_folder_too_deep_for_sockets_is_told_with_what_to_do(tmp_path):
    # In a process of its own: Ray asks whether it has been started here before it looks at the folder.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", "from pipeline.session import ray_session\nwith ray_session(): pass"]
    deep = {"RAY_TMPDIR": str(tmp_path / ("deep" * 25))}
    done = subprocess.run(command, env=environment | deep, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert re.search(r"^OSError: .*AF_UNIX path length .*\. Set RAY_TMPDIR to a folder with", said), done.stderr


WATCHED = """
import json, os, threading
import ray, torch
from pipeline.session import ray_session
from pipeline.train import set_up

def look():
    set_up(torch.device("cpu"), 1)
    return torch.get_num_threads(), "waiting" in [thread.name for thread in threading.enumerate()]

with ray_session():
    print(json.dumps([ray.get(ray.remote(look).remote()), look()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"GOMP_SPINCOUNT": "300000"}])
def test_a_process_of_a_local_ray_watches_for_others_unless_the_user_says_how_long_to_wait(given):
    dropped = {"OMP_THREAD_LIMIT", "RAY_ADDRESS", *OPENMP}
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | given
    done = subprocess.run([sys.executable, "-c", WATCHED], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    threads = num_cores()
    is_watched = threads > 1 and not given and _has_libgomp()
    assert json.loads(done.stdout) == [[threads, is_watched], [threads, False]]
