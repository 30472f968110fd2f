"""A search on the page: what it found, every trial, how the best came about, and which settings mattered."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from pipeline.progress import duration
from pipeline.report.folder import read_json
from pipeline.report.text import NONE, percent, short, signed

BEST, TRIALS = "best.json", "trials.json"
STUDY, STUDY_FILE = "search", "study.db"
FEW_TRIALS = 20
"""With fewer complete trials, importance is a hint at most."""


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
    logarithmic: frozenset[str]
    """Those of them that were searched by their logarithm, where the study says so."""
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
    logarithmic: frozenset[str] = frozenset()
    importance, missing = None, ""
    try:
        study = load_study(folder)
        logarithmic = _logarithmic(study)
        importance = importances(study)
    except Exception as error:  # of many kinds: a database that is locked, damaged or of another version
        missing = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return Search(folder.name, best, settings, trials, logarithmic, importance, missing)


def load_study(folder: Path) -> optuna.Study:
    """Open the study of a search's folder.

    Raises:
        ValueError: If there is none.
    """
    file = folder / STUDY_FILE
    if not file.exists():  # Optuna would make an empty one
        raise ValueError(f"there is no {STUDY_FILE} in the search's folder")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
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


def _logarithmic(study: optuna.Study) -> frozenset[str]:
    """Return the settings that were searched by their logarithm."""
    return frozenset(
        name
        for one in study.get_trials(deepcopy=False)
        for name, distribution in one.distributions.items()
        if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
    )


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


def about_search(search: Search) -> dict[str, Any]:
    """Return what a search found, in words and as a table."""
    found = search.best
    columns = [(name, found[name]) for name in ("best", "start", "baseline") if found.get(name)]
    start = found.get("start_values") or {}
    without = [name for name in start if name.startswith("contrast.") and name != "contrast.weight"]
    rows: list[tuple[str, list[str]]] = [("trial", [str(one["number"]) for _, one in columns])]
    for name, value in start.items():
        cells = [
            NONE if column == "baseline" and name in without else short(one["changes"].get(name, value))
            for column, one in columns
        ]
        rows.append((name, cells))
    rows.append(("state", [one["state"] for _, one in columns]))
    rows.append(("val mIoU, %", [percent(one["miou"]) for _, one in columns]))
    counts = ", ".join(f"{count} {state}" for state, count in (found.get("trials") or {}).items() if count)
    facts = [
        f"Trials: {counts}" if counts else "",
        f"{found['trial_steps']} steps each" if "trial_steps" in found else "",
        f"scored on {found['val_images']}" if "val_images" in found else "",
        f"{duration(found['seconds'])} in all" if "seconds" in found else "",
        f"early stopping saved {duration(3600 * found['trial_hours_saved'])} of trials"
        if "trial_hours_saved" in found
        else "",
    ]
    return {
        "search_sentence": _verdict(found),
        "search_facts": "; ".join(filter(None, facts)) + ".",
        "search_columns": [column for column, _ in columns],
        "search_rows": rows if columns else [],
        "best_trial": (found.get("best") or {}).get("number"),
        "has_reasons": any(one.reason for one in search.trials),
    }


def _verdict(found: dict[str, Any]) -> str:
    """Say in a sentence what the best trial is above the one without contrast."""
    if found.get("best") is None:
        return "No trial with contrast has come to its end."
    gain = found.get("improvement")
    if gain is None:
        return "The baseline without contrast has not come to its end: nothing to compare with."
    noise = found.get("improvement_noise") or {}
    subject = "The best trial against the one without contrast"
    if noise.get("standard_error") is not None:
        error = percent(noise["standard_error"])
        return (
            f"{subject}: {signed(gain)} ± {error} points of mIoU (mean and standard error of {noise['seeds']} seeds)."
        )
    if noise.get("image_interval"):
        low, high = noise["image_interval"]
        interval = f"95 % interval by the choice of images {signed(low)} to {signed(high)}"
        none = ", which includes 0: no difference shown" if low <= 0 <= high else ""
        return f"{subject}: {signed(gain)} points of mIoU ({interval}{none}), of one seed each."
    return f"{subject}: {signed(gain)} points of mIoU, of one seed each."
