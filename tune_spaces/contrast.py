"""The contrast term: how sharp it is, how much it weighs, what it remembers and which pixels ask."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution


def space(start: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the ranges; those of counts lie around the start, which goes with the size of network and data."""
    memory, views = start["contrast.memory_size"], start["contrast.max_views"]
    return {
        "contrast.temperature": FloatDistribution(0.03, 1.0, log=True),
        "contrast.weight": FloatDistribution(0.01, 3.0, log=True),
        "contrast.hard_anchor_ratio": FloatDistribution(0.0, 1.0),
        "contrast.max_views": IntDistribution(max(1, views // 10), 2 * views, log=True),
        "contrast.memory_size": IntDistribution(max(1, memory // 4), 4 * memory, log=True),
    }
