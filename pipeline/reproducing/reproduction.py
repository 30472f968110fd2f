"""A trial's settings in full beside the same without contrast, on several data sets, with several seeds.

The folder of a reproduction is its state: a run that has a result is done, one that has a checkpoint goes on from
there. So a call that goes on with another is a first call that finds much done.
"""

import itertools
import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import ray

from pipeline.command import TrainingError
from pipeline.data.cache import Cache, keep_decoded
from pipeline.data.disk import check_disk, checkpoint_bytes
from pipeline.data.same import keep_to_data
from pipeline.data.shard_file import Skipped
from pipeline.data.shards import Shards
from pipeline.data.skipping import skipped_line
from pipeline.data.sources import dataset_spec
from pipeline.journey import Source, find_data, prepare_data
from pipeline.locking import held
from pipeline.options import RESULT, store
from pipeline.progress import Bar
from pipeline.report import try_report
from pipeline.reproducing.ablation import TABLES, Row, format_table, slug
from pipeline.reproducing.chosen import Chosen, find_chosen
from pipeline.reproducing.options import Ablation, ReproduceOptions
from pipeline.reproducing.state import (
    FAILED,
    FINISHED,
    STATE,
    WAITING,
    Cell,
    Reproduction,
    open_reproduction,
    write_json,
)
from pipeline.reproducing.summary import METHODS, format_summary, read_miou, slower_by, std
from pipeline.reproducing.targets import Target, Targets, find_targets
from pipeline.session import ray_session
from pipeline.train import Job
from pipeline.training.checkpoint import newest_checkpoint
from pipeline.training.many import Run, room_for, train_all
from pixcon_core.data import make_miniature
from pixcon_core.models import fetch_pretrained

WIDTH = 80
CARRIED = (
    "Other data sets than the trial's have their own presets, with what the trial changed: counts, embedding length and"
    " learning rate by the same factor, warm-up as the same share of the steps."
)


class Planned(NamedTuple):
    """A run that is wanted."""

    run: Run
    target: Target
    cell: Cell | None
    """None of a run that only an ablation has."""


def reproduce(options: ReproduceOptions, arguments: Sequence[str]) -> Path | None:
    """Do what the command line asks for and return the path of `reproduce.json`; None after a dry run.

    Raises:
        ValueError: If trial, data sets and settings do not go together, before anything long starts; if another command
            is in the reproduction's folder, or it was begun with other data.
        TrainingError: If every run failed.
        KeyboardInterrupt: If it was stopped by hand.
    """
    chosen = find_chosen(options.trial, options.search, options.out)
    targets = find_targets(options, chosen, arguments)
    sources = {one.name: find_data(one.config, options.out) for one in targets.found if not one.is_miniature}
    for target in targets.found if not options.dry_run else ():
        fetch_pretrained(target.config.model)
    command = shlex.join(["python", "-m", "pipeline.reproduce", *arguments])
    found = open_reproduction(options, chosen, targets, command)
    plan = _plan(options, targets)
    missing = [one for one in plan if not found.is_done(one.run.name)]
    classes = {target.name: len(dataset_spec(target.config.dataset).classes) for target in targets.found}
    alike = ((replace(one.run.config, seed=0), classes[one.target.name]) for one in missing)
    check_disk(options.out, itertools.starmap(checkpoint_bytes, alike))
    _print_plan(options, chosen, targets, plan, len(plan) - len(missing))
    if options.dry_run:
        return None
    found.begin(options.out)
    with held(found.folder):
        found.write()
        print(f"Folder: {found.folder}")
        if missing or not (options.ablation or found.has(targets)):
            with ray_session(found.folder / "logs"):
                shards = _prepare(targets, sources, options.out)
                for name, prepared in shards.items():
                    (found.folder / name).mkdir(exist_ok=True)
                    keep_to_data(found.folder / name, prepared, again="--fresh")
                if not options.ablation:
                    found.add(targets, {name: one.folder for name, one in shards.items()})
                if missing:
                    _Work(options, found, missing, shards).do()
        for one in plan:
            if one.cell and found.is_done(one.run.name):  # it may have been killed before it took that down
                found.mark(one.cell, FINISHED)
        return _end(options, found, targets, plan)


def _plan(options: ReproduceOptions, targets: Targets) -> list[Planned]:
    """Return all runs that are wanted, those that are done among them; pairs beside each other."""
    planned: dict[str, Planned] = {}
    for target, seed in itertools.product(targets.found, range(options.seeds)):
        cells = {method: Cell(target.name, method, seed) for method in METHODS}
        configs = {method: target.with_method(method, seed) for method in METHODS}
        if not options.ablation:
            for method, cell in cells.items():
                planned[cell.name] = Planned(Run(cell.name, configs[method]), target, cell)
            continue
        for name in options.ablation:
            for row in TABLES[name].rows:
                run = _row_run(target, row, seed)
                cell_of = next((cell for cell in cells.values() if cell.name == run.name), None)
                planned[run.name] = Planned(run, target, cell_of)
    return list(planned.values())


