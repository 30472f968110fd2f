import json
from dataclasses import replace

import pytest
import torch

from pipeline.data.disk import check_disk, checkpoint_bytes
from pipeline.options import load, store
from pipeline.reproduce import main
from pipeline.reproducing.ablation import TABLES, format_table, slug
from pipeline.reproducing.chosen import carried, find_chosen, with_steps
from pipeline.reproducing.options import parse_reproduce
from pipeline.reproducing.reproduction import _plan
from pipeline.reproducing.targets import SHORT_STEPS, find_targets
from pipeline.training.checkpoint import Meta, save_checkpoint
from pipeline.training.model import TrainedModel
from pipeline.training.optimization import TrainingState
from pipeline.tuning.options import SearchOptions
from pixcon_core.config import EvaluateConfig
from pixcon_core.override import flatten, override, unflatten
from pixcon_core.presets import PRESETS

CHANGES = {"contrast.temperature": 0.3, "contrast.memory_size": 400, "contrast.weight": 0.1}


def trial(number, changes=None, state="complete"):
    changes = CHANGES if changes is None else changes
    return {"number": number, "state": state, "changes": changes, "miou": 0.3, "step": 300, "reason": "no memory"}


def write_search(folder, preset="mini-camvid", best=None, config=None, trials=()):
    folder.mkdir(parents=True)
    store(folder, preset, config or PRESETS[preset], SearchOptions())
    (folder / "best.json").write_text(json.dumps({"best": best, "trial_steps": 300}))
    (folder / "trials.json").write_text(json.dumps(trials))
    return folder


@pytest.fixture
def out(tmp_path):
    """A folder with one search of three trials; the last is the best."""
    trials = [trial(0, {}), trial(1, {"contrast.weight": 0.0}), trial(2), trial(3, state="failed")]
    write_search(tmp_path / "runs" / "mini-camvid-search-1", best=trials[2], trials=trials)
    return tmp_path / "runs"


def targets_of(out, more="", trial="best"):
    arguments = [*more.split(), "--trial", trial, "--out", str(out)]
    return find_targets(parse_reproduce(arguments), find_chosen(trial, None, out), arguments)


def test_best_is_of_the_newest_search_that_has_one(out):
    write_search(out / "mini-camvid-search-2", best=None)
    chosen = find_chosen("best", None, out)
    assert (chosen.name, chosen.origin.name, chosen.changes) == ("trial2", "mini-camvid-search-1", CHANGES)
    assert chosen.moved == {"contrast.temperature": 0.3, "contrast.memory_size": 400}


def test_a_trial_is_found_by_number_and_by_path(out):
    folder = out / "mini-camvid-search-1"
    assert find_chosen("0", None, out).changes == {}
    for path in (folder, folder / "best.json"):
        assert find_chosen(str(path), None, out) == find_chosen("best", None, out)


