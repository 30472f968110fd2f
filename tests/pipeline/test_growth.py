"""A cluster that may grow is planned for at its full size."""

import pytest

from pipeline import growth
from pipeline.predicting.predictor import Workers, count_workers, has_gpu
from pipeline.training.fit import wants_gpu
from pipeline.tuning import placing
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.placing import Places, find_places
from pixcon_core.presets import PRESETS

START = PRESETS["mini-camvid"]


@pytest.fixture
def grows(monkeypatch):
    """A head with four CPUs, which may grow as told."""

    def to(text):
        monkeypatch.setattr(growth.ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": 8.0})
        monkeypatch.setattr(growth.ray, "nodes", lambda: [{"Alive": True}])
        monkeypatch.setattr(placing, "num_cores", lambda: 4)
        if text is None:
            monkeypatch.delenv(growth.GROWS_TO, raising=False)
        else:
            monkeypatch.setenv(growth.GROWS_TO, text)

    return to


def test_trials_ask_for_gpus_that_are_not_there_yet(grows):
    grows("CPU=36,GPU=4")
    assert find_places(START, SearchOptions()) == Places(4, {"cpu": 1.0, "gpu": 1.0}, None, True)
    assert wants_gpu(START.train)
    assert has_gpu("cuda")
    assert count_workers(None, use_gpu=True) == Workers(1, True, 1)
    assert growth.may_grow()


def test_without_it_only_what_is_there_counts(grows):
    grows(None)
    assert not growth.may_grow()
    assert growth.reachable_resources() == {"CPU": 4.0, "memory": 8.0}
    assert not wants_gpu(START.train)
    with pytest.raises(ValueError, match="Ray sees none"):
        has_gpu("cuda")


def test_who_joined_a_cluster_is_told_that_machines_may_be_still_to_come(grows, monkeypatch):
    grows(None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"Lower --concurrent, --cpus_per_trial or train.num_workers\.$"):
        find_places(START, SearchOptions(concurrent=4))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"num_workers\. If machines are still to join the cluster, wait until"):
        find_places(START, SearchOptions(concurrent=4))


def test_what_is_there_is_never_less_than_what_is_said(grows):
    grows(" CPU = 2 , GPU=1 ,")
    assert growth.reachable_resources() == {"CPU": 4.0, "memory": 8.0, "GPU": 1.0}
    grows("CPU=4")
    assert not growth.may_grow()


@pytest.mark.parametrize("text", ["36", "CPU=many", "CPU=36 GPU=4", "CPU=1=2"])
def test_what_cannot_be_read_is_refused_by_name(grows, text):
    grows(text)
    with pytest.raises(ValueError, match=r"PIXCON_GROWS_TO must be .* such as CPU=36,GPU=4, but is"):
        growth.reachable_resources()
