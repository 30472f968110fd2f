"""The grids of the paper's ablations: temperature, keys, how keys are drawn, and how anchors are.

Source: Wang et al., ICCV 2021, the ablation tables; temperatures as in the released logs.
"""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution


def space(start: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the choices; they are the same whatever the start is."""
    return {
        "contrast.temperature": CategoricalDistribution([0.05, 0.07, 0.1, 0.2, 0.3, 0.4]),
        "contrast.keys": CategoricalDistribution(["batch", "pixel", "region", "pixel+region"]),
        "contrast.key_sampling": CategoricalDistribution(["random", "hardest", "semi_hard"]),
        "contrast.hard_anchor_ratio": CategoricalDistribution([None, 0.5]),
    }
