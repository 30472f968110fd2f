"""What Ray Train starts: workers on GPUs or not, and what stands beside them."""

import pytest
import ray.train.torch

from pipeline import growth
from pipeline.training.fit import _Trainer, wants_gpu
from pixcon_core.config import TrainConfig


def loop():
    """Train nothing."""


def test_no_process_is_started_for_data_sets_that_there_are_not():
    def names(trainer):
        return {type(one).__name__ for one in trainer(loop)._create_default_callbacks()}

    assert names(ray.train.torch.TorchTrainer) - names(_Trainer) == {"DatasetsCallback"}


@pytest.fixture
def cluster(monkeypatch):
    """Make a cluster of 16 CPUs, and as many GPUs as told."""
    monkeypatch.delenv(growth.GROWS_TO, raising=False)

    def with_gpus(number):
        there = {"CPU": 16.0} | ({"GPU": float(number)} if number else {})
        monkeypatch.setattr(growth.ray, "cluster_resources", lambda: there)

    return with_gpus


@pytest.mark.parametrize(
    ("gpus", "settings", "expected"),
    [
        (0, {}, False),
        (1, {}, True),
        (2, {"num_workers": 2}, True),
        (1, {"num_workers": 4, "min_workers": 1}, True),
        (1, {"num_workers": 2, "device": "cpu"}, False),
        (1, {"device": "cuda"}, True),
    ],
)
def test_workers_get_a_gpu_each_where_there_are_any(cluster, gpus, settings, expected):
    cluster(gpus)
    assert wants_gpu(TrainConfig(**settings)) is expected


@pytest.mark.parametrize(
    ("gpus", "settings", "message"),
    [
        # On CPUs it would take days, without a word.
        (1, {"num_workers": 2}, "train.device=auto with train.num_workers=2 takes as many GPUs, but Ray sees 1. Lower"),
        (1, {"num_workers": 4, "min_workers": 2}, "train.min_workers=2 takes as many GPUs, but Ray sees 1"),
        (0, {"device": "cuda"}, "train.device=cuda with train.num_workers=1 takes as many GPUs, but Ray sees 0"),
        (0, {"num_workers": 16, "batch_size": 16}, "train.num_workers must be less than the CPUs that Ray has"),
    ],
)
def test_too_few_gpus_or_cpus_are_refused(cluster, gpus, settings, message):
    cluster(gpus)
    with pytest.raises(ValueError, match=r".") as error:
        wants_gpu(TrainConfig(**settings))
    assert message in str(error.value)
