"""Ray for one command: joins the cluster that RAY_ADDRESS names, else starts one here; keeps its noise away."""

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray._private.services
import ray._private.worker
import ray.data
from ray.data._internal.execution.resource_manager import ResourceManager

from pipeline.cores import num_cores
from pipeline.environment import for_processes, setting

# Ray Data of 2.60 asks what it may use without waiting for the answer, takes none for nothing at all, and asks again
# after a second, in which it runs one task at a time: half of the time of an execution as short as ours are.
ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = 0.05  # type: ignore[assignment, unused-ignore]

# Each process that died Ray reports to the terminal in its own words, whatever its log level is. Its logs have that
# too, and what it means for a run, the run says.
ray._private.worker.print_to_stdstream = lambda *_, **__: None

REACH_SECONDS = 30.0
TOKEN = (
    " The cluster asks for a token, as `ray start` has it: set RAY_AUTH_MODE=token, and have its token in"
    " ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names."
)


@contextlib.contextmanager
def ray_session(log_folder: Path | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Hold a connection to Ray; a cluster already connected to is left as it is.

    Args:
        log_folder: Where a local cluster's logs are copied at its end. While it runs, and after a crash, it is
            a link to them.
        dashboard: Start Ray's dashboard with a local cluster, on localhost.

    Raises:
        OSError: If Ray cannot be started, or the cluster not be reached.
        ValueError: If RAY_ADDRESS is no address.
    """
    if ray.is_initialized():
        quiet_data_logs()
        yield
        return
    local = "RAY_ADDRESS" not in os.environ
    if local and (other := _running_here()):
        print(f"note: a Ray cluster runs here, at {other}. With RAY_ADDRESS=auto it is used.", file=sys.stderr)
    if local and not _can_keep_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # of this command alone
    with setting(for_processes(is_watched=dashboard) if local else {}), _silent_core():
        try:
            if not local:
                _reach(os.environ["RAY_ADDRESS"])
            context: Any = ray.init(
                address="local" if local else None,  # not one that `ray start` has made here
                # Data tasks wait for files and for memory half of their time: two logical CPUs for each real one, so
                # that a training worker that holds one never keeps them from running at all.
                num_cpus=max(4, 2 * num_cores()) if local else None,
                include_dashboard=dashboard if local else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (OSError, ValueError) as error:
            if local and "AF_UNIX" in str(error):  # Ray's sockets lie in its folder
                raise OSError(f"{error}. Set RAY_TMPDIR to a folder with a shorter path, such as /tmp.") from error
            if local:
                raise
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(
                f"RAY_ADDRESS must be that of a running cluster, HOST:PORT, but with {os.environ['RAY_ADDRESS']!r}"
                f" there is: {error}.{TOKEN if 'InvalidAuthToken' in str(error.__cause__) else ''}"
                " Without RAY_ADDRESS, Ray starts on this machine."
            ) from error
        except Exception as error:  # a bare one, where its processes do not come up in time
            raise OSError(
                f"Ray could not be started: {error} If this machine is busy, try again when it is less so."
            ) from error
    quiet_data_logs()
    if local and (note := _small_memory(ray.cluster_resources().get("object_store_memory", 0.0))):
        print(f"note: {note}", file=sys.stderr)
    session_logs = Path(context.address_info["session_dir"]) / "logs" if local else None
    try:
        if session_logs and log_folder:
            _remove(log_folder)
            log_folder.symlink_to(session_logs, target_is_directory=True)
        yield
    finally:
        ray.shutdown()
        if session_logs and log_folder and session_logs.exists():
            with contextlib.suppress(OSError):  # a full disk is not to hide what went wrong before
                _remove(log_folder)
                shutil.copytree(session_logs, log_folder, ignore_dangling_symlinks=True)


def _can_keep_token() -> bool:
    """Return whether Ray has been given a token, or can have one in the home folder, which some containers lack."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        return True
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(exist_ok=True)
        file = folder / "auth_token"
        return os.access(file, os.R_OK) if file.exists() else os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # the second: there is no home folder
        return False


def _small_memory(needed: float) -> str | None:
    """Say if there is less shared memory than Ray would keep images in, in bytes: Ray then has them in files."""
    there = shutil.disk_usage("/dev/shm").total
    if there >= needed:
        return None
    return (
        f"/dev/shm has {there / 2**20:,.0f} MiB, and Ray keeps up to {needed / 2**20:,.0f} MiB of images, now in its"
        f" folder for temporary files, which is slower. In Docker: --shm-size {-(-needed // 2**30) + 1:.0f}g."
    )


def _running_here() -> str | None:
    """Return the address of a cluster that `ray start` has made on this machine, if it still runs."""
    try:
        address: str | None = ray._private.services.find_bootstrap_address(None)
        if address:
            _reach(address)
    except OSError:  # ended without a word, or another user's
        return None
    return address


def _reach(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself waits there for minutes and says nothing."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:  # auto and the like are Ray's to find
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


def quiet_data_logs() -> None:
    """Keep Ray Data's and Ray Train's own bars and messages off the terminal; their log files have them."""
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Results in the order of the plan: without it the batches of two runs differ.
    context.execution_options.preserve_order = True


@contextlib.contextmanager
def _silent_core() -> Iterator[None]:
    """Close standard error to Ray's core, which even says there that it was told to be silent."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