def test_a_run_is_reproduced_with_its_own_contrast(tmp_path):
    config = override(PRESETS["mini-camvid"], {"contrast": {"temperature": 0.5}, "train": {"steps": 7, "lr": 1e-4}})
    (tmp_path / "run").mkdir()
    store(tmp_path / "run", "mini-camvid", config)
    for path in (tmp_path / "run", tmp_path / "run" / "config.json"):
        chosen = find_chosen(str(path), None, tmp_path)
        assert (chosen.name, chosen.changes) == ("run", {"contrast.temperature": 0.5})
        (target,) = targets_of(tmp_path, "--datasets mini-camvid", str(path)).found
        assert target.config == config


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("1", "is the baseline without contrast"),
        ("3", "failed: no memory"),
        ("9", "has no trial 9; its trials: 0 to 3"),
        ("nowhere", "neither `best`, nor a number, nor there"),
        ("EMPTY", "neither the best.json of a search nor the config.json of a run"),
        ("FILE", "neither a best.json nor a config.json"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(out, tmp_path, trial, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    trial = trial.replace("EMPTY", str(tmp_path / "empty")).replace("FILE", str(tmp_path / "file.txt"))
    with pytest.raises(ValueError, match=message):
        find_chosen(trial, None, out)


def test_without_a_search_the_command_says_how_to_make_one(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "To make one: python -m pipeline.run --search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"best": {"number": 1}}', "lacks a trial's changes"), ("[]", "holds a list")],
)
def test_a_damaged_result_of_a_search_is_named(out, content, message):
    (out / "mini-camvid-search-1" / "best.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        find_chosen(str(out / "mini-camvid-search-1"), None, out)


def test_settings_written_by_hand_are_checked(out):
    file = out / "mini-camvid-search-1" / "best.json"
    file.write_text(file.read_text().replace("contrast.temperature", "contrast.temprature"))
    with pytest.raises(ValueError, match=r"Did you mean contrast\.temperature"):
        find_chosen("best", None, out)


def test_counts_and_rates_carry_over_in_proportion_and_warm_up_as_a_share(tmp_path):
    start = PRESETS["mini-camvid"]
    changes = {
        "contrast.temperature": 0.3,
        "contrast.memory_size": 2 * start.contrast.memory_size,
        "contrast.warmup_steps": 30,
        "train.lr": start.train.lr / 4,
        "model.projection_dim": 64,
        "contrast.max_views": 100,
    }
    chosen = find_chosen(str(write_search(tmp_path / "s", best=trial(4, changes))), None, tmp_path)
    other = PRESETS["cityscapes-deeplabv3-r101"]
    assert carried(chosen, other) == {
        "contrast.temperature": 0.3,
        "contrast.memory_size": 10_000,
        "contrast.warmup_steps": 4000,  # a tenth of the steps, as 30 is of 300
        "train.lr": other.train.lr / 4,
        "model.projection_dim": 128,
    }
    assert carried(chosen, start) == {
        name: 90 if name == "contrast.warmup_steps" else value
        for name, value in changes.items()
        if name != "contrast.max_views"
    }


def test_fewer_steps_keep_the_share_of_warm_up():
    shorter = with_steps(PRESETS["cityscapes-deeplabv3-r101"], 400)
    assert (shorter.train.steps, shorter.contrast.warmup_steps) == (400, 50)
    assert with_steps(PRESETS["mini-camvid"], 80).warmup_steps == 10


def test_without_any_data_all_miniatures_stand_in(out):
    targets = targets_of(out)
    names = [target.name for target in targets.found]
    assert names == ["mini-cityscapes", "mini-pascal-context", "mini-coco-stuff", "mini-camvid"]
    assert list(targets.absent) == ["cityscapes", "pascal-context", "coco-stuff", "camvid"]
    assert "none is there. Their miniatures stand in." in targets.notes
    for target in targets.found:
        assert target.is_miniature
        assert (target.config.train.steps, target.full_steps, target.is_shortened) == (SHORT_STEPS, 900, True)
        assert target.config.contrast.temperature == 0.3


def test_data_that_are_there_are_found_however_they_are_spelt_and_never_shortened(out, tmp_path):
    (tmp_path / "data" / "CamVid").mkdir(parents=True)
    targets = targets_of(out, f"--data {tmp_path / 'data'}")
    (target,) = targets.found
    assert (target.name, target.preset, target.is_shortened) == ("camvid", "camvid-lite", False)
    assert target.config.data_root == str(tmp_path / "data" / "CamVid")
    assert list(targets.absent) == ["cityscapes", "pascal-context", "coco-stuff"]
    with_twins = targets_of(out, f"--data {tmp_path / 'data'} --miniatures")
    assert [one.name for one in with_twins.found][:2] == ["camvid", "mini-cityscapes"]
    (short,) = targets_of(out, f"--data {tmp_path / 'data'} --steps 5").found
    assert short.config.train.steps == 5


def test_another_data_set_has_the_preset_of_the_same_network(tmp_path):
    write_search(tmp_path / "runs" / "s", "cityscapes-hrnet-w48", best=trial(5, {"contrast.temperature": 0.3}))
    (tmp_path / "data" / "camvid").mkdir(parents=True)
    (target,) = targets_of(tmp_path / "runs", f"--data {tmp_path / 'data'} --datasets camvid").found
    assert target.preset == "camvid-hrnet-w48"
    assert target.config.contrast.temperature == 0.3


def test_the_trial_s_own_data_set_keeps_the_search_s_configuration_and_folder(tmp_path, tiny_camvid):
    config = override(PRESETS["mini-camvid"], {"dataset": "camvid", "data_root": str(tiny_camvid), "seed": 5})
    config = replace(config, train=replace(config.train, steps=40))
    write_search(tmp_path / "runs" / "s", best=trial(6), config=config)
    targets = targets_of(tmp_path / "runs")
    (target,) = targets.found
    assert target.config == override(config, unflatten(CHANGES))
    assert (target.preset, target.changes) == ("mini-camvid", CHANGES)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--datasets camvd", "Did you mean camvid"),
        ("--datasets coco-stuff-10k", "coco-stuff-10k is not there: No --data FOLDER is given. It has no miniature"),
        ("--datasets mini-camvid mini-camvid --data missing", None),
        ("--datasets camvid --data missing", "--data: missing is not a folder"),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(out, more, message):
    if message is None:
        assert len(targets_of(out, more).found) == 1
        return
    with pytest.raises(ValueError, match=message):
        targets_of(out, more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--seeds 0", "seeds must be >= 1"),
        ("--steps 3 --full", "say different things"),
        ("--trial some/path --search x", "--trial is a path already"),
        ("--datasets all camvid", "stands alone"),
        ("--ablation memory --ablation sampling", "given twice"),
        ("--trail best", "Did you mean --trial"),
    ],
)
def test_flags_that_make_no_sense_are_refused(more, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(more.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_pairs_have_one_seed_and_differ_in_the_weight_alone(out):
    arguments = ["--out", str(out), "--seeds", "2", "--evaluate.flip"]
    options = parse_reproduce(arguments)
    plan = _plan(options, find_targets(options, find_chosen("best", None, out), arguments))
    assert len(plan) == len({one.run.name for one in plan}) == 4 * 2 * 2
    for contrast, baseline in zip(plan[::2], plan[1::2], strict=True):
        assert contrast.run.name.replace("contrast", "baseline") == baseline.run.name
        mine, other = flatten(contrast.run.config), flatten(baseline.run.config)
        assert {name for name in mine if mine[name] != other[name]} == {"contrast.weight"}
        assert other["contrast.weight"] == 0
        assert mine["seed"] == contrast.cell.seed == baseline.cell.seed
        assert mine["evaluate.flip"]


def test_a_protocol_takes_the_flags_that_are_given_also_where_they_are_defaults(tmp_path):
    protocol = EvaluateConfig(short_side=520, scales=(0.5, 1.0), flip=True, window=(64, 64), stride=(32, 32))
    config = replace(PRESETS["mini-camvid"], evaluate=protocol)
    write_search(tmp_path / "search", best=trial(2), config=config, trials=[trial(2)])

    def found(more):
        return targets_of(tmp_path, f"--datasets mini-camvid {more}").found[0].config.evaluate

    assert found("") == protocol
    given = "--full --evaluate.short_side None --evaluate.scales 1.0 --evaluate.no_flip"
    assert found(given) == EvaluateConfig(window=(64, 64), stride=(32, 32))


def test_an_ablation_shares_the_runs_that_the_comparison_has(out):
    arguments = ["--out", str(out), "--seeds", "1", "--ablation", "memory", "sampling", "temperature"]
    options = parse_reproduce(arguments)
    plan = _plan(options, find_targets(options, find_chosen("best", None, out), arguments))
    names = [one.run.name for one in plan]
    assert {one.target.name for one in plan} == {"mini-camvid"}
    assert len(names) == len(set(names)) == len({one.run.config for one in plan})
    # Of the trial: temperature 0.3, both memories, random keys.
    assert {"mini-camvid/baseline-seed0", "mini-camvid/contrast-seed0"} <= set(names)
    assert "mini-camvid/ablation-temperature-0.3-seed0" not in names
    assert "mini-camvid/ablation-keys-batch-seed0" in names
    for table in TABLES.values():
        assert len({slug(row) for row in table.rows}) == len(table.rows)


def test_a_table_of_an_ablation_has_ours_and_the_published_figures_apart():
    table = TABLES["temperature"]
    results = [[0.5, 0.52], [0.6, 0.6], [0.51, 0.53], [], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    lines = format_table(table, results, "mini-camvid, 2 seeds, 90 steps").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["mIoU", "%", "gain", "published"]
    assert lines[2].split() == ["cross-entropy", "alone", "51.0", "±", "1.4", "79.27"]
    assert lines[3].split() == ["0.05", "60.0", "±", "0.0", "+9.0", "79.80"]
    assert lines[5].split() == ["0.10", "-", "80.18"]
    assert lines[-1].startswith("published: ")


def test_checkpoints_that_do_not_fit_the_disk_are_refused(tmp_path):
    small = override(PRESETS["mini-camvid"], {"model": {"head_channels": 8, "projection_dim": 8}})
    model = TrainedModel(small, (1,) * 11)
    state = TrainingState(model, small.train, torch.device("cpu"))
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    meta = Meta(small, ("class",) * 11, ((0, 0, 0),) * 11, (0.0,) * 3, (1.0,) * 3, 0)
    save_checkpoint(tmp_path, state.inference_model, meta, state.training_dict())
    there = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert checkpoint_bytes(small, 11) == pytest.approx(there, rel=0.1)
    check_disk(tmp_path / "not" / "yet", [there] * 3)
    with pytest.raises(ValueError, match=f"the checkpoints of 2 runs take about 2000000.0 GB, but {tmp_path} has"):
        check_disk(tmp_path / "not" / "yet", [10**15, 0])


def test_a_dry_run_writes_nothing(out, capsys):
    before = sorted(out.rglob("*"))
    main(["--out", str(out), "--dry_run"])
    printed = capsys.readouterr().out
    assert "Runs: 24 (contrast and baseline; 3 seeds), 0 of them done." in printed
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 80
    assert sorted(out.rglob("*")) == before
    assert load(out / "mini-camvid-search-1").preset == "mini-camvid"
