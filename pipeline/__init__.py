"""The journey from a folder of images to a trained, evaluated segmentor, on Ray.

What Ray is to know from the environment is set here: it looks when it is imported, and whichever module of this
package comes first may import it.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Train's controller looks at its workers every 2 s by default, and a report waits for the look.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
# Ray's core writes its errors straight to the terminal, among them one for every actor that it may restart. What
# concerns a user arrives as an exception.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
if "RAY_ADDRESS" not in os.environ:
    # In spite of its name, this is what makes a local Ray listen on 127.0.0.1 alone, on every system.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # A process of Train's that asks whether this machine is about to be taken away: seconds of a start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
