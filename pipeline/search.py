"""Station 4: many short runs with other settings, by Ray Tune and Optuna, to find better ones.

The study on disk is the state of a search (see `pipeline.tuning.study`), trials keep their checkpoints themselves (see
`pipeline.tuning.trial`); Ray Tune places and runs them. So a resume is a first call that finds trials there already.
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler

from pipeline.command import TrainingError, is_disk_full
from pipeline.data.cache import decoded_size, keep_decoded
from pipeline.data.same import keep_to_data
from pipeline.data.shards import Shards
from pipeline.data.skipping import load_skipped
from pipeline.journey import find_data, new_folder, prepare_data
from pipeline.locking import held
from pipeline.options import Request, store
from pipeline.progress import follow, open_mailbox
from pipeline.report import try_report
from pipeline.reproducing.chosen import with_steps
from pipeline.session import ray_session
from pipeline.train import Job
from pipeline.tuning.hunt import Hunt
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.placing import Places, check_places, find_places
from pipeline.tuning.search_report import BEST
from pipeline.tuning.space import load_space, starting_values
from pipeline.tuning.study import Sampling, StudyScheduler, StudySearch, enqueue_first, open_study, records
from pipeline.tuning.study_storage import check_storage, storage_errors
from pipeline.tuning.trial import Task, run_trial, val_rows
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
        ValueError: If data, configuration and space do not go together, before anything long starts; if another command
            is in the search's folder, or it was begun with other data.
        TrainingError: If every trial failed, or the study cannot be written.
        OSError: If a disk is full.
        KeyboardInterrupt: If it was stopped by hand, after the best so far is shown and written.
    """
    began = time.monotonic()
    config = trial_config(request.config, options)
    space = load_space(options.space, config)
    if options.storage is not None:
        check_storage(options.storage)
    source = find_data(config, request.out)
    fetch_pretrained(config.model)
    folder = request.unfinished or new_folder(request.out, f"{source.spec.name}-search")
    with held(folder):
        study = open_study(folder, options.storage)
        store(folder, request.preset, request.config, options)
        print(f"Run folder: {folder} (preset {request.preset}, space {options.space})")
        if note := late_start(config, options):
            print(f"note: {note}", file=sys.stderr)
        # Trials with several workers leave theirs behind when they are stopped early; what removes them asks the
        # dashboard.
        with ray_session(folder / "logs", dashboard=config.train.num_workers > 1), storage_errors():
            places = find_places(config, options)
            shards = prepare_data(source, config, request.out)
            keep_to_data(folder, shards, again="leave out --resume")
            enqueue_first(study, {name: starting_values(config)[name] for name in space})
            finished = sum(one.state != "running" for one in records(study))
            seeds = f" with {options.seeds_per_trial} seeds" if options.seeds_per_trial > 1 else ""
            print(
                f"Search: {options.trials} trials, {finished} of them done, {places.at_once} at once; each"
                f" {config.train.steps} steps{seeds}, scored every {config.train.checkpoint_every}"
            )
            task = make_task(config, options, shards, folder, places)
            hunt = Hunt(request, options, task, study, space, began)
            try:
                with follow(task.mailbox, hunt.on_message):
                    _tune(hunt, places)
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
    check_places(config, options)
    if config.contrast.weight == 0:
        raise ValueError("--search: contrast.weight is 0, so there is nothing to search. Leave it out.")
    steps = options.steps(config)
    every = -(-steps // EVALUATIONS)
    found = with_steps(config, steps)
    if found.warmup_steps >= steps:
        raise ValueError(
            f"--search: contrast.warmup_steps is {config.warmup_steps} of {config.train.steps} steps, as the same share"
            f" {found.warmup_steps} of the {steps} of a trial, so that contrast would begin in none. Lower it."
        )
    return replace(found, train=replace(found.train, checkpoint_every=every))


def late_start(config: RunConfig, options: SearchOptions) -> str | None:
    """Say if trials, of such a configuration, may be stopped early before contrast has begun in them."""
    first, warmup = config.train.checkpoint_every, config.warmup_steps
    if not options.early_stopping or warmup < first:
        return None
    return (
        f"contrast begins after {warmup} of a trial's {config.train.steps} steps, and at {first} trials may be stopped"
        " that are alike so far. Lower contrast.warmup_steps."
    )


def make_task(config: RunConfig, options: SearchOptions, shards: Shards, folder: Path, places: Places) -> Task:
    """Return what all trials have in common; images begin to be decoded for them."""
    # Whether decoding once pays is a question of all trials together.
    steps = config.train.steps * options.trials * options.seeds_per_trial
    together = replace(config, train=replace(config.train, steps=steps))
    cache = keep_decoded(shards, "train", together)
    val_cache = keep_decoded(shards, "val", together, taken=decoded_size(shards, "train") if cache else 0)
    return Task(
        Job(config, shards, cache),
        (folder / TRIALS_FOLDER).resolve(),
        val_rows(shards, VAL_IMAGES),
        val_cache,
        open_mailbox(load_skipped(folder)),
        at_once=places.at_once,
        num_seeds=options.seeds_per_trial,
        use_gpu=places.use_gpu,
        worker_resources=places.worker,
    )


def _tune(hunt: Hunt, places: Places) -> None:
    os.environ |= {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: trials that run then stay as begun, to be gone on with
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files that nobody reads
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box whatever its verbosity is
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths stay what they are
    }
    # Tune would hand credentials to trials in a way that Ray writes down, in logs that come into the run folder. Trials
    # have them from the environment or role of their node, as whatever else reads there.
    kept = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.intersection_update(kept)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of processes that died we tell ourselves
    deaths: Counter[tuple[int, int]] = Counter()
    # More than once only if processes died: Tune counts each try as one of its samples.
    while (left := hunt.num_left) > 0 and not hunt.is_over_budget:
        _tune_once(hunt, places, left, deaths)


def _tune_once(hunt: Hunt, places: Places, num_trials: int, deaths: Counter[tuple[int, int]]) -> None:
    options, steps, grace = hunt.options, hunt.config.train.steps, hunt.config.train.checkpoint_every
    sampling = Sampling(hunt.config.seed, options.trials, options.sampler == "random")
    searcher = StudySearch(hunt.study, hunt.space, steps, sampling, deaths, hunt.on_change)
    stopping = StudyScheduler(steps, grace, records(hunt.study)) if options.early_stopping else FIFOScheduler()
    shutil.rmtree(hunt.folder / TUNE_FOLDER, ignore_errors=True)  # of a search that was killed
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, task=hunt.task), places.trial),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=stopping,
            num_samples=num_trials,
            max_concurrent_trials=places.at_once,
            time_budget_s=hunt.seconds_left,
            reuse_actors=True,  # a process that has imported PyTorch and Ray Data is the next trial's as well
        ),
        run_config=tune.RunConfig(name=TUNE_FOLDER, storage_path=str(hunt.folder.resolve()), verbose=0),
    )
    try:
        tuner.fit()
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(hunt.folder / TUNE_FOLDER)
    if searcher.hopeless:
        full = OSError(searcher.hopeless)
        raise full if is_disk_full(full) else ValueError(searcher.hopeless)
