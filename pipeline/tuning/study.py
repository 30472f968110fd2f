"""The study of a search: an Optuna study on disk, the one place where all that was found lies.

Ray Tune's own state is neither kept nor read: searcher and scheduler below fill themselves from the study, so a search
that was killed goes on as it would have, early stopping included. The baseline without contrast is a trial of the study
too, but one without parameters: a weight of 0 lies in no logarithmic range.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION  # type: ignore[attr-defined, unused-ignore]
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from pipeline.tuning.space import Space, suggest
from pipeline.tuning.study_storage import open_storage
from pipeline.tuning.trial import FAILED, HOPELESS, MIOU, SECONDS, SEEDS, STEP

ROLE, CHANGES, ENDING = "role", "changes", "ending"
START, BASELINE = "start", "baseline"
NO_CONTRAST = {"contrast.weight": 0.0}
STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
DIED = "its process died, again and again; out of memory, if nothing else is known"
TRIES = 3
"""A trial whose process has died so often, without a new score in between, has failed."""
REDUCTION = 3
"""Of the trials that come to a rung, the best of so many go on."""


class Record(NamedTuple):
    """One trial, as the study has it."""

    number: int
    role: str
    """`start`, `baseline`, or nothing."""
    state: str
    """`complete`, `stopped` early, `failed`, or `running`: begun and not ended."""
    changes: dict[str, Any]
    """Its settings that differ from the start's, by full name."""
    points: dict[int, float]
    """mIoU by step."""
    seconds: float
    reason: str
    """Why it failed."""
    seeds: list[float]
    """mIoU of each seed at the last step."""

    @property
    def step(self) -> int:
        """The last step with a score."""
        return max(self.points, default=0)

    @property
    def miou(self) -> float:
        """The last score."""
        return self.points[self.step] if self.points else 0.0


def open_study(folder: Path, storage: str | None = None) -> optuna.Study:
    """Open the study of a run folder, in a storage given by URL or in the folder; make it where there is none yet.

    Raises:
        ValueError: If the storage cannot be used.
    """
    opened, name = open_storage(storage, folder)
    study = optuna.create_study(storage=opened, study_name=name, direction="maximize", load_if_exists=True)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if ENDING in trial.user_attrs:  # it was killed between the decision and its taking down
            _end(study, optuna.Trial(study, trial._trial_id), *trial.user_attrs[ENDING])
    return study


class Sampling(NamedTuple):
    """How trials choose."""

    seed: int = 0
    trials: int = 10
    is_random: bool = False

    def sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Return what chooses a trial's settings, by what is known of the others then.

        It is made anew for each trial, from its number: so one after a resume chooses as it would have without.
        """
        seed = 1000 * self.seed + number
        if self.is_random:
            return optuna.samplers.RandomSampler(seed=seed)
        # In groups: of trials with other parameters, the baseline for one, there need be no common ones.
        num_random = max(4, min(10, self.trials // 4))
        return optuna.samplers.TPESampler(n_startup_trials=num_random, multivariate=True, group=True, seed=seed)


def _end(study: optuna.Study, trial: optuna.Trial, state: str, step: int, miou: float) -> None:
    """Take down a trial's last score, and that it has ended."""
    if state != "failed" and step not in record(study._storage.get_trial(trial._trial_id)).points:
        trial.report(miou, step)
    # Of a trial that is pruned Optuna takes the last score by itself.
    study.tell(trial, miou if state == "complete" else None, STATES[state])


def enqueue_first(study: optuna.Study, start: dict[str, Any]) -> None:
    """Have the starting values tried first and the baseline second, if the study does not have them yet."""
    known = {trial.user_attrs.get(ROLE) for trial in study.trials}
    if START not in known:
        study.enqueue_trial(start, user_attrs={ROLE: START})
    if BASELINE not in known:
        study.enqueue_trial({}, user_attrs={ROLE: BASELINE, CHANGES: NO_CONTRAST})


def records(study: optuna.Study) -> list[Record]:
    """Return all trials that were begun, in their order."""
    return [record(trial) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]


def record(trial: FrozenTrial) -> Record:
    """Return one trial as a record."""
    names = {state: name for name, state in STATES.items()}
    attributes = trial.user_attrs
    return Record(
        trial.number,
        attributes.get(ROLE, ""),
        names.get(trial.state, "running"),
        attributes.get(CHANGES, dict(trial.params)),
        dict(trial.intermediate_values),
        attributes.get(SECONDS, 0.0),
        attributes.get(FAILED, ""),
        attributes.get(SEEDS, []),
    )


def best_of(found: list[Record]) -> Record | None:
    """Return the best trial with contrast that came to its last step; the earlier one of two alike."""
    ended = [one for one in found if one.state == "complete" and one.role != BASELINE]
    return max(ended, key=lambda one: (one.miou, -one.number), default=None)


