"""On which data sets a trial is reproduced, each with its configuration; and which of them are not there."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.checks import check_settings
from pipeline.data.sources import dataset_spec
from pipeline.reproducing.chosen import Chosen, apply, carried, with_steps
from pipeline.reproducing.options import ALL, ReproduceOptions, protocol_with
from pixcon_core.config import RunConfig
from pixcon_core.data import DATASETS
from pixcon_core.presets import PRESETS, default_preset

SHORT_STEPS = 40
"""Steps on a miniature, unless told otherwise: few, since all four with three seeds are 24 runs. Presets have twenty
times as many."""


class Target(NamedTuple):
    """A data set to train on."""

    name: str
    """The data set's own, also of its folder."""
    is_miniature: bool
    preset: str
    changes: dict[str, Any]
    """What the chosen settings come to here, by full name."""
    config: RunConfig
    """With contrast, of seed 0."""
    full_steps: int
    """As many as the preset, or the search's configuration, has."""
    absent: str
    """Of a miniature that stands in: why the real one is not used."""

    @property
    def is_shortened(self) -> bool:
        """Whether it trains for less than in full."""
        return self.config.train.steps < self.full_steps

    def with_method(self, method: str, seed: int) -> RunConfig:
        """Return the configuration of one run: `contrast`, or `baseline`, which differs in its weight alone."""
        return self.with_changes({} if method == "contrast" else {"contrast.weight": 0.0}, seed)

    def with_changes(self, changes: dict[str, Any], seed: int) -> RunConfig:
        """Return the configuration of one run with more settings changed, by full name."""
        return apply(changes, replace(self.config, seed=seed), self.name)


class Targets(NamedTuple):
    """Those that are there."""

    found: tuple[Target, ...]
    absent: dict[str, str]
    """Why, by name."""
    notes: tuple[str, ...]
    """What the user should know."""


def find_targets(options: ReproduceOptions, chosen: Chosen, arguments: Sequence[str]) -> Targets:
    """Find out where to train.

    Args:
        options: What the command line says.
        chosen: What is reproduced.
        arguments: The command line itself, of which each data set's own protocol takes what is given there.

    Raises:
        ValueError: If a data set does not exist, or its configuration is not valid.
    """
    names = _names(options, chosen)
    real: list[tuple[str, str | None]] = []
    absent: dict[str, str] = {}
    for name in names:
        dataset_spec(name)
        place = _place(name, options.data, chosen)
        if place.reason:
            absent[name] = place.reason
        else:
            real.append((name, place.data_root))
    if twinless := [name for name in absent if f"mini-{name}" not in DATASETS]:
        raise ValueError(f"{twinless[0]} is not there: {absent[twinless[0]]} It has no miniature either.")
    notes = [
        f"not there: {', '.join(name for name in absent if absent[name] == reason)}. {reason}"
        for reason in dict.fromkeys(absent.values())
    ]
    takes_twins = options.miniatures or (absent and not real)
    if absent and takes_twins:
        notes.append(("" if options.miniatures else "none is there. ") + "Their miniatures stand in.")
    elif absent:
        notes.append("They are left out; --miniatures takes their miniatures.")
    wanted = [(name, root, "") for name, root in real]
    for name, reason in absent.items() if takes_twins else ():
        twin = f"mini-{name}"
        wanted.append((twin, _place(twin, options.data, chosen).data_root, reason))
    found = tuple(_target(*one, options, chosen, arguments) for one in dict.fromkeys(wanted))
    if len({one.name for one in found}) < len(found):
        raise ValueError(f"--datasets names a data set twice: {' '.join(names)}.")
    return Targets(found, absent, tuple(notes))


def _names(options: ReproduceOptions, chosen: Chosen) -> tuple[str, ...]:
    """Return the data sets that are asked for."""
    own = chosen.start.dataset
    if options.datasets and options.datasets != ("all",):
        return options.datasets
    if options.ablation and not options.datasets:
        return (own,)
    is_miniature = dataset_spec(own).mini is not None
    return ALL if own in ALL or is_miniature else (own, *ALL)


class _Place(NamedTuple):
    data_root: str | None = None
    reason: str = ""
    """Why it is not there."""


def _place(name: str, data: Path | None, chosen: Chosen) -> _Place:
    """Return where a data set lies."""
    if name.startswith("mini-"):
        return _Place(chosen.start.data_root if name == chosen.start.dataset else None)
    if name == chosen.start.dataset and chosen.start.data_root is not None:
        return _Place(chosen.start.data_root)
    if Path(name).suffix:  # one's own: its files lie beside its description
        return _Place()
    if data is None:
        return _Place(reason="No --data FOLDER is given.")
    if not data.is_dir():
        raise ValueError(f"--data: {data} is not a folder.")
    for folder in sorted(data.iterdir()):
        if folder.is_dir() and _letters(folder.name) == _letters(name):
            return _Place(str(folder))
    return _Place(reason=f"{data} has no folders of such names.")


def _letters(name: str) -> str:
    """Return a name as people do not spell it differently: CamVid is camvid, coco_stuff is coco-stuff."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _target(
    name: str,
    data_root: str | None,
    absent: str,
    options: ReproduceOptions,
    chosen: Chosen,
    arguments: Sequence[str],
) -> Target:
    is_own = name == chosen.start.dataset
    preset = chosen.preset if is_own else _preset(name, chosen)
    start = chosen.start if is_own else replace(PRESETS[preset], dataset=name)
    start = replace(start, data_root=data_root)
    changes = dict(chosen.changes) | carried(chosen, start) if is_own else carried(chosen, start)
    config = apply(changes, start, f"{name} (preset {preset})")
    spec = dataset_spec(name)
    is_miniature = spec.mini is not None
    config = with_steps(config, _steps(config.train.steps, is_miniature, options))
    config = replace(config, evaluate=protocol_with(arguments, config.evaluate))
    try:
        check_settings(config, spec)
    except ValueError as error:
        raise ValueError(f"{name} (preset {preset}): {error}") from error
    return Target(spec.name, is_miniature, preset, changes, config, start.train.steps, absent)


def _preset(name: str, chosen: Chosen) -> str:
    """Return the preset of another data set: that of the same network, where there is one."""
    networks = [chosen.preset.removeprefix(f"{data}-") for data in ALL if chosen.preset.startswith(f"{data}-")]
    same = [f"{name}-{network}" for network in networks if f"{name}-{network}" in PRESETS]
    return same[0] if same else default_preset(name)


def _steps(preset_steps: int, is_miniature: bool, options: ReproduceOptions) -> int:
    if options.steps is not None:
        return options.steps
    return min(SHORT_STEPS, preset_steps) if is_miniature and not options.full else preset_steps
