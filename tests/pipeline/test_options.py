import dataclasses
import json
import os
import subprocess
import sys

import pytest
import tyro

from pipeline.command import parse_flags
from pipeline.options import load, parse, store
from pipeline.run import main
from pipeline.tuning.options import SearchOptions
from pixcon_core.config import RunConfig
from pixcon_core.presets import PRESETS


def new_run(out, name, preset, config):
    folder = out / name
    folder.mkdir(parents=True)
    store(folder, preset, config)
    return folder


def test_no_arguments_are_the_miniature_preset():
    request = parse([])
    assert request.config == PRESETS["mini-camvid"]
    assert request.preset == "mini-camvid"
    assert not request.notes


def test_flags_that_are_missing_are_named_without_their_explanations():
    @dataclasses.dataclass
    class Flags:
        checkpoint: str
        """What --it is: a folder."""
        folder: tyro.conf.Positional[str]
        """Where."""
        size: int = 1

    with pytest.raises(ValueError, match="Missing") as error:
        parse_flags(Flags, "program", [])
    assert str(error.value) == "Missing: STR, --checkpoint STR. All flags: --help."
    with pytest.raises(ValueError, match="Missing") as error:
        parse_flags(Flags, "program", ["here", "--chekpoint", "a b"])
    assert str(error.value) == "Missing: --checkpoint STR. Unrecognized options: --chekpoint, a b. All flags: --help."


def test_every_field_is_a_flag():
    done = subprocess.run([sys.executable, "-m", "pipeline.run", "--help"], capture_output=True, text=True, check=True)
    for section in dataclasses.fields(RunConfig):
        value = getattr(RunConfig(), section.name)
        names = (
            [f"{section.name}.{f.name}" for f in dataclasses.fields(value)]
            if dataclasses.is_dataclass(value)
            else [section.name]
        )
        for name in names:
            assert f"--{name}" in done.stdout


def test_flags_change_single_fields_of_the_preset():
    request = parse(
        "--preset mini-cityscapes --contrast.temperature 0.07 --train.steps 7 --ingest.crop 64 96"
        " --contrast.num_positives None --contrast.learnable_temperature --seed 3".split()
    )
    config = request.config
    assert request.preset == "mini-cityscapes"
    assert config.dataset == "mini-cityscapes"
    assert config.contrast.temperature == 0.07
    assert config.contrast.num_positives is None
    assert config.contrast.learnable_temperature
    assert config.ingest.crop == (64, 96)
    assert (config.train.steps, config.seed) == (7, 3)
    assert config.model == PRESETS["mini-cityscapes"].model


def test_a_data_set_brings_its_own_preset():
    assert parse(["--dataset", "camvid", "--data_root", "x"]).preset == "camvid-lite"
    assert parse(["--dataset=camvid"]).preset == "camvid-lite"
    own = parse(["--dataset", "my/data.toml"])
    assert own.preset == "lite"
    assert own.config.dataset == "my/data.toml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--contrast.temprature 0.1", "contrast.temperature"),
        ("--contrast.temperature warm", "--contrast.temperature"),
        ("--contrast.temperature -1", "contrast.temperature must be > 0, but got -1"),
        ("--contrast.keys everything", "--contrast.keys"),
        ("--train.steps 0", "train.steps must be >= 1, but got 0"),
        ("--train.steps 1.5", "--train.steps"),
        ("--train.steps", "--train.steps"),
        ("--ingest.crop 100 128", "ingest.crop must be multiples of model.output_stride (16)"),
        ("--train.batch_size 6 --train.num_workers 4", "train.batch_size must be a multiple of train.num_workers (4)"),
        ("--preset mini-camvd", "Did you mean mini-camvid?"),
        ("--preset", "preset"),
        ("surplus", "surplus"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err


def test_settings_without_effect_are_noted():
    notes = parse("--contrast.weight 0 --contrast.memory_size 7".split()).notes
    assert len(notes) == 1
    assert "contrast.memory_size: no effect, since contrast.weight is 0" in notes[0]
    notes = parse("--contrast.keys batch --contrast.memory_size 7".split()).notes
    assert "since contrast.keys is batch" in notes[0]
    notes = parse("--contrast.warmup_steps 50 --train.steps 50".split()).notes
    assert "contrast will never begin" in notes[0]


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ("--search --train.checkpoint_every 7", "train.checkpoint_every: no effect, since a trial of a search"),
        ("--contrast.weight 0 --model.projection_dim 64", "model.projection_dim: no effect, since contrast.weight is"),
        ("--model.aux_weight 0.9", "model.aux_weight: no effect, since model.head is fcn"),
        ("--preset camvid-hrnet-w48 --model.aux_weight 0.9", "model.aux_weight: no effect, since model.head is hrnet"),
        ("--preset camvid-hrnet-w48 --model.head_channels 9", "model.head_channels: no effect, since model.head is hr"),
        ("--train.ohem_min_kept 5", "train.ohem_min_kept: no effect, since train.ohem_threshold is None"),
        ("--ingest.cache off --ingest.cache_share 0.1", "ingest.cache_share: no effect, since ingest.cache is off"),
        ("--train.steps 9 --train.lr_warmup_steps 9", "the learning rate will never come to train.lr"),
    ],
)
def test_each_setting_without_effect_is_noted(arguments, note):
    (found,) = parse(arguments.split()).notes
    assert note in found


