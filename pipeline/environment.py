"""What Ray, OpenMP and glibc find in the environment: set here for this process, and told of those that Ray starts.

They look when they are imported or begin, so this comes before them, and imports none of them.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

SHORT_WAIT = "1000"
"""Turns after which OpenMP's threads sleep that wait for each other."""

# Memory that a step gives up stays with its process. glibc hands it back, above all where a thread computes, as it does
# in Ray's processes, and takes it again for the next step, page by page: a seventh to a third of a step on a CPU.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32)}
# Ten times a second Ray looks for new logs, which would go to a terminal that gets none from us; and it collects
# figures for its dashboard. Each costs a hundredth of a core, and holds up the threads of a step.
UNWATCHED = {
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "30",
    "RAY_enable_metrics_collection": "0",
}
# OpenMP's threads that wait for each other do so awake for some milliseconds, libgomp's default, or sleep after a
# three-hundredth of it, as soon as `pipeline.training.waiting` wants them to.
OPENMP = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"}

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Train's controller looks at its workers every 2 s by default, and a report waits for the look.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Ray's core writes its errors straight to the terminal, among them one for every actor that it may restart. What
# concerns a user arrives as an exception.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# Threads that wait for each other give up their cores soon. After 300 times as long, libgomp's default, they hold up
# what else runs there, and each other: steps twice as long and more beside one busy process. Where a local Ray's
# processes are alone, they wait longer: `pipeline.training.waiting`.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SHORT_WAIT)
if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
    os.environ.pop("RAY_ADDRESS", None)  # it names no cluster: Ray would start one here, for all to reach
    # In spite of its name, this is what makes a local Ray listen on 127.0.0.1 alone, on every system.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # A process of Train's that asks whether this machine is about to be taken away: seconds of a start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def for_processes(*, is_watched: bool) -> dict[str, str]:
    """Return what the processes of a local Ray find in their environment, where the user has not set it."""
    variables = MALLOC if is_watched else MALLOC | UNWATCHED
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    if "OMP_WAIT_POLICY" not in os.environ and os.environ.get("GOMP_SPINCOUNT") == SHORT_WAIT and _has_libgomp():
        missing |= OPENMP
    return missing


def _has_libgomp() -> bool:
    """Return whether PyTorch has brought libgomp; of other OpenMPs, as conda has, active threads never sleep."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    folder = Path(spec.origin).parent
    return any([*(folder / "lib").glob("libgomp*"), *folder.with_name("torch.libs").glob("libgomp*")])


@contextlib.contextmanager
def setting(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
