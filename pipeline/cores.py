"""How many cores there are to compute on, which a container's quota may make fewer than those of its machine."""

import os

import ray._private.utils


def num_cores() -> int:
    """Return how many cores this process may use at a time, at least one.

    `taskset` and `docker run --cpuset-cpus` say which; `docker run --cpus` and the limits of Kubernetes and systemd
    only how much time there is on them. More threads than that are stopped again and again, all at once.
    """
    quota = ray._private.utils._get_docker_cpus()
    cores = len(os.sched_getaffinity(0))
    return cores if quota is None else max(1, min(cores, int(quota)))
