"""A search that goes on: what is shown and written after each score and at its end, and which checkpoints are kept."""

import shutil
import time
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from jaxtyping import Int64

from pipeline.data.skipping import load_skipped, skipped_line, store_skipped
from pipeline.options import Request
from pipeline.progress import SKIPPED
from pipeline.progress import Record as Message
from pipeline.training.checkpoint import newest_checkpoint
from pipeline.training.fit import TRAIN_FOLDER
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.search_report import Gain, Table, print_end, write_best, write_trials
from pipeline.tuning.space import Space, starting_values
from pipeline.tuning.study import BASELINE, Record, best_of, records
from pipeline.tuning.trial import COUNTS, Task, seed_folder
from pixcon_core.metrics import paired_bootstrap


class Hunt:
    """The state of a search that is not in its study."""

    def __init__(
        self, request: Request, options: SearchOptions, task: Task, study: optuna.Study, space: Space, began: float
    ) -> None:
        self.options, self.task, self.study, self.space = options, task, study, space
        self.config, self.folder = task.job.config, task.folder.parent
        self._preset, self._full = request.preset, request.config
        self._start_values = {name: starting_values(self.config)[name] for name in space}
        self._before: float = study.user_attrs.get("seconds", 0.0)
        self._began = began
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

    @property
    def num_left(self) -> int:
        """Trials that have not come to their end."""
        return self.options.trials - sum(one.state != "running" for one in records(self.study))

    def on_change(self, one: Record) -> None:
        """Show and write down what a trial has come to."""
        self._table.show(one)
        self.study.set_user_attr("seconds", self.seconds)
        if one.state != "running":
            self._tidy()
            self._write()

    def on_message(self, message: Message) -> None:
        """Show and write down that an image cannot be read."""
        if SKIPPED in message:
            store_skipped(self.folder, message[SKIPPED])
            self._table.note(skipped_line(message[SKIPPED]))

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
            "study": self.study.study_name,
            "seeds_per_trial": self.options.seeds_per_trial,
            "val_images": f"{scored} images" if scored == there else f"{scored} of {there} images",
            "skipped": [one._asdict() for one in (*self.task.job.shards.skipped, *load_skipped(self.folder))],
            "seconds": round(self.seconds, 1),
        }
        # The command is that of a run, whose checkpoints need not be a trial's.
        as_run = replace(self.config.train, checkpoint_every=self._full.train.checkpoint_every)
        config, gain = replace(self.config, train=as_run), self._gain(found)
        return write_best(self.folder, self._preset, config, self._full, self._start_values, found, gain, facts)

    def _gain(self, found: list[Record]) -> Gain | None:
        """Return what the best trial is above the baseline, if both have come to their end."""
        best, base = best_of(found), next((one for one in found if one.role == BASELINE), None)
        if best is None or base is None or base.state != "complete" or not best.seeds or not base.seeds:
            return None
        differences = np.array(best.seeds) - np.array(base.seeds)
        mean, number = float(differences.mean()), len(differences)
        if number > 1:
            return Gain(mean, number, float(differences.std(ddof=1) / number**0.5), None)
        counts = [self._counts(one) for one in (base, best)]
        if any(one is None for one in counts):
            return Gain(mean, number, None, None)
        interval = paired_bootstrap(counts[:1], counts[1:])  # type: ignore[arg-type]
        return Gain(mean, number, None, (interval.low, interval.high))

    def _counts(self, one: Record) -> Int64[np.ndarray, "image 3 class"] | None:
        file = seed_folder(self.task.folder / str(one.number), 0) / COUNTS
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as stored:
            counts: np.ndarray = stored["counts"]
            return counts

    def _tidy(self) -> None:
        """Keep the best trial's checkpoint, of its first seed, and those of running trials, no others."""
        found = records(self.study)
        best = best_of(found)
        for one in (one for one in found if one.state != "running"):
            place = self.task.folder / str(one.number)
            shutil.rmtree(place / TRAIN_FOLDER, ignore_errors=True)  # of a trainer that was stopped early
            for seed in range(self.options.seeds_per_trial):
                home = seed_folder(place, seed)
                newest = newest_checkpoint(home)
                if newest is None:
                    continue
                if (newest / COUNTS).exists():
                    (newest / COUNTS).rename(home / COUNTS)
                if one == best and seed == 0:
                    shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
                    newest.rename(self.folder / "checkpoint")
                for rest in (*home.glob("checkpoint-*"), home / "partial"):
                    shutil.rmtree(rest, ignore_errors=True)
