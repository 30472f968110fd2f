"""The command line of `pipeline.run`: every field of the configuration is a flag, typed and checked.

Light to import, so that `--help` and mistakes in flags are answered at once.
"""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from pipeline.command import parse_flags
from pipeline.tuning.options import SearchOptions, masked
from pixcon_core.config import RunConfig
from pixcon_core.override import flatten, override
from pixcon_core.presets import PRESETS, default_preset

CONFIG, RESULT = "config.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a segmentor with pixel contrast, evaluate it, and say where everything lies."""

    config: Annotated[RunConfig, tyro.conf.arg(name="")]

    preset: str | None = None
    """Settings to start from, by name; other flags change single ones. Without it, the data set's own."""

    out: Path = Path("runs")
    """Folder for run folders, prepared data and miniature data."""

    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with a run in --out that fits the other flags, the newest unfinished one, from its last checkpoint."""

    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Start nothing: print what the run would take, in parameters, operations, memory and time."""

    search: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Not one run but many short ones, to find better settings. The other flags say where from."""

    of_search: Annotated[SearchOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SearchOptions)


class StoredRun(NamedTuple):
    """A run folder, and what it says of itself."""

    folder: Path
    preset: str
    config: RunConfig
    search: SearchOptions | None = None
    """None of a run that is not a search."""


class Request(NamedTuple):
    """What the command line asks for."""

    config: RunConfig
    preset: str
    out: Path
    unfinished: Path | None
    """Run folder to go on with; it may be finished after all."""
    notes: tuple[str, ...]
    """What the user should know, but nothing is wrong."""
    dry_run: bool = False
    """Only say what the run would take."""
    search: SearchOptions | None = None
    """Not one run but a search."""


def parse(arguments: Sequence[str]) -> Request:
    """Read the command line.

    Raises:
        ValueError: If something in it is wrong; one line that says what.
        SystemExit: After `--help`.
    """
    early = _early(arguments)
    if early.preset is not None and early.preset not in PRESETS:
        near = difflib.get_close_matches(early.preset, PRESETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"There is no preset {early.preset!r}.{hint} There are: {', '.join(PRESETS)}.")
    preset = early.preset or default_preset(early.dataset or RunConfig.dataset)
    notes: list[str] = []
    found = _run_to_go_on_with(arguments, early, notes) if early.resume else None
    start = found.config if found else PRESETS[preset]
    options = _read(arguments, start, found.search if found else None)
    if early.resume and found is None:
        notes.append(f"--resume: there is no run to go on with in {options.out}; starting a new one.")
    if found is not None:
        preset = found.preset
        storage = options.of_search.storage
        if storage is not None and "***" in storage:
            raise ValueError(f"--resume: the password of {storage} is not written down. Give --storage again.")
    notes += _without_effect(options.config, start, options.search)
    unfinished = found.folder if found else None
    search = options.of_search if options.search else None
    return Request(options.config, preset, options.out, unfinished, tuple(notes), options.dry_run, search)


def store(folder: Path, preset: str, config: RunConfig, search: SearchOptions | None = None) -> None:
    """Write the resolved configuration into a run folder."""
    stored = {"preset": preset, "config": dataclasses.asdict(config)}
    if search is not None:
        storage = None if search.storage is None else masked(search.storage)
        stored["search"] = dataclasses.asdict(dataclasses.replace(search, storage=storage))
    temporary = folder / f"{CONFIG}.tmp"
    temporary.write_text(json.dumps(stored, indent=1) + "\n")
    temporary.rename(folder / CONFIG)


def load(folder: Path) -> StoredRun:
    """Read the configuration of a run folder.

    Raises:
        ValueError: If it has none, or one that this version does not know.
    """
    try:
        stored = json.loads((folder / CONFIG).read_text())
        search = SearchOptions(**stored["search"]) if "search" in stored else None
        return StoredRun(folder, stored["preset"], override(RunConfig(), stored["config"]), search)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is not the configuration of a run: {error}") from error


def flags(config: RunConfig, start: RunConfig) -> list[str]:
    """Return the flags that make one configuration of another."""
    given, wanted = flatten(start), flatten(config)
    found = []
    for name in (name for name in wanted if wanted[name] != given[name]):
        value = wanted[name]
        if isinstance(value, bool):
            section, _, last = name.rpartition(".")
            found.append(f"--{name}" if value else f"--{section}.no_{last}")
        else:
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return found


def _early(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the flags that decide what the others' defaults are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", nargs="?")
    parser.add_argument("--dataset", nargs="?")
    parser.add_argument("--out", type=Path, nargs="?", default=Options.out)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--search", action="store_true")
    try:
        return parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}. All flags: --help.") from error


def _read(arguments: Sequence[str], start: RunConfig, search: SearchOptions | None = None) -> Options:
    """Read all flags, with a configuration, and options of a search that is gone on with, to start from."""
    default = Options(config=start, of_search=search or SearchOptions())
    options = parse_flags(Options, "python -m pipeline.run", arguments, default)
    _check_search(options, search)
    return options


def _run_to_go_on_with(arguments: Sequence[str], early: argparse.Namespace, notes: list[str]) -> StoredRun | None:
    """Return the newest unfinished run, or search, that fits the flags; if all that fit are finished, the newest.

    Args:
        arguments: The command line.
        early: What `_early` reads of it.
        notes: Gets a line for each run that cannot be read.

    Raises:
        ValueError: If there are runs and none fits; it says of the newest one why.
    """
    finished, misfits = None, []
    files = sorted(early.out.glob(f"*/{CONFIG}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in filter(_is_of_run, files):
        try:
            run = load(file.parent)
        except ValueError as error:
            notes.append(f"--resume: {error}; it is left out.")
            misfits.append(error)
            continue
        is_wanted = early.preset in (None, run.preset) and early.dataset in (None, run.config.dataset)
        if not is_wanted or (run.search is not None) != early.search:
            continue
        try:
            _check_same(run, _read(arguments, run.config, run.search).config)
        except ValueError as error:
            misfits.append(error)
            continue
        if not (run.folder / RESULT).exists():
            return run
        finished = finished or run
    if finished is None and misfits:
        raise misfits[0]
    return finished


def _is_of_run(file: Path) -> bool:
    """Return whether a `config.json` is a run's; models of others, for one, have files of that name too."""
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stored, dict) and {"preset", "config"} <= stored.keys()


