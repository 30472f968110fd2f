"""How many cores a process may use."""

import pytest
import ray._private.utils

from pipeline.cores import num_cores


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (64.0, 8), (2.0, 2), (2.5, 2), (0.5, 1)])
def test_the_quota_of_a_container_counts_as_well_as_the_cores_it_sees(monkeypatch, quota, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(ray._private.utils, "_get_docker_cpus", lambda: quota)
    assert num_cores() == cores
