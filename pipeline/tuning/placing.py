"""How many trials run at once, and what Ray sets aside for each."""

import math
from typing import NamedTuple

from pipeline.cores import num_cores
from pipeline.growth import TooSmallError, reachable_resources
from pipeline.training.fit import wants_gpu
from pipeline.tuning.options import SearchOptions
from pixcon_core.config import RunConfig

OWN_CPU = 0.01
"""Of a trial whose workers do the work; Ray refuses none at all."""
AT_ONCE = 4


class Places(NamedTuple):
    """Room for trials."""

    at_once: int
    trial: dict[str, float]
    """Set aside for a trial's own process."""
    worker: dict[str, float] | None
    """Set aside for each of its workers, where it has several."""
    use_gpu: bool


def check_places(config: RunConfig, options: SearchOptions) -> None:
    """Refuse what fits no machine.

    Raises:
        ValueError: If so.
    """
    gpus, workers = options.gpus_per_trial, config.train.num_workers
    if config.train.min_workers is not None:
        raise ValueError(
            f"train.min_workers is {config.train.min_workers}, but trials of a search have a fixed number of workers."
            " Leave it out."
        )
    if gpus is None:
        return
    if gpus and config.train.device == "cpu":
        raise ValueError(f"--gpus_per_trial is {gpus:g}, but train.device is cpu. Leave one of them out.")
    if not gpus and config.train.device == "cuda":
        raise ValueError("--gpus_per_trial is 0, but train.device is cuda. Leave one of them out.")
    if workers > 1 and gpus not in (0, workers):
        raise ValueError(
            f"--gpus_per_trial must be {workers}, one for each of train.num_workers, or 0, but got {gpus:g}. Only"
            " trials of one worker can share a GPU."
        )
    if workers == 1 and gpus > 1:
        raise ValueError(
            f"--gpus_per_trial must be at most 1, since a worker computes on one GPU, but got {gpus:g}. For more:"
            f" --train.num_workers {math.ceil(gpus)}."
        )


def find_places(config: RunConfig, options: SearchOptions) -> Places:
    """Return how trials are placed on the cluster that there is.

    Raises:
        ValueError: If they do not fit; Ray would wait for ever.
    """
    workers = config.train.num_workers
    use_gpu = options.gpus_per_trial != 0 and wants_gpu(config.train)
    if options.gpus_per_trial and not use_gpu:
        raise TooSmallError(f"--gpus_per_trial is {options.gpus_per_trial:g}, but Ray sees no GPU, or too few.")
    resources = reachable_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources["CPU"])
    cpus_each = options.cpus_per_trial or float(workers)
    # Images are read beside the trials, with one CPU at least.
    room_cpus = int((cpus - 1) / cpus_each + 1e-9)
    wanted = options.concurrent
    gpus_each = options.gpus_per_trial or (_share(gpus, wanted) if use_gpu and workers == 1 else float(workers))
    room_gpus = _fits(gpus, gpus_each) if use_gpu else room_cpus
    at_once = wanted or min(room_gpus if use_gpu else max(1, min(AT_ONCE, num_cores() // workers)), room_cpus)
    if at_once > room_cpus or at_once < 1:
        raise TooSmallError(
            f"{max(at_once, 1)} trials at once of {cpus_each:g} CPUs each are too many for the CPUs that Ray has"
            f" ({cpus}), of which one is left to read images. Lower --concurrent, --cpus_per_trial or"
            " train.num_workers."
        )
    if at_once > room_gpus:
        raise TooSmallError(
            f"--concurrent {at_once} with {gpus_each:g} GPUs a trial is more than the GPUs that Ray has ({gpus}) take."
        )
    at_once = min(at_once, options.trials)
    gpu = {"gpu": gpus_each} if use_gpu else {}
    if workers == 1:
        return Places(at_once, {"cpu": cpus_each, **gpu}, None, use_gpu)
    each = {"CPU": cpus_each / workers, **({"GPU": 1.0} if use_gpu else {})}
    return Places(at_once, {"cpu": OWN_CPU}, each, use_gpu)


def _share(gpus: int, at_once: int | None) -> float:
    """Return the part of a GPU that so many trials of one worker get each."""
    return 1.0 if at_once is None else 1 / max(1, math.ceil(at_once / gpus))


def _fits(gpus: int, each: float) -> int:
    """Return how many trials fit; a part of a GPU cannot be put together of two."""
    return gpus * int(1 / each + 1e-9) if each < 1 else int(gpus / each)
