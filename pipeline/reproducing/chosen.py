"""Which settings are reproduced: a trial of a search, or those of a run; and what they are on another data set."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import CONFIG, StoredRun, load
from pixcon_core.config import RunConfig
from pixcon_core.override import flatten, override, unflatten
from pixcon_core.presets import PRESETS

BEST, TRIALS = "best.json", "trials.json"
MAKE_ONE = "To make one: python -m pipeline.run --search. Or name a run's folder: --trial FOLDER."

IN_PROPORTION = frozenset(
    {
        "contrast.memory_size",
        "contrast.max_anchors",
        "contrast.max_views",
        "contrast.num_positives",
        "contrast.num_negatives",
        "contrast.pixels_per_class",
        "model.projection_dim",
        "train.lr",
    }
)
"""What goes with the size of network and data: another data set has it changed by the same factor."""
OF_STEPS = frozenset({"contrast.warmup_steps", "train.lr_warmup_steps"})
"""What keeps its share of the training steps."""


class Chosen(NamedTuple):
    """Settings to reproduce."""

    name: str
    """`trial7`, or `run`."""
    origin: Path
    """The search's or run's folder."""
    is_search: bool
    preset: str
    start: RunConfig
    """What was changed, for as long as it trains in full."""
    changes: dict[str, Any]
    """Settings by full name, as the search or run had them."""
    steps: int
    """For as many steps as those."""

    @property
    def moved(self) -> dict[str, Any]:
        """Those that differ from the start."""
        given = flatten(self.start)
        return {name: value for name, value in self.changes.items() if value != given[name]}


def find_chosen(trial: str, search: Path | None, out: Path) -> Chosen:
    """Find what `--trial` names.

    Args:
        trial: `best`, a number, or a path.
        search: Folder of the search that has it; None is the newest in `out`.
        out: Where searches lie.

    Raises:
        ValueError: If it is not there, or there is nothing to reproduce in it.
    """
    if trial == "best" or trial.isdigit():
        return _of_search(search or _newest_search(out), None if trial == "best" else int(trial))
    path = Path(trial)
    if not path.exists():
        raise ValueError(f"--trial: {trial} is neither `best`, nor a number, nor there as a file or folder.")
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name not in (BEST, CONFIG):
        raise ValueError(f"--trial: {path} is a file, but neither a {BEST} nor a {CONFIG}.")
    if path.name != CONFIG and (folder / BEST).exists():
        return _of_search(folder, None)
    if not (folder / CONFIG).exists():
        raise ValueError(f"--trial: {folder} has neither the {BEST} of a search nor the {CONFIG} of a run in it.")
    run = load(folder)
    if run.search is not None:
        raise ValueError(f"--trial: the search in {folder} has no {BEST} yet. Go on with it: --search --resume.")
    return _of_run(run)


def apply(changes: dict[str, Any], config: RunConfig, whose: str) -> RunConfig:
    """Return a configuration with settings by full name changed.

    Raises:
        ValueError: If it has no such settings, or refuses their values.
    """
    try:
        return override(config, unflatten(changes))
    except ValueError as error:
        raise ValueError(f"{whose}: {error}") from error


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """Return a configuration that trains for so many steps, its warm-ups the same share of them."""
    given = flatten(config)
    scaled = at_steps({name: given[name] for name in OF_STEPS}, config.train.steps, steps)
    config = override(config, unflatten(scaled))
    return replace(config, train=replace(config.train, steps=steps))


def at_steps(settings: dict[str, Any], before: int, steps: int) -> dict[str, Any]:
    """Return settings by full name for another number of steps: warm-ups keep their share of them."""
    return {
        name: round(value * steps / before) if name in OF_STEPS and value is not None else value
        for name, value in settings.items()
    }


def carried(chosen: Chosen, config: RunConfig) -> dict[str, Any]:
    """Return what the chosen settings are on another data set, by full name.

    Only what differs from the start is carried over: counts and learning rate by the factor by which they differ,
    warm-ups as a share of the steps, all else as it is.
    """
    start, mine = flatten(chosen.start), flatten(config)
    found = {}
    for name, value in at_steps(chosen.moved, chosen.steps, config.train.steps).items():
        if name in IN_PROPORTION and mine[name] != start[name] and None not in (value, start[name], mine[name]):
            scaled = mine[name] * value / start[name]
            value = max(1, round(scaled)) if isinstance(mine[name], int) else scaled
        found[name] = value
    return found


def _newest_search(out: Path) -> Path:
    """Return the newest search that has found something."""
    files = sorted(out.glob(f"*/{BEST}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        if _read(file, dict).get("best") is not None:
            return file.parent
    raise ValueError(f"There is no search in {out} with a best trial. {MAKE_ONE}")


def _of_search(folder: Path, number: int | None) -> Chosen:
    if not (folder / BEST).exists():
        raise ValueError(f"{folder} is not the folder of a search with a result: it has no {BEST}. {MAKE_ONE}")
    stored, found = load(folder), _read(folder / BEST, dict)
    if number is None:
        if found.get("best") is None:
            raise ValueError(f"The search in {folder} has no best trial: none has come to its end. {MAKE_ONE}")
        entry = found["best"]
    else:
        entry = _trial(folder, number)
    steps = found.get("trial_steps")
    if not isinstance(entry, dict) or not isinstance(entry.get("changes"), dict) or not isinstance(steps, int):
        raise ValueError(f"{folder / BEST} is not what a search writes: it lacks a trial's changes, or trial_steps.")
    name = f"trial{entry.get('number')}"
    apply(entry["changes"], stored.config, f"{folder}, {name}")  # it may have been edited by hand
    return Chosen(name, folder, True, _known(stored), stored.config, entry["changes"], steps)


def _trial(folder: Path, number: int) -> dict[str, Any]:
    listed = [one for one in _read(folder / TRIALS, list) if isinstance(one, dict)]
    numbers = [int(one.get("number", -1)) for one in listed]
    if number not in numbers:
        there = f"0 to {max(numbers)}" if numbers else "none"
        raise ValueError(f"--trial: the search in {folder} has no trial {number}; its trials: {there}.")
    entry: dict[str, Any] = listed[numbers.index(number)]
    if entry.get("state") == "failed":
        raise ValueError(f"--trial: trial {number} of {folder} failed: {entry.get('reason')}")
    if entry.get("changes", {}).get("contrast.weight") == 0:
        raise ValueError(
            f"--trial: trial {number} of {folder} is the baseline without contrast, which is trained beside any trial."
        )
    return entry


def _of_run(run: StoredRun) -> Chosen:
    if run.config.contrast.weight == 0:
        raise ValueError(
            f"--trial: the run in {run.folder} has contrast.weight 0, and is without contrast what it is compared with."
        )
    preset = PRESETS[_known(run)]
    asked, given = flatten(run.config.contrast, "contrast."), flatten(preset)
    changes = {name: value for name, value in asked.items() if value != given[name]}
    start = replace(run.config, contrast=preset.contrast)
    return Chosen("run", run.folder, False, run.preset, start, changes, run.config.train.steps)


def _known(run: StoredRun) -> str:
    if run.preset not in PRESETS:
        raise ValueError(f"{run.folder / CONFIG}: there is no preset {run.preset!r} in this version.")
    return run.preset


def _read(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{file} is not what a search writes: it holds a {type(content).__name__}.")
    return content