def _row_run(target: Target, row: Row, seed: int) -> Run:
    """Return the run of an ablation's row; one that the comparison has as well is the same."""
    config = target.with_changes(row.changes, seed)
    for method in METHODS:
        if config == target.with_method(method, seed):
            return Run(Cell(target.name, method, seed).name, config)
    return Run(f"{target.name}/ablation-{slug(row)}-seed{seed}", config)


def _print_plan(
    options: ReproduceOptions, chosen: Chosen, targets: Targets, plan: Sequence[Planned], num_done: int
) -> None:
    print(f"Trial: {chosen.name} of {chosen.origin}")
    _print_settings(chosen.changes)
    for note in targets.notes:
        print(textwrap.fill(f"note: {note}", WIDTH, subsequent_indent="  "))
    print("Data sets:")
    for target in targets.found:
        print(f"  {target.name:<20} preset {target.preset}, {_steps(target)}")
        if target.config.dataset != chosen.start.dataset:
            _print_settings(target.changes, indent="      ")
    if any(target.config.dataset != chosen.start.dataset for target in targets.found):
        print(textwrap.fill(CARRIED, WIDTH))
    if any(target.is_shortened for target in targets.found):
        print("Shortened training; --full or --steps for more.")
    kinds = f"ablation {' and '.join(options.ablation)}" if options.ablation else "contrast and baseline"
    print(f"Runs: {len(plan)} ({kinds}; {counted(options.seeds, 'seed')}), {num_done} of them done.")
    print("The baseline differs in contrast.weight alone; paired seeds, the same steps.")


def _print_settings(changes: dict[str, Any], indent: str = "  ") -> None:
    text = ", ".join(f"{name} {_short(value)}" for name, value in changes.items()) or "nothing changed"
    print(textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent))


def _steps(target: Target) -> str:
    steps = target.config.train.steps
    return counted(steps, "step") + (f" of {target.full_steps}" if steps != target.full_steps else "")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def counted(count: int, unit: str) -> str:
    """Return a number with its unit, for people."""
    return f"{count} {unit}" + ("" if count == 1 else "s")


def _prepare(targets: Targets, sources: dict[str, Source], out: Path) -> dict[str, Shards]:
    """Return the shards of all data sets; miniatures that are not there are drawn first, beside each other."""
    names = [target.name for target in targets.found if target.is_miniature and target.config.data_root is None]
    undrawn = [name for name in names if not (out / "data" / name).exists()]
    drawing = [ray.remote(make_miniature).remote(name, (out / "data" / name).resolve()) for name in undrawn]
    bar = Bar("Drawing miniatures", "data set")
    for done in range(len(drawing)):
        bar.update(done, len(drawing))
        ray.wait(drawing, num_returns=done + 1)
    ray.get(drawing)
    bar.close()
    sources |= {one.name: find_data(one.config, out) for one in targets.found if one.is_miniature}
    return {target.name: prepare_data(sources[target.name], target.config, out) for target in targets.found}


