"""How many trials run at once, and what is set aside for each, on clusters of several sizes."""

from dataclasses import replace

import pytest

from pipeline import growth
from pipeline.tuning import placing
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.placing import Places, check_places, find_places
from pixcon_core.presets import PRESETS


def config(num_workers=1, device="auto"):
    start = PRESETS["mini-camvid"]
    return replace(start, train=replace(start.train, num_workers=num_workers, device=device))


def places(monkeypatch, cpus, gpus=0, cores=2, num_workers=1, **options):
    monkeypatch.setattr(growth.ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
    monkeypatch.setattr(placing, "num_cores", lambda: cores)
    return find_places(config(num_workers), SearchOptions(**options))


@pytest.mark.parametrize(
    ("cluster", "options", "expected"),
    [
        ({"cpus": 4}, {}, Places(2, {"cpu": 1.0}, None, False)),
        ({"cpus": 4}, {"concurrent": 3}, Places(3, {"cpu": 1.0}, None, False)),
        ({"cpus": 4, "cores": 4}, {"cpus_per_trial": 2}, Places(1, {"cpu": 2.0}, None, False)),
        ({"cpus": 4}, {"concurrent": 6, "cpus_per_trial": 0.5}, Places(6, {"cpu": 0.5}, None, False)),
        ({"cpus": 16, "gpus": 2}, {}, Places(2, {"cpu": 1.0, "gpu": 1.0}, None, True)),
        ({"cpus": 16, "gpus": 2}, {"gpus_per_trial": 0.5}, Places(4, {"cpu": 1.0, "gpu": 0.5}, None, True)),
        ({"cpus": 16, "gpus": 2}, {"concurrent": 3}, Places(3, {"cpu": 1.0, "gpu": 0.5}, None, True)),
        ({"cpus": 16, "gpus": 2}, {"gpus_per_trial": 0}, Places(2, {"cpu": 1.0}, None, False)),
        ({"cpus": 4, "num_workers": 2}, {}, Places(1, {"cpu": 0.01}, {"CPU": 1.0}, False)),
        ({"cpus": 4, "num_workers": 2}, {"cpus_per_trial": 1}, Places(1, {"cpu": 0.01}, {"CPU": 0.5}, False)),
        ({"cpus": 32, "gpus": 8, "num_workers": 2}, {}, Places(4, {"cpu": 0.01}, {"CPU": 1.0, "GPU": 1.0}, True)),
        ({"cpus": 4, "cores": 4}, {"trials": 2}, Places(2, {"cpu": 1.0}, None, False)),
    ],
)
def test_trials_get_what_they_need_and_no_more_than_there_is(monkeypatch, cluster, options, expected):
    assert places(monkeypatch, **cluster, **options) == expected


@pytest.mark.parametrize(
    ("cluster", "options", "message"),
    [
        ({"cpus": 4}, {"concurrent": 4}, "4 trials at once of 1 CPUs each are too many for the CPUs that Ray has"),
        ({"cpus": 4}, {"cpus_per_trial": 4}, "1 trials at once of 4 CPUs each are too many"),
        ({"cpus": 4, "num_workers": 2}, {"concurrent": 2}, "2 trials at once of 2 CPUs each are too many"),
        ({"cpus": 4}, {"gpus_per_trial": 1}, "--gpus_per_trial is 1, but Ray sees no GPU"),
        ({"cpus": 16, "gpus": 2}, {"gpus_per_trial": 0.6, "concurrent": 3}, "--concurrent 3 with 0.6 GPUs a trial"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, cluster, options, message):
    with pytest.raises(ValueError, match=r".") as error:
        places(monkeypatch, **cluster, **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("of_config", "gpus", "message"),
    [
        ({"num_workers": 2}, 0.5, "--gpus_per_trial must be 2, one for each of train.num_workers, or 0, but got 0.5"),
        ({}, 2, "--gpus_per_trial must be at most 1"),
        ({"device": "cpu"}, 1, "train.device is cpu"),
        ({"device": "cuda"}, 0, "train.device is cuda"),
    ],
)
def test_what_fits_no_machine_is_refused_without_one(of_config, gpus, message):
    with pytest.raises(ValueError, match=r".") as error:
        check_places(config(**of_config), SearchOptions(gpus_per_trial=gpus))
    assert message in str(error.value)
