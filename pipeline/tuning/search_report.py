"""What a search shows: a table while it goes on, the comparison at its end, and both as JSON for programs."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.options import flags
from pipeline.progress import duration
from pipeline.reproducing.chosen import at_steps
from pipeline.tuning.study import BASELINE, START, Record, best_of
from pixcon_core.config import RunConfig
from pixcon_core.override import override, unflatten
from pixcon_core.presets import PRESETS

BEST, TRIALS = "best.json", "trials.json"
WIDTH = 80


class Table:
    """A line for each trial that ends; below them one for those that run, elsewhere than on a terminal one a score."""

    def __init__(self, names: Iterable[str], steps: int) -> None:
        self._names, self._steps = list(names), steps
        self._column = (WIDTH - 32) // max(1, len(self._names))
        self._running: dict[int, Record] = {}
        self._best: float | None = None
        self._is_headed = False

    def show(self, one: Record) -> None:
        """Show what a trial has come to."""
        if one.state == "running":
            self._running[one.number] = one
            if one.points and not sys.stderr.isatty():
                print(self._those_running(), flush=True)
        else:
            self._running.pop(one.number, None)
            self._print_row(one)
        self._print_running()

    def note(self, line: str) -> None:
        """Show a line of something else."""
        self._print(line)
        self._print_running()

    def close(self) -> None:
        """Take the line of running trials off the terminal."""
        self._running.clear()
        self._print_running()

    def _print_row(self, one: Record) -> None:
        if not self._is_headed:
            cells = "".join(name.rpartition(".")[2][: self._column - 1].rjust(self._column) for name in self._names)
            self._print(f"{'trial':>5} {'':8} {'step':>5} {'mIoU':>5} {'best':>5}{cells}")
            self._is_headed = True
        if one.state == "complete" and one.role != BASELINE:
            self._best = one.miou if self._best is None else max(self._best, one.miou)
        what = one.role or ("" if one.state == "complete" else one.state)
        cells = "".join(
            _short(one.changes.get(name, "-"))[: self._column - 1].rjust(self._column) for name in self._names
        )
        self._print(f"{one.number:>5} {what:<8} {one.step:>5} {percent(one.miou)} {percent(self._best)}{cells}")
        if one.reason:
            self._print(f"      {one.reason}"[:WIDTH])

    def _print_running(self) -> None:
        if sys.stderr.isatty():
            print(f"\r{self._those_running():<{WIDTH - 1}}\r", end="", file=sys.stderr, flush=True)

    def _those_running(self) -> str:
        parts = [f"{one.number}: {one.step}/{self._steps} {percent(one.miou)}" for one in self._running.values()]
        return ("running " + " | ".join(parts) if parts else "")[: WIDTH - 1]

    def _print(self, line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{'':{WIDTH - 1}}\r", end="", file=sys.stderr, flush=True)
        print(line.rstrip(), flush=True)


class Gain(NamedTuple):
    """What the best trial is above the one without contrast, in mIoU, and how far that is noise."""

    mean: float
    """Over seeds."""
    seeds: int
    standard_error: float | None
    """Of that mean, from the differences of the seeds; None of one seed."""
    interval: tuple[float, float] | None
    """Of one seed, by the choice of validation images: 95 % of the resamples lie in it."""


def write_trials(folder: Path, found: list[Record]) -> None:
    """Write all trials into the run folder."""
    _write(folder / TRIALS, [one._asdict() for one in found])


def write_best(
    folder: Path,
    preset: str,
    config: RunConfig,
    full: RunConfig,
    start: Mapping[str, Any],
    found: list[Record],
    gain: Gain | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write what was found into the run folder, and return it.

    Args:
        folder: The run folder.
        preset: What `config` was made from.
        config: Of the start, as a trial.
        full: Of the start, for as many steps as a run has.
        start: Starting values of what is searched.
        found: All trials.
        gain: Of the best above the baseline.
        facts: More for the file: `space`, `val_images` and the like.
    """
    best, roles = best_of(found), {one.role: one for one in found}
    base = roles.get(BASELINE)
    stopped = [one for one in found if one.state == "stopped"]
    saved = sum((config.train.steps - one.step) * one.seconds / max(1, one.step) for one in stopped)
    again = in_full = None
    if best is not None:
        again = command(preset, override(config, unflatten(best.changes)))
        changes = at_steps(best.changes, config.train.steps, full.train.steps)
        in_full = command(preset, override(full, unflatten(changes)))
    result = {
        "best": None if best is None else _entry(best),
        "start": _entry(roles[START]) if START in roles else None,
        "baseline": _entry(base) if base is not None else None,
        "improvement": None if gain is None else gain.mean,
        "improvement_noise": None
        if gain is None
        else {"seeds": gain.seeds, "standard_error": gain.standard_error, "image_interval": gain.interval},
        "start_values": dict(start),
        "trials": {state: sum(one.state == state for one in found) for state in STATES},
        "trial_steps": config.train.steps,
        "trial_hours": round(sum(one.seconds for one in found) / 3600, 4),
        "trial_hours_saved": round(saved / 3600, 4),
        "command": again,
        "full_command": in_full,
        "checkpoint": None if best is None else str(folder / "checkpoint"),
        **facts,
    }
    _write(folder / BEST, result)
    return result