class StudySearch(OptunaSearch):  # type: ignore[misc, unused-ignore]
    """Optuna as a searcher of Ray Tune's, that first goes on with trials that were begun.

    What the base class would do otherwise: a trial that was stopped early is told as pruned, not as complete, and TPE
    then compares it with others by its step first; scores are told by step, not by the number of reports.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        steps: int,
        sampling: Sampling,
        deaths: Counter[tuple[int, int]],
        on_change: Callable[[Record], None],
    ) -> None:
        super().__init__(
            lambda trial: suggest(trial, space),
            metric=MIOU,
            mode="max",
            study_name=study.study_name,
            storage=study._storage,
            sampler=sampling.sampler(0),
        )
        self._study, self._steps, self._sampling, self._on_change = study, steps, sampling, on_change
        self._deaths = deaths
        self._begun = [one for one in study.trials if one.state == TrialState.RUNNING]
        self.hopeless: str | None = None
        """Why no trial can go on, if so."""

    def suggest(self, trial_id: str) -> Any:
        """Return the parameters of `run_trial`."""
        if self.hopeless:
            return Searcher.FINISHED
        number = self._begun[0].number if self._begun else len(records(self._study))
        self._study.sampler = self._sampling.sampler(number)
        trial = optuna.Trial(self._study, self._begun.pop(0)._trial_id) if self._begun else self._study.ask()
        self._ot_trials[trial_id] = trial  # the base class takes it from there
        attributes = trial.user_attrs
        changes = attributes.get(CHANGES) or super().suggest(trial_id)
        return {"number": trial.number, ROLE: attributes.get(ROLE, ""), CHANGES: changes}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take a score down, once for each step."""
        trial = self._ot_trials[trial_id]
        # Tune asks the scheduler before: what comes here was let go on.
        if FAILED in result or result[STEP] in self._record(trial).points:
            return
        super().on_trial_result(trial_id, {**result, TRAINING_ITERATION: result[STEP]})
        for name in (SECONDS, SEEDS):
            trial.set_user_attr(name, result[name])
        self._on_change(self._record(trial))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take down how a trial ended."""
        trial, last = self._ot_trials[trial_id], result or {}
        if self._record(trial).state != "running":
            return
        if HOPELESS in last:  # it stays as begun, to be gone on with once the data are repaired
            self.hopeless = last[HOPELESS]
            return
        step, miou = last.get(STEP, 0), last.get(MIOU, 0.0)
        for name in (SECONDS, SEEDS):
            if name in last:
                trial.set_user_attr(name, last[name])
        if error:
            # Tried again here: Tune does not where a process dies that is about to be used for another trial.
            place = trial.number, self._record(trial).step
            self._deaths[place] += 1
            if self._deaths[place] < TRIES:
                self._begun.append(self._study._storage.get_trial(trial._trial_id))
                return
        if error or not step or FAILED in last:
            state = "failed"
            trial.set_user_attr(FAILED, last.get(FAILED, DIED))
        else:
            state = "complete" if step >= self._steps else "stopped"
        trial.set_user_attr(ENDING, (state, step, miou))
        _end(self._study, trial, state, step, miou)
        self._on_change(self._record(trial))

    def save(self, checkpoint_path: str) -> None:
        """Leave nothing but the file that Tune looks for: the study is on disk."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict[str, Any]:
        """Leave nothing for Tune to write down: the URL of a storage may have a password."""
        return {}

    def _record(self, trial: optuna.Trial) -> Record:
        return record(self._study._storage.get_trial(trial._trial_id))


class _Named(NamedTuple):
    """Stands for a trial before the scheduler: Ray's own names are new after each resume."""

    trial_id: str


class StudyScheduler(ASHAScheduler):  # type: ignore[misc, unused-ignore]
    """ASHA that knows the scores of a study, and never stops the start and the baseline: all are compared with them."""

    def __init__(self, steps: int, grace: int, found: list[Record]) -> None:
        super().__init__(time_attr=STEP, max_t=steps, grace_period=grace, reduction_factor=REDUCTION)
        # Tune passes these on to its scheduler, but only as it starts.
        super().set_search_properties(MIOU, "max")
        for one in found:
            self._refill(one)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept the objective, which is known already."""
        return True

    def _refill(self, one: Record) -> None:
        if one.state == "failed" or not one.points:
            return
        controller: Any = None  # ASHA does not look at it
        named: Any = _Named(str(one.number))
        super().on_trial_add(controller, named)
        for step in sorted(one.points):
            super().on_trial_result(controller, named, {STEP: step, MIOU: one.points[step]})

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Begin to watch a trial."""
        super().on_trial_add(tune_controller, _name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        if FAILED in result:
            return str(TrialScheduler.CONTINUE)  # it ends by itself
        decision = super().on_trial_result(tune_controller, _name(trial), result)
        is_kept = trial.config[ROLE] in (START, BASELINE) and result[STEP] < self._max_t
        return str(TrialScheduler.CONTINUE if is_kept else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let go of a trial."""
        if FAILED not in result:
            super().on_trial_complete(tune_controller, _name(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Let go of a trial that never ran."""
        super().on_trial_remove(tune_controller, _name(trial))


def _name(trial: Trial) -> Any:
    return _Named(str(trial.config["number"]))
