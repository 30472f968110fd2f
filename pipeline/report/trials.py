"""A search on the page: what it found, every trial, how the best came about, and which settings mattered."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from markupsafe import Markup
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipeline.report.folder import BASELINE, read_json
from pipeline.report.plots import FIRST, MUTED, SECOND, Line, Points, chart

BEST, TRIALS = "best.json", "trials.json"
STUDY, STUDY_FILE = "search", "study.db"
FEW_TRIALS = 20
"""With fewer complete trials, importance is a hint at most."""
STATES = {"complete": (SECOND, "o"), "stopped": (MUTED, "v"), "failed": (FIRST, "x"), "running": (MUTED, "+")}


class Trial(NamedTuple):
    """A trial, as `trials.json` has it."""

    number: int
    role: str
    state: str
    changes: dict[str, Any]
    points: dict[int, float]
    """mIoU by step."""
    seconds: float
    reason: str

    @property
    def step(self) -> int:
        """The last step with a score."""
        return max(self.points, default=0)

    @property
    def miou(self) -> float | None:
        """The last score."""
        return self.points[self.step] if self.points else None


class Importance(NamedTuple):
    """How much of the spread of mIoU each setting explains."""

    shares: dict[str, float]
    """The largest first; they add up to 1."""
    trials: int
    """Complete ones that it is made of."""


class Search(NamedTuple):
    """A search on the page."""

    name: str
    best: dict[str, Any]
    """`best.json`."""
    settings: list[str]
    """Those that were searched."""
    trials: list[Trial]
    history: Markup | None
    by_step: Markup | None
    slices: list[Markup]
    importance: Importance | None
    no_importance: str
    """Why there is none."""


def read_search(folder: Path) -> Search:
    """Read the folder of a search.

    Raises:
        ValueError: If it has no trials yet.
    """
    trials = _read_trials(folder / TRIALS)
    best = read_json(folder / BEST) or {}
    if not trials:
        raise ValueError(f"{folder.name} has no trials yet")
    settings = list(best.get("start_values") or {}) or sorted({name for one in trials for name in one.changes})
    study, importance, missing = None, None, ""
    try:
        study = load_study(folder)
        importance = importances(study)
    except Exception as error:  # of many kinds: a database that is locked, damaged or of another version
        missing = " ".join(str(error).split()) or type(error).__name__
    return Search(
        folder.name,
        best,
        settings,
        trials,
        _history(trials),
        _by_step(trials),
        _slices(trials, settings, study),
        importance,
        missing,
    )


def load_study(folder: Path) -> optuna.Study:
    """Open the study of a search's folder.

    Raises:
        ValueError: If there is none.
    """
    file = folder / STUDY_FILE
    if not file.exists():  # Optuna would make an empty one
        raise ValueError(f"there is no {STUDY_FILE}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.load_study(study_name=STUDY, storage=f"sqlite:///{file.resolve()}")


def importances(study: optuna.Study) -> Importance:
    """Return the importance of each setting by fANOVA.

    Of complete trials with settings: the baseline has none, and scores of trials that were stopped early are of fewer
    steps.

    Raises:
        ValueError: If there are too few of them, or all score alike.
    """
    complete = [one for one in study.get_trials(deepcopy=False) if _counts(one)]
    if len(complete) < 3:
        raise ValueError(f"importance needs three complete trials with contrast, and there are {len(complete)}")
    if len({one.value for one in complete}) == 1:
        raise ValueError("all complete trials have the same mIoU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        alone.add_trials(complete)
        found = get_param_importances(alone, evaluator=FanovaImportanceEvaluator(seed=0))
    return Importance({name: float(share) for name, share in found.items()}, len(complete))


def _counts(one: FrozenTrial) -> bool:
    return one.state == TrialState.COMPLETE and bool(one.params) and one.value is not None


def _read_trials(file: Path) -> list[Trial]:
    try:
        listed = json.loads(file.read_text())
        return [
            Trial(
                int(one["number"]),
                one["role"],
                one["state"],
                one["changes"],
                {int(step): float(miou) for step, miou in one["points"].items()},
                float(one["seconds"]),
                one["reason"],
            )
            for one in listed
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _history(trials: list[Trial]) -> Markup | None:
    """Return the score of each trial, and the best of the complete ones so far."""
    scored = [one for one in trials if one.miou is not None]
    if not scored:
        return None
    series: list[Line | Points] = []
    best: list[tuple[int, float]] = []
    for one in trials:
        if one.state == "complete" and one.role != BASELINE and one.miou is not None:
            best.append((one.number, max(one.miou, best[-1][1] if best else 0.0)))
    if best:
        xs, ys = zip(*best, strict=True)
        series.append(Line(xs, [100 * y for y in ys], "best so far", SECOND, width=1.4))
    base = next((one.miou for one in trials if one.role == BASELINE and one.state == "complete"), None)
    if base is not None:
        ends = [trials[0].number, trials[-1].number]
        series.append(Line(ends, [100 * base] * 2, "without contrast", FIRST, "--", 1.4))
    for state, (colour, marker) in STATES.items():
        mine = [one for one in scored if one.state == state and one.role != BASELINE]
        if mine:
            series.append(
                Points([one.number for one in mine], [100 * (one.miou or 0) for one in mine], state, colour, marker)
            )
    reached = f"; the best complete one has {100 * best[-1][1]:.1f} %" if best else ""
    without = f", without contrast {100 * base:.1f} %" if base is not None else ""
    alt = f"mIoU of {len(scored)} trials in their order{reached}{without}."
    return chart(alt, series, x="trial", y="val mIoU, %")


def _by_step(trials: list[Trial]) -> Markup | None:
    """Return the scores of each trial while it was trained."""
    lines = []
    labelled: set[str] = set()
    for one in trials:
        if not one.points:
            continue
        what = "without contrast" if one.role == BASELINE else one.state
        colour = FIRST if one.role == BASELINE else STATES[one.state][0]
        style = "--" if one.role == BASELINE else "-"
        steps = sorted(one.points)
        label = "" if what in labelled else what
        labelled.add(what)
        marks = [100 * one.points[step] for step in steps]
        lines.append(Line(steps, marks, label, colour, style, 1.4, 0.8))
    if not lines or max(len(line.x) for line in lines) < 2:
        return None
    alt = f"mIoU by training step of {len(lines)} trials: " + "; ".join(
        f"{what} {sum(one.state == what for one in trials)}" for what in STATES if any(one.state == what for one in trials)
    )
    return chart(alt, lines, x="step", y="val mIoU, %")


def _slices(trials: list[Trial], settings: list[str], study: optuna.Study | None) -> list[Markup]:
    """Return mIoU by the value of each setting, of complete trials with contrast."""
    complete = [one for one in trials if one.state == "complete" and one.role != BASELINE and one.miou is not None]
    logarithmic = _logarithmic(study)
    charts = []
    for name in settings:
        mine = [(one.changes[name], 100 * (one.miou or 0)) for one in complete if name in one.changes]
        if len(mine) < 2:
            continue
        mine.sort(key=lambda pair: (str(type(pair[0])), pair[0] if _is_number(pair[0]) else str(pair[0])))
        values, scores = zip(*mine, strict=True)
        numeric = all(_is_number(value) for value in values)
        alt = f"mIoU by {name}, of {len(mine)} complete trials: " + "; ".join(
            f"{value if not isinstance(value, float) else format(value, '.3g')}: {score:.1f} %" for value, score in mine
        )
        xs = values if numeric else [str(value) for value in values]
        log = numeric and name in logarithmic and all(value > 0 for value in values)
        charts.append(chart(alt, [Points(xs, scores)], x=name, y="val mIoU, %", log_x=log, size=(3.2, 2.4)))
    return charts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _logarithmic(study: optuna.Study | None) -> set[str]:
    """Return the settings that were searched by their logarithm."""
    if study is None:
        return set()
    return {
        name
        for one in study.get_trials(deepcopy=False)
        for name, distribution in one.distributions.items()
        if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
    }
