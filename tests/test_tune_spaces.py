"""Search spaces name settings and ranges that the configuration takes; the command line of a search."""

import pkgutil
import shlex
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import tune_spaces
from pipeline.options import flags, parse
from pipeline.search import late_start, trial_config
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.space import check_space, load_space, starting_values, suggest
from pixcon_core.config import ContrastConfig, RunConfig
from pixcon_core.override import flatten, override, unflatten
from pixcon_core.presets import PRESETS

SPACES = [module.name for module in pkgutil.iter_modules(tune_spaces.__path__)]


def test_there_are_three_spaces():
    assert SPACES == ["contrast", "full", "paper"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SPACES)
def test_whatever_a_space_suggests_is_a_configuration(name, preset):
    config = PRESETS[preset]
    space = load_space(name, config)
    assert set(space) <= set(flatten(config))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        suggest(trial, space)
        assert set(trial.params) == set(space)
        found = flatten(override(config, unflatten(trial.params)))
        assert {name: found[name] for name in space} == trial.params


def test_the_contrast_space_goes_with_the_preset():
    small, large = (load_space("contrast", PRESETS[name]) for name in ("mini-camvid", "cityscapes-hrnet-w48"))
    assert small["contrast.memory_size"] == IntDistribution(50, 800, log=True)
    assert large["contrast.memory_size"] == IntDistribution(1250, 20000, log=True)
    assert small["contrast.temperature"] == FloatDistribution(0.03, 1.0, log=True)
    assert small["contrast.weight"] == FloatDistribution(0.01, 3.0, log=True)


def test_the_paper_space_has_the_grids_of_its_ablations():
    space = load_space("paper", RunConfig())
    assert space["contrast.keys"] == CategoricalDistribution(["batch", "pixel", "region", "pixel+region"])
    assert space["contrast.key_sampling"] == CategoricalDistribution(["random", "hardest", "semi_hard"])
    assert space["contrast.hard_anchor_ratio"] == CategoricalDistribution([None, 0.5])


def test_an_unset_warm_up_starts_from_what_it_comes_to():
    config = PRESETS["mini-camvid"]
    assert config.contrast.warmup_steps is None
    assert starting_values(config)["contrast.warmup_steps"] == config.train.steps // 8


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"contrast.temprature": FloatDistribution(0.1, 1)}, "Did you mean contrast.temperature"),
        ({"temperature": FloatDistribution(0.1, 1)}, "There is no setting temperature"),
        ({"contrast.temperature": FloatDistribution(0, 1)}, "contrast.temperature must be > 0, but got 0"),
        ({"contrast.memory_size": FloatDistribution(100, 1000)}, "contrast.memory_size takes int, but got 100.0"),
        ({"contrast.keys": CategoricalDistribution(["pixels"])}, "contrast.keys takes batch or pixel"),
        ({"contrast.weight": FloatDistribution(0.5, 1)}, "searched in 0.5 to 1, but starts from 0.1"),
        ({"contrast.hard_anchor_ratio": CategoricalDistribution([None])}, "but starts from 0.5"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, message):
    with pytest.raises(ValueError, match=r"^--space mine: ") as error:
        check_space("mine", space, RunConfig())
    assert message in str(error.value)


def test_an_unknown_space_and_a_start_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"no space 'contrst'\. Did you mean contrast"):
        load_space("contrst", RunConfig())
    with pytest.raises(ValueError, match=r"contrast\.temperature is searched in 0\.03 to 1, but starts from 0\.01"):
        load_space("contrast", replace(RunConfig(), contrast=ContrastConfig(temperature=0.01)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--trials 5", "--trials: only of a search"),
        ("--search --trials 1", "trials must be >= 2"),
        ("--search --budget 2x", "budget must be a length of time like 2h, 90m or 1h30m, but got '2x'"),
        ("--search --concurrent 0", "concurrent must be >= 1"),
        ("--search --cpus_per_trial nan", "cpus_per_trial must be > 0 and finite, but got nan"),
        ("--search --cpus_per_trial inf", "cpus_per_trial must be > 0 and finite, but got inf"),
        ("--search --gpus_per_trial nan", "gpus_per_trial must be >= 0 and finite, but got nan"),
        ("--search --gpus_per_trial inf", "gpus_per_trial must be >= 0 and finite, but got inf"),
        ("--search --dry_run", "leave out --search"),
    ],
)
def test_wrong_search_flags_are_refused(arguments, message):
    with pytest.raises(ValueError, match=r".") as error:
        parse(arguments.split())
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45)])
def test_a_budget_is_read_as_a_length_of_time(text, seconds):
    assert SearchOptions(budget=text).budget_seconds == seconds


@pytest.mark.parametrize(
    "changes",
    [
        "--contrast.temperature 0.07 --contrast.hard_anchor_ratio None --contrast.keys batch",
        "--ingest.crop 64 96 --train.compile --train.no_channels_last --evaluate.scales 0.5 1.0 --data_root 'a b'",
    ],
)
def test_flags_make_the_configuration_they_were_made_of(changes):
    config = parse(shlex.split(changes)).config
    found = flags(config, PRESETS["mini-camvid"])
    assert len(found) > 3
    assert parse(found).config == config


def test_a_trial_s_warm_ups_are_the_same_share_of_its_steps_in_every_space():
    start = parse("--preset camvid-hrnet-w48 --train.lr_warmup_steps 300".split()).config
    found = trial_config(start, SearchOptions())
    assert (found.train.steps, found.contrast.warmup_steps, found.train.lr_warmup_steps) == (5000, 833, 50)
    assert trial_config(start, SearchOptions()) == found  # so a resume has the same
    assert late_start(found, SearchOptions()) is None
    for name in SPACES:
        load_space(name, found)
    unset = trial_config(PRESETS["mini-camvid"], SearchOptions())
    assert (unset.train.steps, unset.contrast.warmup_steps, unset.warmup_steps) == (150, None, 18)


def test_a_search_in_whose_trials_contrast_never_begins_is_refused():
    start = parse("--contrast.warmup_steps 900".split()).config
    with pytest.raises(ValueError, match=r"warmup_steps is 900 of 900 steps, as the same share 150 of the 150 of a"):
        trial_config(start, SearchOptions())


def test_contrast_that_begins_after_the_first_look_of_early_stopping_is_noted():
    for warmup, is_late in ((600, True), (228, True), (200, False)):
        config = trial_config(parse(["--contrast.warmup_steps", str(warmup)]).config, SearchOptions())
        note = late_start(config, SearchOptions())
        assert (note is not None) == is_late
        assert note is None or f"after {config.warmup_steps} of a trial's 150 steps, and at 38 trials may be" in note
        assert late_start(config, SearchOptions(early_stopping=False)) is None
