"""Station 4: many short runs with other settings, by Ray Tune and Optuna, to find better ones.

The study on disk is the state of a search (see `pipeline.study`), trials keep their checkpoints themselves (see
`pipeline.trial`); Ray Tune places and runs the trials. So a resume is a first call that finds trials there already.
"""

import contextlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune

from pipeline.cache import Cache, keep_decoded
from pipeline.fit import TrainingError, wants_gpu
from pipeline.journey import find_data, new_folder, prepare_data
from pipeline.options import Request, store
from pipeline.report import try_report
from pipeline.search_options import SearchOptions
from pipeline.search_report import BEST, Table, print_end, write_best, write_trials
from pipeline.session import ray_session
from pipeline.shards import Shards
from pipeline.single import newest_checkpoint
from pipeline.space import Space, load_space, starting_values
from pipeline.study import Record, StudyScheduler, StudySearch, best_of, enqueue_first, open_study, records
from pipeline.train import Job
from pipeline.trial import Task, run_trial, val_rows
from pixcon_core.config import RunConfig
from pixcon_core.models import fetch_pretrained

EVALUATIONS = 4
"""Of a trial that is not stopped early, evenly spread. At the first one ASHA may stop it."""
VAL_IMAGES = 200
"""Trials are scored on so many images of the validation split at most."""
TRIALS_FOLDER, TUNE_FOLDER = "trials", "tune"


def search(request: Request, options: SearchOptions) -> Path:
    """Do what the command line asks for and return the path of `best.json`.

    Raises:
        ValueError: If data, configuration and space do not go together, before anything long starts.
        TrainingError: If every trial failed.
        KeyboardInterrupt: If it was stopped by hand, after the best so far is shown and written.
    """
    config = trial_config(request.config, options)
    space = load_space(options.space, config)
    source = find_data(config, request.out)
    fetch_pretrained(config.model)
    folder = request.unfinished or new_folder(request.out, f"{source.spec.name}-search")
    store(folder, request.preset, request.config, options)
    print(f"Run folder: {folder} (preset {request.preset}, space {options.space})")
    with ray_session(folder / "logs"):
        at_once, resources = places(config, options)
        shards = prepare_data(source, config, request.out)
        study = open_study(folder, config.seed, options.trials)
        enqueue_first(study, {name: starting_values(config)[name] for name in space})
        finished = sum(one.state != "running" for one in records(study))
        print(
            f"Search: {options.trials} trials, {finished} of them done, {at_once} at once; each {config.train.steps}"
            f" steps, scored every {config.train.checkpoint_every}"
        )
        task = _task(config, shards, folder, at_once, options.trials)
        hunt = _Hunt(request, options, task, study, space)
        try:
            if finished < options.trials and not hunt.is_over_budget:
                _tune(hunt, resources, options.trials - finished)
        finally:
            hunt.end()
    try_report(folder)
    if not any(one.points for one in records(study)):
        reasons = [one.reason for one in records(study) if one.reason]
        raise TrainingError(f"every trial failed, the first one so: {reasons[0]}." if reasons else "no trial ran.")
    return folder / BEST


