"""The journey from a folder of images to a trained, evaluated segmentor, on Ray.

What Ray and OpenMP are to know from the environment is set here: they look when they are imported, and whichever module
of this package comes first may import them.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Train's controller looks at its workers every 2 s by default, and a report waits for the look.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Ray's core writes its errors straight to the terminal, among them one for every actor that it may restart. What
# concerns a user arrives as an exception.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# Threads that wait for each other give up their cores soon. After 300 times as long, libgomp's default, they hold up
# what else runs there, and each other: five times and more beside one busy process. A training on this machine alone
# waits longer, see `pipeline.training.waiting`.
SHORT_WAIT = "1000"
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SHORT_WAIT)
if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
    os.environ.pop("RAY_ADDRESS", None)  # it names no cluster: Ray would start one here, for all to reach
    # In spite of its name, this is what makes a local Ray listen on 127.0.0.1 alone, on every system.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # A process of Train's that asks whether this machine is about to be taken away: seconds of a start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
