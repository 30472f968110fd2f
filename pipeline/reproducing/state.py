"""The folder of a reproduction, and `reproduce.json` in it, which says what belongs together and how far it has come.

A folder belongs to one trial and one way to train. Data sets, seeds and ablations add up in it from call to call.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.sources import dataset_spec
from pipeline.journey import new_folder
from pipeline.reproducing.chosen import Chosen
from pipeline.reproducing.options import ReproduceOptions
from pipeline.reproducing.summary import METHODS, Pair, summarise
from pipeline.reproducing.targets import Targets
from pixcon_core.override import flatten

STATE = "reproduce.json"
WAITING, FINISHED, FAILED = "waiting", "finished", "failed"
PACKAGES = ("torch", "torchvision", "timm", "ray", "optuna", "numpy")


class Cell(NamedTuple):
    """Which run of the comparison one is."""

    dataset: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.dataset}/{self.method}-seed{self.seed}"


class Reproduction:
    """What is known of one, in memory and on disk."""

    def __init__(self, folder: Path | None, state: dict[str, Any]) -> None:
        self._folder = folder
        self.state = state

    @property
    def folder(self) -> Path:
        """Where it lies."""
        assert self._folder is not None  # `begin` makes it
        return self._folder

    def begin(self, out: Path) -> None:
        """Make its folder, if it has none yet."""
        if self._folder is None:
            trial = self.state["trial"]
            self._folder = new_folder(out, f"reproduce-{trial['dataset']}-{trial['name']}")

    def is_done(self, name: str) -> bool:
        """Whether a run has a result already."""
        return self._folder is not None and (self._folder / name / "result.json").exists()

    def has(self, targets: Targets) -> bool:
        """Whether it has taken in all these data sets."""
        return all(target.name in self.state["datasets"] for target in targets.found)

    def add(self, targets: Targets, shards: dict[str, str]) -> None:
        """Take in the data sets that the comparison is made on.

        Args:
            targets: They.
            shards: Where each is prepared.
        """
        state = self.state
        for target in targets.found:
            state["datasets"][target.name] = {
                "data": "miniature" if target.is_miniature else "real",
                "absent": target.absent or None,
                "preset": target.preset,
                "changes": target.changes,
                "full_steps": target.full_steps,
                "shards": shards[target.name],
            }
            state["steps"][target.name] = target.config.train.steps
        state["absent"] = targets.absent
        state["shortened"] = any(one["full_steps"] > state["steps"][name] for name, one in state["datasets"].items())

    def mark(self, cell: Cell, state: str, why: str = "") -> None:
        """Take down how far a run is."""
        entry = {**cell._asdict(), "folder": cell.name, "state": state, "reason": why}
        runs: list[dict[str, Any]] = self.state["runs"]
        for place, one in enumerate(runs):
            if one["folder"] == cell.name:
                runs[place] = entry
                return
        runs.append(entry)

    def write(self) -> None:
        """Write `reproduce.json`, whole or not at all."""
        write_json(self.folder / STATE, self.state)

    def summarise(self, dataset: str) -> dict[str, Any] | None:
        """Compare what there is of one data set."""
        summary = summarise({seed: pair_of(self.folder, dataset, seed) for seed in self.state["seeds"]})
        self.state["summary"][dataset] = summary
        return summary


def pair_of(folder: Path, dataset: str, seed: int) -> Pair:
    """Return the two run folders of a data set and seed."""
    return Pair(*(folder / Cell(dataset, method, seed).name for method in METHODS))


def open_reproduction(options: ReproduceOptions, chosen: Chosen, targets: Targets, command: str) -> Reproduction:
    """Return the newest reproduction that this one goes on with, else a new one; nothing is written yet."""
    ours = _identity(options, chosen)
    configs = {target.name: _plain(flatten(target.config)) for target in targets.found}
    found = None if options.fresh else _newest(options.out, ours, configs)
    state = found.state if found else _new_state(chosen)
    state |= {"identity": ours, "command": command, "versions": _versions()}
    state["configs"] |= configs
    state["seeds"] = list(range(max(options.seeds, len(state["seeds"]))))
    return Reproduction(found.folder if found else None, state)


def write_json(file: Path, content: object) -> None:
    """Write a file, whole or not at all."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.rename(file)


def _newest(out: Path, identity: dict[str, Any], configs: dict[str, Any]) -> Reproduction | None:
    files = sorted(out.glob(f"reproduce-*/{STATE}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        try:
            state = json.loads(file.read_text())
            known = state["configs"]
            is_same = state["identity"] == identity and all(
                known.get(name, one) == one for name, one in configs.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # of another version
        if is_same:
            return Reproduction(file.parent, state)
    return None


def _identity(options: ReproduceOptions, chosen: Chosen) -> dict[str, Any]:
    """Return what two calls must have in common to go on with each other, besides the data sets' configurations."""
    identity: dict[str, Any] = _plain(
        {"origin": str(chosen.origin.resolve()), "trial": chosen.name, "changes": chosen.changes}
    )
    return identity


def _new_state(chosen: Chosen) -> dict[str, Any]:
    return {
        "trial": {
            "name": chosen.name,
            "dataset": dataset_spec(chosen.start.dataset).name,
            "origin": str(chosen.origin),
        },
        "preset": chosen.preset,
        "changes": chosen.changes,
        "search": str(chosen.origin) if chosen.is_search else None,
        "seeds": [],
        "steps": {},
        "datasets": {},
        "absent": {},
        "shortened": False,
        "runs": [],
        "summary": {},
        "configs": {},
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _plain(content: Any) -> Any:
    """Return what JSON makes of something."""
    return json.loads(json.dumps(content))
