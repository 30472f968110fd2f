"""What Ray prints where nobody asked."""

import os
import time

import pytest
import ray
from ray.exceptions import WorkerCrashedError


@ray.remote(max_retries=0)
def die():
    os._exit(1)


@pytest.mark.usefixtures("ray_cluster")
def test_of_a_process_that_died_ray_says_nothing_on_the_terminal(capfd):
    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote())
    time.sleep(2)  # it comes from another thread
    assert capfd.readouterr() == ("", "")
