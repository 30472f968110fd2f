"""The command line of `pipeline.reproduce`. Light to import, as `pipeline.options` is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.command import parse_flags
from pixcon_core.config import EvaluateConfig

Ablation = Literal["memory", "sampling", "temperature"]
ALL = ("cityscapes", "pascal-context", "coco-stuff", "camvid")
"""What `--datasets all` means."""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Train the settings of a trial in full, the same network without contrast beside it, and compare them."""

    trial: str = "best"
    """best: of the newest search in --out. A number: that trial of it. Or the path of a search's or a run's folder, of
    a best.json, or of a config.json."""

    search: Path | None = None
    """Folder of another search than the newest one."""

    out: Path = Path("runs")
    """Where searches are looked for, and where everything is written."""

    datasets: tuple[str, ...] | None = None
    """Data sets by name, or your own by the path of their .toml; None is all four of the paper that are there; with
    --ablation, that of the trial."""

    data: Path | None = None
    """Folder that has the data sets in folders of their names: as their authors lay them out, or prepared."""

    miniatures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take the miniatures of those that are not there. If none is there, they are taken anyway."""

    seeds: int = 3
    """Runs of each kind: seeds 0, 1, 2, ... With more of them later, only the new ones are trained."""

    steps: int | None = None
    """Training steps of every run; None: as the presets have them, but fewer on miniatures."""

    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train on miniatures, too, for as long as the presets do."""

    ablation: tuple[Ablation, ...] = ()
    """Instead of all that: the ablations of the paper on one data set."""

    concurrent: int | None = None
    """Runs at once; None is as many as there are GPUs, or CPU cores up to four."""

    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Begin anew. Without it the same command goes on where it was stopped."""

    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Start nothing: print what would be trained."""

    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "concurrent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, but got {value}.")
        if self.full and self.steps is not None:
            raise ValueError("--full and --steps say different things; give one of them.")
        if self.datasets == ():
            raise ValueError("--datasets takes names, but got none; `--datasets all` is all four of the paper.")
        if self.datasets and "all" in self.datasets and len(self.datasets) > 1:
            raise ValueError("--datasets: `all` stands alone.")
        if self.search is not None and not self.is_of_search:
            raise ValueError("--search: --trial is a path already; leave one of them out.")

    @property
    def is_of_search(self) -> bool:
        """Whether the trial is named within a search, and not by a path."""
        return self.trial == "best" or self.trial.isdigit()


def protocol_with(arguments: Sequence[str], protocol: EvaluateConfig) -> EvaluateConfig:
    """Return a protocol with what the flags say otherwise, also where that is a default of `EvaluateConfig`.

    Raises:
        ValueError: If the two do not go together.
    """
    return _parse(arguments, ReproduceOptions(evaluate=protocol)).evaluate


def parse_reproduce(arguments: Sequence[str]) -> ReproduceOptions:
    """Read the command line.

    Raises:
        ValueError: If something in it is wrong; one line that says what.
        SystemExit: After `--help`.
    """
    for flag in ("--ablation", "--datasets"):
        if list(arguments).count(flag) > 1:
            raise ValueError(f"{flag} is given twice; give all its values at once: {flag} A B.")
    return _parse(arguments)


def _parse(arguments: Sequence[str], default: ReproduceOptions | None = None) -> ReproduceOptions:
    return parse_flags(ReproduceOptions, "python -m pipeline.reproduce", arguments, default)