STATES = ("complete", "stopped", "failed", "running")


def command(preset: str, config: RunConfig) -> str:
    """Return the command line of a run with a configuration."""
    return shlex.join(["python", "-m", "pipeline.run", "--preset", preset, *flags(config, PRESETS[preset])])


def print_end(result: dict[str, Any], folder: Path) -> None:
    """Print what a search found."""
    best, base, start = result["best"], result["baseline"], result["start"]
    if result["skipped"]:
        print(f"\nSkipped: {len(result['skipped'])} images that cannot be used, named in {BEST}")
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items() if count)
    print(f"\nTrials: {counts}, of {result['trial_steps']} steps, val mIoU on {result['val_images']}")
    spent, saved = 3600 * result["trial_hours"], 3600 * result["trial_hours_saved"]
    print(f"Time:   {duration(result['seconds'])}; trials {duration(spent)}, early stopping saved {duration(saved)}")
    if best is None:
        print(f"No trial has come to its end. {folder / TRIALS} has what there is.")
        return
    print(f"\n{'':28}{'best':>12}{'start':>12}")
    for name, value in result["start_values"].items():
        print(f"{name:<28}{_short(best['changes'].get(name, value)):>12}{_short(value):>12}")
    print(f"{'val mIoU %':<28}{percent(best['miou']):>12}{percent(_final(start)):>12}")
    if result["improvement"] is not None:
        print(f"{'without contrast':<28}{percent(_final(base)):>12}")
        print("\n" + _gain_line(100 * result["improvement"], result["improvement_noise"]))
    else:
        print("\nThe baseline without contrast has not come to its end: nothing to compare with.")
    print(f"Best trial: {best['number']}; its checkpoint: {result['checkpoint']}")
    print(f"To train it again:\n  {result['command']}")
    if result["full_command"] != result["command"]:
        print(f"and in full, warm-up as the same share of the steps:\n  {result['full_command']}")


def _gain_line(points: float, noise: dict[str, Any]) -> str:
    if noise["standard_error"] is not None:
        error = 100 * noise["standard_error"]
        return (
            f"Best against none: {points:+.1f} ± {error:.1f} points (mean and standard error of {noise['seeds']} seeds)"
        )
    by_images = ""
    if noise["image_interval"] is not None:
        low, high = (100 * value for value in noise["image_interval"])
        by_images = f", {low:+.1f} to {high:+.1f} by the choice of images"
    return (
        f"Best against none: {points:+.1f} points{by_images}.\n"
        "One seed each: --seeds_per_trial 3 or the same with other seeds tells more."
    )


def percent(value: float | None) -> str:
    """Return a share as per cent, five characters wide."""
    return "    -" if value is None else f"{100 * value:5.1f}"


def _final(entry: dict[str, Any] | None) -> float | None:
    return entry["miou"] if entry is not None and entry["state"] == "complete" else None


def _entry(one: Record) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": one.state,
        "miou": one.miou,
        "step": one.step,
        "seeds": one.seeds,
        "changes": one.changes,
        "reason": one.reason,
    }


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _write(file: Path, content: object) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.rename(file)
