"""What TPE should be told of trials that ASHA stopped early: three ways, on a made-up objective.

    python benchmarks/early_stopping.py                         # some minutes
    python benchmarks/early_stopping.py --seeds 5 --trials 24   # a first look

Nothing is trained. Five settings have a hidden best place; trials come near to their final score as learning curves do,
some faster than others, so that curves cross now and then, and scores have noise. Searcher, sampler and early stopping
are those of `pipeline.tuning.study`, one trial at a time, with the start first and the baseline second. Told are

pruned     stopped trials as pruned, which TPE puts behind all complete ones, those that came further first
complete   stopped trials as complete, with their last score
equal      all trials as complete, with the score at the first rung, where all can be compared
no stop    nothing is stopped

and `random` draws instead, with early stopping. The figure is how far the true final score of the trial that is called
best lies below the best there is, in points of mIoU: mean and standard error over seeds, lower is better.

With the defaults, 30 seeds (ray 2.60, optuna 5.0):

    trials  told        below the best  steps
        24  pruned         2.54 ± 0.16    177
        24  complete       2.54 ± 0.16    177  +0.00 ± 0.00 against pruned
        24  equal          3.41 ± 0.27    190  +0.88 ± 0.29 against pruned
        24  no stop        2.45 ± 0.17    288  -0.08 ± 0.17 against pruned
        24  random         4.00 ± 0.28    143  +1.46 ± 0.33 against pruned
        40  pruned         1.93 ± 0.12    304
        40  complete       1.93 ± 0.12    304  +0.00 ± 0.00 against pruned
        40  equal          2.75 ± 0.20    324  +0.82 ± 0.22 against pruned
        40  no stop        1.92 ± 0.14    480  -0.01 ± 0.10 against pruned
        40  random         3.42 ± 0.24    233  +1.48 ± 0.28 against pruned

TPE looks at which trials are the best tenth, and at nothing else of their scores; the last score of a stopped trial was
never among these, so pruned and complete are the same to it. First-rung scores are worse news than final ones. So
`pipeline.tuning.study` tells pruned: the same choices, and the study says which trials were stopped. Up to ten trials,
all ways are the same but random.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import TrialState

from pipeline.tuning.study import BASELINE, START, Sampling, StudyScheduler

STEPS, RUNG = 12, 3
"""A trial's steps; scored at each rung, four times as in a search."""
NAMES = ("temperature", "weight", "hard_anchor_ratio", "max_views", "memory_size")


class Objective:
    """Final score and learning curve of each place in the unit cube."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._best = self._rng.uniform(0.15, 0.85, len(NAMES))
        # Some settings matter, some hardly, as in every search.
        self._weights = self._rng.permutation([0.10, 0.05, 0.03, 0.01, 0.005])
        self._slow = self._rng.normal(0, 1, len(NAMES))

    top = 0.60

    def final(self, place: np.ndarray) -> float:
        """Return the score without noise, after the last step."""
        away = np.abs(place - self._best)
        return float(self.top - (self._weights * np.minimum(away * 2, 1.5)).sum() - 0.05 * away[0] * away[1])

    def curve(self, place: np.ndarray) -> dict[int, float]:
        """Return the scores by step, with noise."""
        pace = 0.25 * np.exp(0.25 * float(self._slow @ (place - 0.5)))
        shift = self._rng.normal(0, 0.004)  # of the seed of its training
        steps = range(RUNG, STEPS + 1, RUNG)
        return {
            step: self.final(place) * float((1 - np.exp(-step / (pace * STEPS))) / (1 - np.exp(-1 / pace)))
            + shift
            + self._rng.normal(0, 0.003)
            for step in steps
        }


class _Trial(NamedTuple):
    """Stands for one of Ray Tune's before the scheduler."""

    trial_id: str
    config: dict[str, Any]


class Found(NamedTuple):
    regret: float
    steps: int


def search(seed: int, num_trials: int, *, told: str, stops: bool, is_random: bool = False) -> Found:
    """Search once."""
    objective, scheduler = Objective(seed), StudyScheduler(STEPS, RUNG, [])
    study, sampling = optuna.create_study(direction="maximize"), Sampling(seed, num_trials, is_random)
    space = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in NAMES}
    study.enqueue_trial(dict.fromkeys(NAMES, 0.5), user_attrs={"role": START})
    study.enqueue_trial({}, user_attrs={"role": BASELINE})
    best, regret, spent = -np.inf, np.inf, 0
    for number in range(num_trials):
        study.sampler = sampling.sampler(number)
        trial = study.ask()
        role = trial.user_attrs.get("role", "")
        named: Any = _Trial(str(number), {"number": number, "role": role})
        if role == BASELINE:
            place = np.full(len(NAMES), 0.5)
        else:
            place = np.array([trial.suggest_float(name, d.low, d.high) for name, d in space.items()])
        scheduler.on_trial_add(None, named)
        curve, scores = objective.curve(place), {}
        for step, score in curve.items():
            scores[step] = score - (0.02 if role == BASELINE else 0.0)
            decision = scheduler.on_trial_result(None, named, {"step": step, "miou": scores[step]})
            if decision == "STOP" and stops:
                break
        last = max(scores)
        spent += last
        for step, score in scores.items():
            trial.report(score, step)
        if last == STEPS and role != BASELINE and scores[last] > best:
            best, regret = scores[last], objective.top - objective.final(place)
        if told == "equal":
            study.tell(trial, scores[RUNG])
        elif last == STEPS or told == "complete":
            study.tell(trial, scores[last])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return Found(100 * regret, spent)


WAYS: dict[str, Callable[[int, int], Found]] = {
    "pruned": lambda seed, n: search(seed, n, told="pruned", stops=True),
    "complete": lambda seed, n: search(seed, n, told="complete", stops=True),
    "equal": lambda seed, n: search(seed, n, told="equal", stops=True),
    "no stop": lambda seed, n: search(seed, n, told="complete", stops=False),
    "random": lambda seed, n: search(seed, n, told="pruned", stops=True, is_random=True),
}


def main() -> None:
    """Print a line for each way and number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, nargs="+", default=[24, 40])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{'trials':>6}  {'told':<9} {'below the best':>16} {'steps':>6}")
    for number in arguments.trials:
        first: list[float] = []
        for name, way in WAYS.items():
            found = [way(seed, number) for seed in range(arguments.seeds)]
            regrets = [one.regret for one in found]
            first = first or regrets
            error = statistics.stdev(regrets) / len(regrets) ** 0.5
            gaps = [a - b for a, b in zip(regrets, first, strict=True)]
            paired = f"  {statistics.mean(gaps):+.2f} ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.2f} against pruned"
            print(
                f"{number:>6}  {name:<9} {statistics.mean(regrets):>9.2f} ± {error:.2f}"
                f" {statistics.mean(one.steps for one in found):>6.0f}{paired if name != 'pruned' else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()
