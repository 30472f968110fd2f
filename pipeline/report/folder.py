"""What lies in the folder of a run, a search or a reproduction. Whatever is missing is None; nothing is computed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.shards import INDEX, Shards
from pipeline.data.storage import is_url
from pipeline.options import CONFIG, RESULT
from pipeline.progress import load_records

REPRODUCE, METRICS = "reproduce.json", "metrics.jsonl"
BASELINE, CONTRAST = "baseline", "contrast"
METHODS = (BASELINE, CONTRAST)


class Run(NamedTuple):
    """One training run of a data set."""

    folder: Path
    method: str
    """`baseline` (cross-entropy alone) or `contrast`."""
    seed: int
    state: str
    """How it ended, as a person reads it."""
    result: dict[str, Any] | None
    """Its `result.json`."""
    settings: dict[str, Any]
    """Its configuration by section; empty where it has none."""
    preset: str = ""
    """What that started from."""

    @property
    def checkpoint(self) -> Path | None:
        """Its checkpoint, if it is still there."""
        folder = self.folder / "checkpoint"
        return folder if folder.is_dir() else None

    def metrics(self) -> list[dict[str, Any]]:
        """Return its metrics by step."""
        return load_records(self.folder / METRICS)


@dataclass(frozen=True)
class Dataset:
    """The runs of a data set."""

    name: str
    runs: tuple[Run, ...]
    kind: str = ""
    """`real` or `miniature`, where known."""
    absent: str = ""
    """Why the real one is not there."""
    full_steps: int | None = None
    """Of its preset, which runs may fall short of."""
    shards: str | None = None
    """Where its prepared images are."""
    difference: dict[str, float] | None = None
    """Of mIoU, contrast - baseline: `mean`, `low`, `high`, in 0..1; as `reproduce.json` has it."""
    over_seeds: dict[str, float] | None = None
    """The same of the mean over seeds."""

    def finished(self, method: str) -> list[Run]:
        """Return the runs of a method that have a result, by seed."""
        return sorted((r for r in self.runs if r.method == method and r.result), key=lambda run: run.seed)

    def pairs(self) -> list[tuple[Run, Run]]:
        """Return baseline and contrast of each seed that has both."""
        contrast = {run.seed: run for run in self.finished(CONTRAST)}
        return [(run, contrast[run.seed]) for run in self.finished(BASELINE) if run.seed in contrast]

    @property
    def methods(self) -> list[str]:
        """Those with a finished run."""
        return [method for method in METHODS if self.finished(method)]


@dataclass(frozen=True)
class Contents:
    """What a page is made of."""

    folder: Path
    kind: str
    """`run`, `search` or `reproduce`."""
    datasets: tuple[Dataset, ...] = ()
    search: Path | None = None
    """Folder of the search."""
    search_missing: str = ""
    """Where that search was said to be, if it is gone."""
    ablations: tuple[dict[str, Any], ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by data set."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The rest of `reproduce.json`, or `preset` of a run."""


def read_folder(folder: Path) -> Contents:
    """Read what a folder holds.

    Raises:
        ValueError: If it is not one of ours.
    """
    if (folder / REPRODUCE).exists():
        try:
            return _read_reproduction(folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / REPRODUCE} is not what pipeline.reproduce writes ({error!r}).") from error
    stored = read_json(folder / CONFIG)
    if not stored or "config" not in stored:
        raise ValueError(
            f"{folder} is not the folder of a run, a search or a reproduction: expected {CONFIG} or {REPRODUCE} in it,"
            " as pipeline.run and pipeline.reproduce write them."
        )
    facts = {"preset": stored.get("preset", "")}
    if "search" in stored:
        return Contents(folder, "search", search=folder, facts=facts)
    run = _read_run(folder, "", 0, "")
    name = run.result["dataset"] if run.result else run.settings.get("dataset", "")
    found = Dataset(str(name), (run,), shards=(run.result or {}).get("shards"))
    return Contents(folder, "run", (found,), facts=facts)


def _read_reproduction(folder: Path) -> Contents:
    stored = read_json(folder / REPRODUCE)
    if stored is None:
        raise ValueError(f"{folder / REPRODUCE} cannot be read: it is not JSON.")
    summary, described = stored.get("summary") or {}, stored.get("datasets") or {}
    listed: dict[str, list[Run]] = {name: [] for name in described}
    for one in stored.get("runs") or ():
        name, method, seed = str(one["dataset"]), str(one["method"]), int(one["seed"])
        usual = folder / name / f"{method}-seed{seed}"
        state = ": ".join(filter(None, (str(one.get("state", "")), str(one.get("reason") or ""))))
        place = first_there([folder / one["folder"], Path(one["folder"]), usual] if one.get("folder") else [usual])
        listed.setdefault(name, []).append(_read_run(place or usual, method, seed, state))
    datasets = tuple(
        Dataset(
            name,
            tuple(runs),
            kind=str(described.get(name, {}).get("data") or ""),
            absent=str(described.get(name, {}).get("absent") or ""),
            full_steps=described.get(name, {}).get("full_steps"),
            shards=described.get(name, {}).get("shards"),
            difference=(summary.get(name) or {}).get("difference"),
            over_seeds=(summary.get(name) or {}).get("over_seeds"),
        )
        for name, runs in listed.items()
    )
    named = stored.get("search")
    search = first_there([Path(named), folder / named, folder.parent / Path(named).name]) if named else None
    ablations = [read_json(file) for file in sorted(folder.glob("ablation-*.json"))]
    facts = {
        name: value
        for name, value in stored.items()
        if name not in ("runs", "summary", "datasets", "absent", "configs", "identity")
    }
    return Contents(
        folder,
        "reproduce",
        datasets,
        search,
        str(named) if named and search is None else "",
        tuple(one for one in ablations if one),
        {str(name): str(why) for name, why in (stored.get("absent") or {}).items()},
        facts,
    )


def _read_run(folder: Path, method: str, seed: int, state: str) -> Run:
    stored = read_json(folder / CONFIG) or {}
    settings = stored.get("config") or {}
    result = read_json(folder / RESULT)
    is_baseline = settings.get("contrast", {}).get("weight") == 0
    return Run(
        folder,
        method or (BASELINE if is_baseline else CONTRAST),
        int(settings.get("seed", seed)),
        state or ("finished" if result else "unfinished"),
        result,
        settings,
        str(stored.get("preset")),
    )


def find_shards(contents: Contents, dataset: Dataset) -> Shards:
    """Return the prepared images of a data set.

    Raises:
        ValueError: If they are not known or no longer there.
    """
    beside = contents.folder.parent / "shards"
    place: str | Path | None = dataset.shards
    if dataset.shards is None:  # a run alone does not say it
        # Not by the folders' names: pascal-context-60's begin with pascal-context, too.
        indices = sorted(beside.glob(f"*/{INDEX}"))
        near = [file.parent for file in indices if (read_json(file) or {}).get("dataset") == dataset.name]
        place = near[0] if len(near) == 1 else None
    elif not is_url(dataset.shards):  # --out may have been moved as a whole
        place = first_there([Path(dataset.shards), beside / Path(dataset.shards).name]) or dataset.shards
    if place is None:
        raise ValueError("it is not known where its prepared images are")
    return Shards.load(place)


def first_there(places: Iterable[Path]) -> Path | None:
    """Return the first of some folders that exists."""
    return next((place for place in places if place.is_dir()), None)


def read_json(file: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None where it is missing or broken."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
