"""What a search by TPE with early stopping finds, against random search without, for the same training steps.

    python benchmarks/search.py                          # three seeds, some 40 minutes on two cores
    python benchmarks/search.py                          # the same again: goes on where it was stopped
    python benchmarks/search.py --seeds 1 --trials 4 --steps 8    # a first look
    python benchmarks/search.py --overhead               # what a trial costs over the bare loop

Both sides are whole searches of `pipeline.search` on miniature data, each in a folder of its own below --out. Random
search trains `--trials` trials to their end. The other one gets twice as many, and what it does after as many
training steps as random search took is not counted. The figure is the share of those steps after which its best is as
good as random search's at the end; the target is a third.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.journey import find_data, prepare_data
from pipeline.options import Request, parse
from pipeline.search import make_task, search, trial_config
from pipeline.session import ray_session
from pipeline.train import Worker, set_up
from pipeline.tuning.options import SearchOptions
from pipeline.tuning.placing import find_places
from pipeline.tuning.study import BASELINE, open_study, records
from pipeline.tuning.trial import train_seeds

DATA = "mini-camvid"
SMALL = "--ingest.crop 96 96 --model.head_channels 32 --model.projection_dim 64 --contrast.memory_size 100"
PARTS = (1 / 6, 1 / 3, 1 / 2, 1)
SIDES = {
    "TPE + ASHA": {"sampler": "tpe", "early_stopping": True},
    "random": {"sampler": "random", "early_stopping": False},
}


class Progress(NamedTuple):
    """The best so far of a search."""

    steps: int
    """Training steps of all trials together, up to here."""
    miou: float


def run_search(side: str, seed: int, trials: int, steps: int, out: Path) -> list[Progress]:
    """Search, or go on with it, and return how its best grew."""
    options = SearchOptions(space="full", trials=trials, trial_steps=steps, **SIDES[side])  # type: ignore[arg-type]
    file = search(_request(side, seed, out)._replace(search=options), options)
    return best_by_steps(file.parent)


def _request(name: str, seed: int, out: Path) -> Request:
    here = out / f"{name.replace(' + ', '-').lower()}-seed{seed}"
    flags = ["--out", str(here), "--dataset", DATA, "--seed", str(seed), *SMALL.split(), "--search", "--space", "full"]
    return parse([*flags, "--resume"])


def best_by_steps(folder: Path) -> list[Progress]:
    """Return the best score of a search after each trial that came to its end, in the order of these."""
    study = open_study(folder)
    ended = {trial.number: trial.datetime_complete for trial in study.get_trials(deepcopy=False)}
    spent, best, found = 0, 0.0, []
    for one in sorted((one for one in records(study) if ended[one.number]), key=lambda one: ended[one.number]):  # type: ignore[arg-type, return-value]
        spent += one.step
        if one.state == "complete" and one.role != BASELINE:
            best = max(best, one.miou)
        found.append(Progress(spent, best))
    return found


def compare(seeds: int, trials: int, steps: int, out: Path) -> None:
    """Print best mIoU against steps of both sides, and the share of steps that the target is set for."""
    shares = []
    print(
        f"{'seed':>4} {'side':<11} {'steps':>6}  best mIoU % after 1/6, 1/3, 1/2 and all of the steps of random search"
    )
    for seed in range(seeds):
        plain = run_search("random", seed, trials, steps, out)
        ours = run_search("TPE + ASHA", seed, 2 * trials, steps, out)
        whole, target = plain[-1]
        for name, found in (("random", plain), ("TPE + ASHA", ours)):
            best = [max((p.miou for p in found if p.steps <= whole * part), default=0.0) for part in PARTS]
            shown = " ".join(f"{100 * miou:6.2f}" for miou in best)
            print(f"{seed:>4} {name:<11} {min(found[-1].steps, whole):>6}  {shown}", flush=True)
        reached = [p.steps for p in ours if p.miou >= target and p.steps <= whole]
        shares.append(reached[0] / whole if reached else float("inf"))
        print(f"     the best of random search ({100 * target:.2f}) after {shares[-1]:.2f} of its steps", flush=True)
    print(f"median over seeds: {statistics.median(shares):.2f} of the steps (target: at most 0.33)")


def overhead(steps: int, rounds: int, out: Path) -> None:
    """Print by how many seconds trials are longer than the same loops in this process.

    A trial lasts from when its settings are chosen to when its end is written down; the first one, which starts the
    process that the others use as well, comes apart.
    """
    request = _request("overhead", 0, out)
    options = SearchOptions(
        space="full", trials=rounds + 2, trial_steps=steps, concurrent=1, sampler="random", early_stopping=False
    )
    with ray_session():
        folder = search(request._replace(search=options), options).parent
        config = trial_config(request.config, options)
        shards = prepare_data(find_data(config, request.out), config, request.out)
        task = make_task(config, options, shards, folder / "bare", find_places(config, options))
        set_up(Worker().device, 1)
        study = open_study(folder)
        lasted = [
            (trial.datetime_complete - trial.datetime_start).total_seconds()
            for trial in study.get_trials(deepcopy=False)
            if trial.datetime_complete and trial.datetime_start
        ]
        bare = []
        for one in (records(study)[0], *records(study)):  # the first again: it warms this process up
            place = folder / "bare" / str(len(bare))
            place.mkdir(parents=True)
            begin = time.perf_counter()
            train_seeds(task, task.jobs(one.changes), place, Worker(), lambda result: None)
            bare.append(time.perf_counter() - begin)
            shutil.rmtree(place)
    more = [trial - alone for trial, alone in zip(lasted, bare[1:], strict=True)]
    for name, seconds in (("trials", lasted), ("loops ", bare[1:])):
        print(f"{name}: {' '.join(f'{value:.1f}' for value in seconds)} s")
    print(f"over its loop: first trial {more[0]:+.1f} s, others {statistics.median(more[1:]):+.1f} s (target: 2 s)")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="of random search")
    parser.add_argument("--steps", type=int, default=120, help="of a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-search"))
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.overhead:
        overhead(arguments.steps, arguments.rounds, arguments.out)
        return
    compare(arguments.seeds, arguments.trials, arguments.steps, arguments.out)


if __name__ == "__main__":
    main()
