"""A search on the page: what it found, every trial, how the best came about, and which settings mattered."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from pipeline.options import load
from pipeline.progress import duration
from pipeline.report.folder import read_json
from pipeline.report.text import NONE, percent, short, signed
from pipeline.tuning.search_report import BEST, TRIALS
from pipeline.tuning.study import Record, records
from pipeline.tuning.study_storage import STUDY_FILE, STUDY_NAME, open_storage

MIN_TRIALS, FEW_TRIALS = 4, 20
"""With fewer trials there is no importance; or it is a hint at most."""


class Importance(NamedTuple):
    """How much of the spread of mIoU each setting explains."""

    shares: dict[str, float]
    """The largest first; they add up to 1."""
    step: int
    """Scores at this step: the latest that at least half of the trials reached."""
    trials: int
    """So many did."""


class Search(NamedTuple):
    """A search on the page."""

    name: str
    best: dict[str, Any]
    """`best.json`."""
    settings: list[str]
    """Those that were searched."""
    trials: list[Record]
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
    study, importance, missing = None, None, ""
    try:
        study = load_study(folder)
        importance = importances(study)
    except Exception as error:  # of many kinds: a database that is locked, damaged or of another version
        missing = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    trials = records(study) if study else _read_trials(folder / TRIALS)
    if not trials:
        raise ValueError(f"{folder.name} has no trials yet")
    best = read_json(folder / BEST) or {}
    settings = list(best.get("start_values") or {}) or sorted({name for one in trials for name in one.changes})
    logarithmic = _logarithmic(study) if study else frozenset()
    return Search(folder.name, best, settings, trials, logarithmic, importance, missing)


def load_study(folder: Path) -> optuna.Study:
    """Open the study of a search's folder, wherever it lies.

    Raises:
        ValueError: If it is not there, or its storage cannot be used.
    """
    search = load(folder).search
    url = search.storage if search else None
    file = folder / (STUDY_FILE if url is None else STUDY_NAME)
    if not file.exists():  # Optuna would make a new one
        raise ValueError(f"there is no {file.name} in the search's folder")
    if url is not None and "***" in url:
        raise ValueError(f"the study lies in {url}, whose password is not written down")
    storage, name = open_storage(url, folder)
    return optuna.load_study(study_name=name, storage=storage)


def importances(study: optuna.Study) -> Importance:
    """Return the importance of each setting by fANOVA.

    Early stopping leaves few complete trials, so scores are taken at the latest step that at least half of the trials
    reached. The baseline has no settings and is left out.

    Raises:
        ValueError: If there are too few trials, or all score alike.
    """
    scored = [one for one in study.get_trials(deepcopy=False) if one.params and one.intermediate_values]
    counts = Counter(step for one in scored for step in one.intermediate_values)
    enough = max(MIN_TRIALS, -(-len(scored) // 2))
    step = max((step for step, count in counts.items() if count >= enough), default=None)
    if step is None:
        raise ValueError(f"it needs scores of {enough} trials at the same step, and there are {len(scored)} trials")
    there = [one for one in scored if step in one.intermediate_values]
    if len({one.intermediate_values[step] for one in there}) == 1:
        raise ValueError("all trials have the same mIoU")
    alone = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    alone.add_trials(
        optuna.trial.create_trial(
            params=one.params, distributions=one.distributions, value=one.intermediate_values[step]
        )
        for one in there
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(alone, evaluator=FanovaImportanceEvaluator(seed=0))
    return Importance({name: float(share) for name, share in found.items()}, step, len(there))


def _logarithmic(study: optuna.Study) -> frozenset[str]:
    """Return the settings that were searched by their logarithm."""
    return frozenset(
        name
        for one in study.get_trials(deepcopy=False)
        for name, distribution in one.distributions.items()
        if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
    )


def _read_trials(file: Path) -> list[Record]:
    try:
        listed = json.loads(file.read_text())
        return [Record(**one | {"points": {int(step): miou for step, miou in one["points"].items()}}) for one in listed]
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
