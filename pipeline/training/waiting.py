"""How long OpenMP's threads wait for each other before they sleep: long while a process is alone, short beside others.

A thread that sleeps has to be woken, hundreds of times a step: a seventh of a run on two cores. One that waits awake
holds a core, beside others perhaps the very core that the thread it waits for is to have: twice as long a step and
more (docs/results.md, "By turns"). libgomp reads once for how long (`pipeline.environment.OPENMP`), but waits short
while a process has more threads in its teams than there are cores. So threads that do nothing else hold teams while
others use the cores.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

import torch

from pipeline.cores import num_cores
from pipeline.environment import OPENMP

LOOK_SECONDS = 1.0
MEMORY_SECONDS = 10.0
"""Over which the others' use is averaged: making images takes a core now and then, for less."""
CROWDED, ALONE = 0.5, 0.3
"""Cores that others use and this process wants: with more it waits short, with less long again."""
STAT = Path("/proc/stat")


class Watched:
    """What the watch of this process looks at."""

    num_threads = 0
    """PyTorch's; 0 while there is no watch."""


def wait_long_while_alone(num_threads: int) -> None:
    """Let PyTorch's threads, so many, wait long for each other while nobody else uses their cores.

    It begins with the first call of a process, and stays. Nothing is done with one thread, and where the environment
    asks for something else than `OPENMP`. Where nobody can tell what others use, and where a container has a quota,
    which waiting would use up, threads wait short.
    """
    is_watched = Watched.num_threads > 0
    if not is_watched and (num_threads < 2 or any(os.environ.get(name) != value for name, value in OPENMP.items())):
        return
    Watched.num_threads = num_threads
    if not is_watched:
        threading.Thread(target=_watch, name="waiting", daemon=True).start()


class Crowd:
    """Whether others use the cores that a process wants; they do, until it looks otherwise."""

    def __init__(self) -> None:
        self.is_there = True
        self._wanted = 1.0

    def see(self, seconds: float, wanted: float) -> None:
        """Take in that in the last seconds others used so many cores that the process wants; no more than one counts.

        Nor do cores that nobody used: on a large machine it would take long to forget them.
        """
        wanted = min(1.0, max(0.0, wanted))
        self._wanted += min(1.0, seconds / MEMORY_SECONDS) * (wanted - self._wanted)
        self.is_there = self._wanted > (ALONE if self.is_there else CROWDED)


class Teams:
    """Teams of OpenMP's that have, with that of the process itself, more threads than there are cores."""

    def __init__(self, num_threads: int, num_cores: int) -> None:
        """Make them, of as many threads each as PyTorch has; the first of a team is no new one to OpenMP."""
        self._ended = threading.Event()
        count = max(1, (num_cores - num_threads) // max(1, num_threads - 1) + 1)
        self._threads = [threading.Thread(target=self._hold, name="team", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _hold(self) -> None:
        torch.ones(2**18).add_(1.0)  # large enough to be shared out; the team stays for as long as this thread does
        self._ended.wait()

    def end(self) -> None:
        """Let them go."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def _watch() -> None:
    cores = os.sched_getaffinity(0)
    crowd = Crowd()
    teams: Teams | None = Teams(Watched.num_threads, len(cores))
    if num_cores() < len(cores) or not busy_seconds(cores):
        return  # the teams stay
    last, last_others = time.monotonic(), busy_seconds(cores) - time.process_time()
    while True:
        time.sleep(LOOK_SECONDS)
        now, others = time.monotonic(), busy_seconds(cores) - time.process_time()
        seconds = now - last
        if seconds < 3 * LOOK_SECONDS:  # else this process was halted, or the machine asleep
            crowd.see(seconds, (others - last_others) / seconds - (len(cores) - Watched.num_threads))
        last, last_others = now, others
        if crowd.is_there and teams is None:
            teams = Teams(Watched.num_threads, len(cores))
        elif not crowd.is_there and teams is not None:
            teams.end()
            teams = None


def busy_seconds(cores: set[int]) -> float:
    """Return for how long some cores have worked since their machine began; 0 where Linux does not say."""
    ticks = 0
    with contextlib.suppress(OSError):
        for line in STAT.read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                user, nice, system, _, _, irq, soft_irq = map(int, fields[:7])
                ticks += user + nice + system + irq + soft_irq
    return ticks / os.sysconf("SC_CLK_TCK")
