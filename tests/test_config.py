import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest

from pixcon_core.config import (
    ContrastConfig,
    EvaluateConfig,
    IngestConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_fields,
)
from pixcon_core.data import DATASETS
from pixcon_core.override import flatten, override
from pixcon_core.presets import PRESETS, default_preset


def test_overriding_changes_the_named_fields_and_nothing_else():
    changed = override(RunConfig(), {"contrast": {"temperature": 0.07}, "seed": 3})
    before, after = flatten(RunConfig()), flatten(changed)
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "contrast.temperature": 0.07,
        "seed": 3,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_survives_json(name):
    stored = json.loads(json.dumps(dataclasses.asdict(PRESETS[name])))
    assert override(RunConfig(), stored) == PRESETS[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": {"temprature": 1.0}}, r"no setting contrast\.temprature\. Did you mean contrast\.temperature\?"),
        ({"train": {"steps": "many"}}, r"train\.steps takes int, but got 'many'"),
        ({"train": {"steps": True}}, r"train\.steps takes int, but got True"),
        ({"train": 3}, r"train is a section"),
        ({"contrast": {"keys": "all"}}, r"contrast\.keys takes batch or pixel or region or pixel\+region"),
        ({"ingest": {"crop": [128]}}, r"ingest\.crop takes"),
        ({"model": {"output_stride": 12}}, r"model\.output_stride takes 8 or 16 or 32"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        override(RunConfig(), changes)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (ModelConfig, "head_channels", 0),
        (ModelConfig, "aux_weight", -0.1),
        (ModelConfig, "projection_dim", 1),
        (ContrastConfig, "weight", -1.0),
        (ContrastConfig, "temperature", 0.0),
        (ContrastConfig, "num_positives", 0),
        (ContrastConfig, "max_anchors", 0),
        (ContrastConfig, "max_views", 0),
        (ContrastConfig, "hard_anchor_ratio", 1.5),
        (ContrastConfig, "memory_size", 0),
        (ContrastConfig, "pixels_per_class", 0),
        (ContrastConfig, "warmup_steps", -1),
        (IngestConfig, "crop", (16, 128)),
        (IngestConfig, "scale", (2.0, 0.5)),
        (IngestConfig, "aspect", (0.0, 1.0)),
        (IngestConfig, "flip", 1.1),
        (IngestConfig, "brightness", 300),
        (IngestConfig, "max_class_share", 0.0),
        (IngestConfig, "window", 0),
        (IngestConfig, "max_bad_share", 1.0),
        (TrainConfig, "steps", 0),
        (TrainConfig, "batch_size", 0),
        (TrainConfig, "lr", 0.0),
        (TrainConfig, "clip_norm", 0.0),
        (TrainConfig, "log_every", 0),
        (TrainConfig, "checkpoint_every", 0),
        (TrainConfig, "num_workers", 0),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_made(section, field, value):
    with pytest.raises(ValueError, match=rf"\.{field} must be .*but got"):
        section(**{field: value})


@dataclass
class Words:
    """Not one of the configuration's own: those are looked at by beartype before, in tests alone."""

    word: Literal["a", "b"] = "a"
    number: Literal[8, 16] | None = 8
    both: Literal["none"] | tuple[float, ...] = "none"
    free: str = "x"


def test_a_word_that_is_none_of_a_fields_is_refused():
    for fine in ({}, {"word": "b", "number": 16, "both": (1.0,), "free": "y"}):
        check_fields(Words(**fine), "words")
    for field, value in (("word", "c"), ("word", 1), ("number", 16.0), ("number", 12), ("both", "nine")):
        with pytest.raises(ValueError, match=rf"words\.{field} must be one of .*, but got {value!r}"):
            check_fields(Words(**{field: value}), "words")


def test_a_number_of_another_type_is_no_option():
    with pytest.raises(ValueError, match=r"model\.output_stride takes 8 or 16 or 32, but got 16\.0"):
        override(RunConfig(), {"model": {"output_stride": 16.0}})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
@pytest.mark.parametrize(
    ("section", "field", "shape"),
    [
        (ModelConfig, "aux_weight", float),
        (ContrastConfig, "temperature", float),
        (IngestConfig, "scale", lambda value: (1.0, value)),
        (TrainConfig, "lr", float),
        (EvaluateConfig, "scales", lambda value: (value,)),
    ],
)
def test_numbers_without_end_are_refused(section, field, shape, value):
    with pytest.raises(ValueError, match=rf"\.{field} must be finite, but got .*(inf|nan)"):
        section(**{field: shape(value)})


def test_fields_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"train\.batch_size must be a multiple of train\.num_workers \(3\)"):
        TrainConfig(batch_size=8, num_workers=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_workers": 4}, r"train\.min_workers must be in 1\.\.train\.num_workers \(3\), or None, but got 4"),
        ({"min_workers": 0}, r"train\.min_workers must be in 1\.\.train\.num_workers \(3\), or None, but got 0"),
        ({"min_workers": 1, "batch_size": 2}, r"train\.batch_size must be >= train\.num_workers \(3\), but got 2"),
        ({"min_workers": 1, "accumulate": 2}, r"train\.accumulate must be 1 with train\.min_workers, but got 2"),
    ],
)
def test_an_elastic_number_of_workers_has_to_fit(settings, message):
    assert TrainConfig(num_workers=3, min_workers=1, batch_size=8).batch_size % 3
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"num_workers": 3, "batch_size": 8, **settings})
    with pytest.raises(ValueError, match=r"ingest\.crop must be multiples of model\.output_stride \(16\)"):
        RunConfig(ingest=IngestConfig(crop=(100, 128)))


def test_warm_up_is_an_eighth_of_a_short_run_and_never_more_than_the_papers():
    assert RunConfig(train=TrainConfig(steps=400)).warmup_steps == 50
    assert RunConfig(train=TrainConfig(steps=80_000)).warmup_steps == 5000
    assert RunConfig(contrast=ContrastConfig(warmup_steps=7)).warmup_steps == 7


def test_every_data_set_has_a_preset_and_every_preset_its_data_set():
    for name in DATASETS:
        assert default_preset(name) in PRESETS
    for name, config in PRESETS.items():
        assert config.dataset in DATASETS or name == "lite"