def _check_search(options: Options, stored: SearchOptions | None) -> None:
    given = options.of_search
    if not options.search:
        changed = [name for name, value in vars(given).items() if value != getattr(SearchOptions(), name)]
        if changed:
            raise ValueError(f"--{' and --'.join(changed)}: only of a search. Give --search as well.")
        return
    if options.dry_run:
        raise ValueError("--dry_run is of one run; leave out --search to see what a trial takes.")
    for name in ("space", "trial_steps", "seeds_per_trial", "storage") if stored else ():
        there, asked = getattr(stored, name), getattr(given, name)
        if name == "storage" and asked is not None:
            # Also of what is there: other versions masked less.
            there, asked = there and masked(there), masked(asked)
        if there != asked:
            raise ValueError(
                f"--resume: --{name} is {there} in the search that is gone on with, not {asked}. Leave it out, or"
                " --resume to start anew."
            )


def _check_same(found: StoredRun, asked: RunConfig) -> None:
    stored, wanted = flatten(found.config), flatten(asked)
    differing = [name for name in stored if stored[name] != wanted[name]]
    if differing:
        listed = "; ".join(f"{name} is {stored[name]} there, not {wanted[name]}" for name in differing)
        raise ValueError(
            f"--resume: the newest run, {found.folder}, has other settings: {listed}. Leave these flags out to go on"
            " with it, or --resume to start anew."
        )


def _without_effect(config: RunConfig, start: RunConfig, is_search: bool) -> list[str]:
    """Say which of the user's settings change nothing."""
    asked, given = flatten(config), flatten(start)
    moved = [name for name in asked if asked[name] != given[name]]
    of_contrast = [name for name in asked if name.startswith("contrast.") and name != "contrast.weight"]
    has_contrast, train = config.contrast.weight > 0, config.train
    of_memory = ["contrast.memory_size", "contrast.pixels_per_class"]
    rules = [
        (not has_contrast, [*of_contrast, "model.projection_dim"], "contrast.weight is 0"),
        (has_contrast and config.contrast.keys == "batch", of_memory, "contrast.keys is batch"),
        (config.model.head == "fcn", ["model.aux_weight"], "model.head is fcn"),
        (config.model.head == "hrnet", ["model.aux_weight", "model.head_channels"], "model.head is hrnet"),
        (train.ohem_threshold is None, ["train.ohem_min_kept"], "train.ohem_threshold is None"),
        (config.ingest.cache == "off", ["ingest.cache_share"], "ingest.cache is off"),
        (is_search, ["train.checkpoint_every"], "a trial of a search has a checkpoint at each of its four scores"),
    ]
    notes = []
    for holds, names, reason in rules:
        idle = [name for name in moved if name in names]
        if holds and idle:
            notes.append(f"{', '.join(idle)}: no effect, since {reason}.")
    if has_contrast and config.warmup_steps >= train.steps:
        notes.append(
            f"contrast.warmup_steps={config.warmup_steps} is not less than train.steps={train.steps}: contrast will"
            " never begin."
        )
    if train.lr_warmup_steps >= train.steps:
        notes.append(
            f"train.lr_warmup_steps={train.lr_warmup_steps} is not less than train.steps={train.steps}: the learning"
            " rate will never come to train.lr."
        )
    return notes