class _Work:
    """The runs that are still to be done."""

    def __init__(
        self, options: ReproduceOptions, found: Reproduction, missing: list[Planned], shards: dict[str, Shards]
    ) -> None:
        self._options, self._found, self._shards = options, found, shards
        self._planned = {one.run.name: one for one in missing}
        self._caches: dict[str, Cache | None] = {}
        self._left = [one.target.name for one in missing]
        """The data set of each run that has not ended."""
        self._steps = {one.run.name: self._steps_done(one.run.name) for one in missing}
        self._told: set[str] = set()
        """Lines about images that could not be read."""
        self._bar = Bar("Training", "step")

    def do(self) -> None:
        """Train and evaluate all."""
        for one in self._planned.values():
            if one.cell:
                self._found.mark(one.cell, WAITING)
        self._found.write()
        runs = [one.run for one in self._planned.values()]
        rooms = {run.name: room_for(run.config, self._options.concurrent) for run in runs}
        self._show()
        try:
            for room, some in itertools.groupby(runs, key=lambda run: rooms[run.name]):
                together = list(some)
                train_all(together, self._job, self._found.folder, room, self._on_step, self._on_end)
        finally:
            self._bar.close()

    def _job(self, run: Run) -> Job:
        target = self._planned[run.name].target
        folder, shards = self._found.folder / run.name, self._shards[target.name]
        folder.mkdir(parents=True, exist_ok=True)
        store(folder, target.preset, run.config)
        if target.name not in self._caches:
            # Whether decoding once pays is a question of all runs together.
            steps = run.config.train.steps * self._left.count(target.name)
            together = replace(run.config, train=replace(run.config.train, steps=steps))
            self._caches[target.name] = keep_decoded(shards, "train", together)
        return Job(run.config, shards, self._caches[target.name])

    def _on_step(self, name: str, step: int) -> None:
        self._steps[name] = step
        self._show()

    def _show(self) -> None:
        total = sum(one.run.config.train.steps for one in self._planned.values())
        self._bar.update(sum(self._steps.values()), total)

    def _steps_done(self, name: str) -> int:
        newest = newest_checkpoint(self._found.folder / name)
        return 0 if newest is None else int(newest.name.rpartition("-")[2])

    def _on_end(self, run: Run, why: str) -> None:
        planned, folder = self._planned[run.name], self._found.folder / run.name
        self._left.remove(planned.target.name)
        if planned.target.name not in self._left:
            self._caches.pop(planned.target.name)  # and with it the images
        self._steps[run.name] = run.config.train.steps
        if not why:
            self._print_skipped(folder)
        result = f"failed: {why}" if why else f"mIoU {100 * (read_miou(folder) or 0):.1f} %"
        self._bar.print(f"{run.name}: {result}")
        if planned.cell:
            self._found.mark(planned.cell, FAILED if why else FINISHED, why)
            self._found.summarise(planned.target.name)
        self._found.write()

    def _print_skipped(self, folder: Path) -> None:
        """Name the images that could not be read, once of all runs."""
        for one in json.loads((folder / RESULT).read_text())["skipped"]:
            if (line := skipped_line(Skipped(**one))) not in self._told:
                self._told.add(line)
                self._bar.print(line)


def _end(options: ReproduceOptions, found: Reproduction, targets: Targets, plan: list[Planned]) -> Path:
    """Print and write what was found, and return the path of `reproduce.json`."""
    if not any(found.is_done(one.run.name) for one in plan):
        reasons = [one["reason"] for one in found.state["runs"] if one["reason"]]
        raise TrainingError(f"every run failed, one of them so: {reasons[0] if reasons else 'see the folder'}.")
    if options.ablation:
        for name, target in itertools.product(options.ablation, targets.found):
            _end_ablation(name, target, options, found)
    else:
        summary = {target.name: found.summarise(target.name) for target in targets.found}
        print("\n" + format_summary(summary, _notes(found.state["seeds"], targets, summary)))
    found.write()
    for one in plan:
        if not found.is_done(one.run.name):
            print(f"Failed: {one.run.name}, see {found.folder / one.run.name}")
    bar = Bar("Page", "image")
    try_report(found.folder, progress=bar.update)
    bar.close()
    return found.folder / STATE


def _notes(seeds: list[int], targets: Targets, summary: dict[str, Any]) -> list[str]:
    notes = [
        f"mean ± standard deviation over {counted(len(seeds), 'seed')}; void left out",
        "interval: paired bootstrap over images, which says nothing of other seeds",
        *(["over seeds: of the mean of the paired differences, by Student's t"] if len(seeds) > 1 else []),
    ]
    for name, found in summary.items():
        if found is None or found["seeds"] != seeds:
            there = ", ".join(map(str, found["seeds"])) if found else "none"
            notes.append(f"{name}: not all pairs have a result; of seeds {there}")
    slower = slower_by(summary.values())
    if slower is not None:
        notes.append(f"same steps for both; a step with contrast takes {slower:.2f} times as long")
    if any(target.is_shortened for target in targets.found):
        notes.append("shortened training, not the full steps of the presets")
    return notes


def _end_ablation(name: Ablation, target: Target, options: ReproduceOptions, found: Reproduction) -> None:
    table = TABLES[name]
    results = []
    for row in table.rows:
        runs = [_row_run(target, row, seed) for seed in range(options.seeds)]
        results.append([miou for run in runs if (miou := read_miou(found.folder / run.name)) is not None])
    what = f"{target.name}, {counted(options.seeds, 'seed')}, {_steps(target)}"
    print("\n" + format_table(table, results, what))
    rows = [
        {
            "label": row.label,
            "changes": row.changes,
            "miou": mious,
            "mean": fmean(mious) if mious else None,
            "std": std(mious),
            "published": row.published,
        }
        for row, mious in zip(table.rows, results, strict=True)
    ]
    content = {
        "ablation": name,
        "dataset": target.name,
        "seeds": list(range(options.seeds)),
        "steps": target.config.train.steps,
        "source": table.source,
        "rows": rows,
    }
    is_own = target.name == found.state["trial"]["dataset"]
    write_json(found.folder / f"ablation-{name}{'' if is_own else '-' + target.name}.json", content)
