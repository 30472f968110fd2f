"""The page of a search, from a study that is made by hand."""

import json
import shlex

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from pipeline.options import parse, store
from pipeline.report import trial_charts, try_report, write_report
from pipeline.report.folder import Contents
from pipeline.report.origin import commands
from pipeline.report.trials import Search, importances, load_study, read_search
from pipeline.reproducing.chosen import with_steps
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.search_report import print_end, write_best, write_trials
from pipeline.tuning.study import BASELINE, CHANGES, FAILED, ROLE, START, Record, open_study, records
from pixcon_core.presets import PRESETS

TEMPERATURE, KEYS = "contrast.temperature", "contrast.keys"
SPACE = {TEMPERATURE: FloatDistribution(0.01, 1.0, log=True), KEYS: CategoricalDistribution(["batch", "pixel"])}


def add(study, temperature, keys, state, role="", reason=""):
    """A trial whose mIoU follows from the temperature alone."""
    points = {10: 0.2 + temperature / 10, 20: 0.3 + temperature / 10}
    if state != TrialState.COMPLETE:
        del points[20]
    study.add_trial(
        create_trial(
            state=state,
            value=points[max(points)] if state != TrialState.FAIL else None,
            params={TEMPERATURE: temperature, KEYS: keys},
            distributions=SPACE,
            intermediate_values=points,
            user_attrs={ROLE: role, FAILED: reason, "seconds": 12.0},
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A search's folder: five complete trials, the baseline, twenty stopped ones and one that failed."""
    folder = tmp_path_factory.mktemp("runs") / "mini-camvid-search"
    folder.mkdir()
    config = PRESETS["mini-camvid"]
    store(folder, "mini-camvid", config, SearchOptions())
    study = open_study(folder)
    add(study, 0.1, "batch", TrialState.COMPLETE, role=START)
    baseline = {ROLE: BASELINE, CHANGES: {"contrast.weight": 0.0}}
    study.add_trial(create_trial(value=0.33, intermediate_values={10: 0.21, 20: 0.33}, user_attrs=baseline))
    for i in range(4):
        add(study, 0.2 * (i + 1), ("pixel", "batch")[i % 2], TrialState.COMPLETE)
    for i in range(20):
        add(study, 0.015 * (i + 1), ("pixel", "batch")[i % 2], TrialState.PRUNED)
    add(study, 0.9, "batch", TrialState.FAIL, reason="<b>out of memory</b>")
    found = records(study)
    write_trials(folder, found)
    facts = {"val_images": "80 images", "seconds": 100.0, "skipped": []}
    write_best(folder, "mini-camvid", config, config, {TEMPERATURE: 0.1, KEYS: "batch"}, found, None, facts)
    return folder


def test_the_page_of_a_search_shows_every_trial_and_why_it_failed(folder):
    page = write_report(folder).read_text()
    assert "&lt;b&gt;out of memory&lt;/b&gt;" in page
    assert "<b>" not in page
    for part in ("History", "Importance of settings", "mIoU by setting", "27 trials", "complete, start",
                 "complete, baseline", "6 complete, 20 stopped, 1 failed", "without contrast", "optuna-dashboard",
                 "Search"):  # fmt: skip
        assert part in page, part
    assert page.count("<svg") == 4  # history, by step, and a chart for each setting
    assert "at step 10" in page


def test_the_best_so_far_is_a_line_to_the_last_trial_also_where_the_first_is_the_best(monkeypatch):
    first = Record(0, START, "complete", {}, {10: 0.2, 20: 0.4}, 1.0, "", [0.4])
    trials = [first, first._replace(number=1, role=BASELINE), first._replace(number=2, role="", state="stopped")]
    drawn = []
    monkeypatch.setattr(trial_charts, "chart", lambda alt, series, **_: drawn.extend(series))
    trial_charts.history(trials)
    (best,) = [one for one in drawn if one.label == "best so far"]
    assert (list(best.x), list(best.y)) == ([0, 2], [40.0, 40.0])


def test_importance_is_of_the_setting_that_matters_at_a_step_that_most_trials_reached(folder):
    found = importances(load_study(folder))
    assert (found.step, found.trials) == (10, 26)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert next(iter(found.shares)) == TEMPERATURE
    assert found.shares[TEMPERATURE] > 0.9


def test_importance_is_refused_for_too_few_trials(tmp_path):
    study = open_study(tmp_path)
    add(study, 0.1, "batch", TrialState.COMPLETE, role=START)
    with pytest.raises(ValueError, match="needs scores of 4 trials at the same step, and there are 1"):
        importances(study)


def test_without_the_study_the_trials_are_still_there(folder, tmp_path):
    for name in ("config.json", "trials.json", "best.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    found = read_search(tmp_path)
    assert found.trials == read_search(folder).trials
    assert found.importance is None
    assert "study.db" in found.no_importance
    assert "Not shown: there is no study.db" in write_report(tmp_path).read_text()
    assert not (tmp_path / "study.db").exists()


def test_a_study_elsewhere_is_found_and_a_password_is_not_guessed(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for folder, storage in ((tmp_path / "a", url), (tmp_path / "b", "postgresql://me:secret@host/db")):
        folder.mkdir()
        store(folder, "mini-camvid", PRESETS["mini-camvid"], SearchOptions(storage=storage))
    add(open_study(tmp_path / "a", url), 0.1, "batch", TrialState.COMPLETE, role=START)
    assert len(load_study(tmp_path / "a").trials) == 1
    (tmp_path / "b" / "study.json").write_text(json.dumps({"study": "b"}))
    with pytest.raises(ValueError, match="whose password is not written down"):
        load_study(tmp_path / "b")


def test_a_page_that_cannot_be_made_ends_no_search(tmp_path, capsys):
    try_report(tmp_path)
    assert "note: no page:" in capsys.readouterr().out
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_commands_of_a_search_have_a_warm_up_that_fits_their_steps(tmp_path, capsys):
    full = PRESETS["camvid-hrnet-w48"]
    config = with_steps(full, 5000)
    wanted = {"command": (5000, 1000, 0.3), "full_command": (30_000, 6000, 0.3)}
    changes = {TEMPERATURE: 0.3, "contrast.warmup_steps": 1000}
    best = Record(0, START, "complete", changes, {5000: 0.4}, 1.0, "", [0.4])
    facts = {"val_images": "80 images", "seconds": 100.0, "skipped": []}
    result = write_best(tmp_path, "camvid-hrnet-w48", config, full, {TEMPERATURE: 0.1}, [best], None, facts)
    for name, expected in wanted.items():
        asked = parse(shlex.split(result[name])[3:]).config
        assert (asked.train.steps, asked.warmup_steps, asked.contrast.temperature) == expected
    print_end(result, tmp_path)
    printed = capsys.readouterr().out
    assert all(result[name] in printed for name in wanted)
    shown = [
        command
        for _, command in commands(Contents(tmp_path, "search"), Search("", result, [], [], frozenset(), None, ""))
    ]
    assert shown[:2] == [result[name] for name in wanted]
    unmoved = [best._replace(changes={TEMPERATURE: 0.3})]
    result = write_best(tmp_path, "camvid-hrnet-w48", config, full, {TEMPERATURE: 0.1}, unmoved, None, facts)
    assert parse(shlex.split(result["full_command"])[3:]).config.contrast.warmup_steps == 5000
