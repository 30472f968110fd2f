"""Where the figures come from: settings, runs, versions, and the commands that make all of it again."""

import importlib.metadata
import platform
import shlex
from typing import Any

from pipeline.report.folder import Contents, Run
from pipeline.report.text import NONE, percent, plain
from pipeline.report.trials import Search
from pipeline.tuning.study_storage import STUDY_FILE
from pixcon_core.config import RunConfig
from pixcon_core.override import flatten, override
from pixcon_core.presets import PRESETS

PACKAGES = ("pixcon", "torch", "timm", "ray", "optuna", "numpy")


def facts(contents: Contents) -> list[tuple[str, str]]:
    """Return what a reproduction says of itself, or the preset of a run."""
    facts = contents.facts
    names = ("preset", "trial", "search", "seeds", "steps", "shortened")
    found = [(name, facts[name]) for name in names if facts.get(name) not in (None, "", [], {})]
    return [(name, plain(value)) for name, value in found]


def changes(contents: Contents) -> list[tuple[str, str]]:
    """Return the settings that a reproduction says its trial changed."""
    stated = contents.facts.get("changes")
    return [(name, plain(value)) for name, value in stated.items()] if isinstance(stated, dict) else []


def unlike_preset(run: Run) -> list[tuple[str, str]]:
    """Return those of a run's settings that its preset has otherwise."""
    preset = PRESETS.get(run.preset)
    if preset is None:
        return []
    try:
        wanted, given = flatten(override(RunConfig(), run.settings)), flatten(preset)
    except ValueError:  # written by another version
        return []
    return [(name, plain(wanted[name])) for name in wanted if wanted[name] != given[name]]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return all settings by their full names."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": plain(value)}
    return found


def commands(contents: Contents, search: Search | None) -> list[tuple[str, str]]:
    """Return commands, each with what it does."""
    folder = shlex.quote(str(contents.folder))
    commands = []
    if contents.facts.get("command"):
        commands.append(("All of this again:", str(contents.facts["command"])))
    if search is not None and search.best.get("command"):
        commands.append(("The best trial's settings, trained again as one run:", str(search.best["command"])))
        in_full = search.best.get("full_command")
        if in_full not in (None, search.best["command"]):
            commands.append(("The same in full, warm-up as the same share of the steps:", str(in_full)))
    if contents.search is not None and (contents.search / STUDY_FILE).exists():
        study = shlex.quote(str(contents.search / STUDY_FILE))
        commands.append(("The study of the search, to explore:", f"optuna-dashboard sqlite:///{study}"))
    if contents.kind != "search":
        commands.append(("Losses by step:", f"tensorboard --logdir {folder}"))
    commands.append(("This page again:", f"python -m pipeline.report {folder}"))
    return commands


def run_row(contents: Contents, dataset: str, run: Run) -> list[str]:
    """Return a run's row of the table of runs."""
    result = run.result or {}
    rate = result.get("images_per_second")
    seconds = result.get("seconds")
    inside = run.folder.resolve().is_relative_to(contents.folder.resolve())
    place = run.folder.resolve().relative_to(contents.folder.resolve()) if inside else run.folder
    return [
        dataset,
        run.method,
        str(run.seed),
        run.state,
        percent(result.get("miou")),
        str(result.get("steps", NONE)),
        NONE if seconds is None else f"{seconds / 60:.1f}",
        NONE if rate is None else f"{rate:.1f}",
        str(len(result["skipped"])) if "skipped" in result else NONE,
        contents.folder.resolve().name if str(place) == "." else str(place),
    ]


def versions(contents: Contents) -> tuple[list[tuple[str, str]], str]:
    """Return versions, and what they are the versions of."""
    stated = contents.facts.get("versions")
    if isinstance(stated, dict) and stated:
        return [(str(name), plain(value)) for name, value in stated.items()], "Versions that the runs were made with"
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            continue
    return found, "Versions that this page was made with"
