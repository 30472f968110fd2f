"""Whether the disk has room for the checkpoints of many runs, seen before they begin."""

import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pipeline.estimating.memory import bank_bytes, state_bytes
from pipeline.estimating.trace import on_meta
from pixcon_core.config import RunConfig

STATES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimiser keeps for each weight."""


@lru_cache  # some seconds for a large network, and runs of other seeds are alike
def checkpoint_bytes(config: RunConfig, num_classes: int) -> int:
    """Return about how large a checkpoint is: weights, the optimiser's numbers, average and contrast memory."""
    has_contrast = config.contrast.weight > 0
    weights = state_bytes(on_meta(config.model, num_classes, projection=has_contrast))
    copies = 1 + STATES[config.train.optimizer] + (config.train.ema_decay is not None)
    return copies * weights + (bank_bytes(config, num_classes) if has_contrast else 0)


def check_disk(folder: Path, sizes: Iterable[int]) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        folder: Where checkpoints will be; it need not be there yet.
        sizes: Of the checkpoint of each run. While a run writes one it has two.

    Raises:
        ValueError: If they do not fit.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    listed = list(sizes)
    needed, free = sum(listed) + max(listed, default=0), shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"--out: the checkpoints of {len(listed)} runs take about {needed / 1e9:.1f} GB, but {there} has"
            f" {free / 1e9:.1f} GB free. Name another folder, or fewer --datasets or --seeds."
        )