def test_settings_with_an_effect_are_not_noted():
    for arguments in (
        "--train.checkpoint_every 7 --model.projection_dim 64 --ingest.cache_share 0.1 --train.lr_warmup_steps 9",
        "--train.ohem_threshold 0.9 --train.ohem_min_kept 5 --model.head deeplabv3 --model.aux_weight 0.9",
        "--contrast.weight 0 --search",
    ):
        assert parse(arguments.split()).notes == ()


def test_resume_takes_the_newest_run_with_its_own_settings(tmp_path):
    config = dataclasses.replace(PRESETS["mini-camvid"], seed=5)
    new_run(tmp_path, "a", "mini-camvid", RunConfig())
    newest = new_run(tmp_path, "b", "mini-camvid", config)
    request = parse(["--resume", "--out", str(tmp_path)])
    assert request.unfinished == newest
    assert request.config == config
    assert parse(["--resume", "--out", str(tmp_path), "--seed", "5"]).unfinished == newest


def test_resume_looks_among_the_runs_of_the_data_set_asked_for(tmp_path):
    older = new_run(tmp_path, "a", "mini-cityscapes", PRESETS["mini-cityscapes"])
    new_run(tmp_path, "b", "mini-camvid", PRESETS["mini-camvid"])
    for flags in (["--dataset", "mini-cityscapes"], ["--preset", "mini-cityscapes"]):
        assert parse(["--resume", "--out", str(tmp_path), *flags]).unfinished == older


def test_resume_takes_the_run_that_the_flags_fit_or_the_newest_unfinished_one(tmp_path):
    names = {name: i for i, name in enumerate("abcd")}
    seeds = {"a": 0, "b": 1, "c": 1, "d": 2}
    runs = {}
    for name, age in names.items():
        config = dataclasses.replace(PRESETS["mini-camvid"], seed=seeds[name])
        runs[name] = new_run(tmp_path, name, "mini-camvid", config)
        os.utime(runs[name] / "config.json", (age, age))
    (runs["d"] / "result.json").touch()
    for flags, expected in (("", "c"), ("--seed 0", "a"), ("--seed 1", "c"), ("--seed 2", "d")):
        assert parse(f"--resume --out {tmp_path} {flags}".split()).unfinished == runs[expected]
    with pytest.raises(ValueError, match=rf"the newest run, {runs['d']}, has other settings: seed is 2 there, not 3"):
        parse(f"--resume --out {tmp_path} --seed 3".split())
    for name in "abc":
        (runs[name] / "result.json").touch()
    assert parse(["--resume", "--out", str(tmp_path)]).unfinished == runs["d"]


def test_resume_takes_the_search_that_the_flags_fit(tmp_path):
    folders = {}
    for age, space in enumerate(("full", "contrast")):
        folders[space] = tmp_path / space
        folders[space].mkdir()
        store(folders[space], "mini-camvid", PRESETS["mini-camvid"], SearchOptions(space=space))
        os.utime(folders[space] / "config.json", (age, age))
    again = ["--search", "--resume", "--out", str(tmp_path)]
    assert parse(again).unfinished == folders["contrast"]
    assert parse([*again, "--space", "full", "--trials", "9"]).unfinished == folders["full"]


def test_resume_passes_by_configurations_of_something_else(tmp_path):
    for name, text in (("model", '{"architectures": ["Bert"]}'), ("list", "[1]"), ("none", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    request = parse(["--resume", "--out", str(tmp_path)])
    assert request.unfinished is None
    assert len(request.notes) == 1
    run = new_run(tmp_path, "a", "mini-camvid", PRESETS["mini-camvid"])
    os.utime(run / "config.json", (1, 1))
    request = parse(["--resume", "--out", str(tmp_path)])
    assert (request.unfinished, request.notes) == (run, ())


def test_a_run_that_cannot_be_read_is_left_out_with_a_note_and_alone_ends_a_resume(tmp_path):
    run = new_run(tmp_path, "a", "mini-camvid", PRESETS["mini-camvid"])
    (run / "config.json").write_text('{"preset": "x", "config": {"colour": "red"}}')
    with pytest.raises(ValueError, match=r"config\.json is not .*There is no setting colour"):
        parse(["--resume", "--out", str(tmp_path)])
    other = new_run(tmp_path, "b", "mini-camvid", PRESETS["mini-camvid"])
    request = parse(["--resume", "--out", str(tmp_path), "--seed", "0"])
    assert request.unfinished == other
    os.utime(other / "config.json", (1, 1))
    (note,) = parse(["--resume", "--out", str(tmp_path)]).notes
    assert "There is no setting colour" in note


def test_resume_with_other_settings_says_which(tmp_path):
    new_run(tmp_path, "a", "mini-camvid", PRESETS["mini-camvid"])
    with pytest.raises(ValueError, match=r"train\.steps is 900 there, not 7"):
        parse(["--resume", "--out", str(tmp_path), "--train.steps", "7"])


def test_resume_without_a_run_starts_one_and_says_so(tmp_path):
    request = parse(["--resume", "--out", str(tmp_path)])
    assert request.unfinished is None
    assert "no run to go on with" in request.notes[0]


def test_a_stored_configuration_of_something_else_is_named(tmp_path):
    new_run(tmp_path, "a", "mini-camvid", RunConfig())
    file = tmp_path / "a" / "config.json"
    stored = json.loads(file.read_text())
    stored["config"]["contrast"]["colour"] = "red"
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"config\.json is not .*There is no setting contrast\.colour"):
        load(tmp_path / "a")
