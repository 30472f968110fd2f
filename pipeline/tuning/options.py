"""What the command line says of a search. Light to import, as `pipeline.options` is."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import unquote, unquote_plus

import tyro

from pixcon_core.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """With --search only."""

    space: str = "contrast"
    """Which settings move, in what range: contrast, paper (the grids of its ablations), or full (contrast, warm-up,
    learning rate, projection_dim)."""

    trials: int = 8
    """Trials in all, the start and the baseline without contrast among them. --resume with more goes on."""

    trial_steps: int | None = None
    """Steps of each trial, unless it is stopped early; None is a sixth of train.steps."""

    budget: str | None = None
    """No longer than this, for example 2h, 90m or 1h30m; None has no limit."""

    concurrent: int | None = None
    """Trials at once; None is as many as there are GPUs for, or CPU cores, up to four."""

    cpus_per_trial: float | None = None
    """CPUs that Ray sets aside for each trial, shared by its workers; None is one for each worker."""

    gpus_per_trial: float | None = None
    """GPUs for each trial; a fraction where trials of one worker are to share one. None is one for each worker, shared
    where --concurrent asks for more; 0 trains on CPUs."""

    seeds_per_trial: int = 1
    """Each trial trains with so many seeds, from --seed on, and is judged by the mean: for small data, where one seed
    says little."""

    storage: str | None = None
    """Where the Optuna study lies: sqlite:///FILE, postgresql://..., mysql://... or journal:///FILE; None is study.db
    in the run folder. $NAME in it is taken from the environment, also at --resume; a password is not written down."""

    sampler: Annotated[Literal["tpe", "random"], tyro.conf.Suppress] = "tpe"
    early_stopping: Annotated[bool, tyro.conf.Suppress] = True
    # What benchmarks compare with.

    def __post_init__(self) -> None:
        if self.trials < 2:
            raise ValueError(f"trials must be >= 2, since start and baseline are two, but got {self.trials}.")
        for name in ("trial_steps", "concurrent", "seeds_per_trial"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, but got {value}.")
        # Comparisons let nan through.
        if self.cpus_per_trial is not None and not 0 < self.cpus_per_trial < math.inf:
            raise ValueError(f"cpus_per_trial must be > 0 and finite, but got {self.cpus_per_trial}.")
        if self.gpus_per_trial is not None and not 0 <= self.gpus_per_trial < math.inf:
            raise ValueError(f"gpus_per_trial must be >= 0 and finite, but got {self.gpus_per_trial}.")
        if self.budget_seconds == 0:
            raise ValueError(f"budget must be a length of time like 2h, 90m or 1h30m, but got {self.budget!r}.")

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds; 0 if it cannot be read."""
        if self.budget is None:
            return None
        found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", self.budget)
        hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
        return 3600 * hours + 60 * minutes + seconds

    def steps(self, config: RunConfig) -> int:
        """Return the steps of a trial."""
        return max(1, config.train.steps // 6) if self.trial_steps is None else self.trial_steps


PASSWORD = "pass|pwd"
VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)


def masked(url: str) -> str:
    """Return a URL without its passwords; the name of an environment variable, alone, is none."""
    for first, end in reversed(_secrets(url)):
        url = f"{url[:first]}***{url[end:]}"
    return url


def passwords(url: str) -> list[str]:
    """Return what `masked` leaves out, as it is written there and as it is meant."""
    found = [url[first:end] for first, end in _secrets(url)]
    return [*found, *map(unquote, found), *map(unquote_plus, found)]


def _secrets(url: str) -> list[tuple[int, int]]:
    """Return where passwords lie, from front to back.

    Who forgot to write an @ or ? as %40 or %3F has a password all the same: it ends at the last @ that can be its end.
    """
    spans, rest = [], 0
    if user := re.match(r"[^:/]*://[^:/]*:", url):
        query = re.search(r"\?[^=&@]+=", url)
        end = url.rfind("@", user.end(), query.start() if query else None)
        if end < 0:
            end = url.rfind("@", user.end())
        if end >= 0:
            spans, rest = [(user.end(), end)], end
    if query := re.compile(r"\?[^=&]+=").search(url, rest):
        for pair in re.compile(r"[?&]([^=&]+)=(.*?)(?=&[^=&]+=|$)", re.DOTALL).finditer(url, query.start()):
            if _is_secret(pair[1], pair[2]):
                spans.append(pair.span(2))
    return [(first, end) for first, end in spans if first < end and not VARIABLE.fullmatch(url[first:end])]


def _is_secret(name: str, value: str) -> bool:
    if re.search(PASSWORD, unquote_plus(name), re.IGNORECASE):
        return True
    # ODBC has a list of settings as one value. A $ that is written as %24 names no variable.
    listed = unquote_plus(value.replace("%24", "%00"))
    found = re.findall(rf"(?:{PASSWORD})\w*\s*=([^;]*)", listed, re.IGNORECASE)
    return not all(VARIABLE.fullmatch(one.strip()) for one in found)