def trial_config(config: RunConfig, options: SearchOptions) -> RunConfig:
    """Return the configuration of a trial that changes nothing.

    Raises:
        ValueError: If trials cannot be run so.
    """
    if config.train.num_workers > 1:
        raise ValueError(
            f"--search: trials have one worker each, but train.num_workers is {config.train.num_workers}. Leave it"
            " out, and use --concurrent to keep the machine busy."
        )
    if config.contrast.weight == 0:
        raise ValueError("--search: contrast.weight is 0, so there is nothing to search. Leave it out.")
    steps = options.steps(config)
    every = -(-steps // EVALUATIONS)
    return replace(config, train=replace(config.train, steps=steps, checkpoint_every=every))


def places(config: RunConfig, options: SearchOptions) -> tuple[int, dict[str, float]]:
    """Return how many trials run at once, and what Ray sets aside for each.

    Raises:
        ValueError: If so many do not fit.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0)) if wants_gpu(config.train) else 0
    cpus = int(ray.cluster_resources()["CPU"])
    at_once = options.concurrent or gpus or min(4, len(os.sched_getaffinity(0)))
    if at_once >= cpus:
        raise ValueError(
            f"--concurrent must be less than the CPUs that Ray has ({cpus}), so that one is left to read images, but"
            f" got {at_once}."
        )
    return min(at_once, options.trials), {"cpu": 1, **({"gpu": min(1.0, gpus / at_once)} if gpus else {})}


def _task(config: RunConfig, shards: Shards, folder: Path, at_once: int, trials: int) -> Task:
    # Whether decoding once pays is a question of all trials together.
    together = replace(config, train=replace(config.train, steps=config.train.steps * trials))
    caches: list[Cache | None] = [keep_decoded(shards, split, together) for split in ("train", "val")]
    return Task(
        Job(config, shards, caches[0]),
        (folder / TRIALS_FOLDER).resolve(),
        val_rows(shards, VAL_IMAGES),
        caches[1],
        at_once,
    )


class _Hunt:
    """A search that goes on: what is shown and written after each score and at the end."""

    def __init__(self, request: Request, options: SearchOptions, task: Task, study: optuna.Study, space: Space) -> None:
        self.options, self.task, self.study, self.space = options, task, study, space
        self.config, self.folder = task.job.config, task.folder.parent
        self._preset, self._checkpoint_every = request.preset, request.config.train.checkpoint_every
        self._start_values = {name: starting_values(self.config)[name] for name in space}
        self._before: float = study.user_attrs.get("seconds", 0.0)
        self._began = time.monotonic()
        self._table = Table(space, self.config.train.steps)
        for one in records(study):
            self._table.show(one)
        self._tidy()

    @property
    def seconds(self) -> float:
        """So long it went on, before a resume as well."""
        return self._before + time.monotonic() - self._began

    @property
    def seconds_left(self) -> float | None:
        """What is left of the budget."""
        budget = self.options.budget_seconds
        return None if budget is None else budget - self.seconds

    @property
    def is_over_budget(self) -> bool:
        """Whether nothing is left of it."""
        return self.seconds_left is not None and self.seconds_left <= 0

    def on_change(self, one: Record) -> None:
        """Show and write down what a trial has come to."""
        self._table.show(one)
        self.study.set_user_attr("seconds", self.seconds)
        if one.state != "running":
            self._tidy()
            self._write()

    def end(self) -> None:
        """Show and write what was found."""
        self._table.close()
        self._tidy()
        print_end(self._write(), self.folder)

    def _write(self) -> dict[str, Any]:
        found = records(self.study)
        write_trials(self.folder, found)
        scored, there = len(self.task.val_rows), self.task.job.shards.splits["val"].num_images
        facts = {
            "space": self.options.space,
            "val_images": f"{scored} images" if scored == there else f"{scored} of {there} images",
            "seconds": round(self.seconds, 1),
        }
        # The command is that of a run, whose checkpoints need not be a trial's.
        as_run = replace(self.config.train, checkpoint_every=self._checkpoint_every)
        config = replace(self.config, train=as_run)
        return write_best(self.folder, self._preset, config, self._start_values, found, facts)

    def _tidy(self) -> None:
        """Keep the best trial's checkpoint and those of running trials, no others."""
        found = records(self.study)
        best = best_of(found)
        for one in found:
            place = self.task.folder / str(one.number)
            newest = newest_checkpoint(place)
            if one.state == "running" or newest is None:
                continue
            if one == best:
                shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
                newest.rename(self.folder / "checkpoint")
            for rest in (*place.glob("checkpoint-*"), place / "partial"):
                shutil.rmtree(rest, ignore_errors=True)


def _tune(hunt: _Hunt, resources: dict[str, float], num_trials: int) -> None:
    os.environ |= {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: trials that run then stay as begun, to be gone on with
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files that nobody reads
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever its verbosity is
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths stay what they are
    }
    steps, grace = hunt.config.train.steps, hunt.config.train.checkpoint_every
    shutil.rmtree(hunt.folder / TUNE_FOLDER, ignore_errors=True)  # of a search that was killed
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, task=hunt.task), resources),
        tune_config=tune.TuneConfig(
            search_alg=StudySearch(hunt.study, hunt.space, steps, hunt.on_change),
            scheduler=StudyScheduler(steps, grace, records(hunt.study)),
            num_samples=num_trials,
            max_concurrent_trials=hunt.task.at_once,
            time_budget_s=hunt.seconds_left,
            reuse_actors=True,  # a process that has imported PyTorch and Ray Data is the next trial's as well
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(hunt.folder.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    try:
        tuner.fit()
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(hunt.folder / TUNE_FOLDER)
