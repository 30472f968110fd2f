from pathlib import Path

import pytest
import torch

from pixcon_core.data import make_miniature


def pytest_configure():
    """Compute on one thread: tensors here are small, and Ray's workers want cores too."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Quick tests first, then those that need Ray, then whole runs."""
    items.sort(key=lambda item: ("slow" in item.keywords, "ray_cluster" in getattr(item, "fixturenames", ())))


@pytest.fixture(scope="session")
def ray_cluster():
    """One small local Ray for all tests that need one."""
    from pipeline.session import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def tiny_camvid(tmp_path_factory) -> Path:
    """A folder in CamVid's layout: 20 training and 6 validation images of 192x144. Not to be changed."""
    return make_miniature("mini-camvid", tmp_path_factory.mktemp("tiny") / "camvid", num_train=20, num_val=6)
