"""The contrast term, and what it hangs together with: warm-up, learning rate and the length of embeddings."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tune_spaces import contrast


def space(start: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the ranges.

    Warm-up ends by a quarter of the steps: there trials are first compared, and without contrast all would be alike.
    """
    steps, rate, length = start["train.steps"], start["train.lr"], start["model.projection_dim"]
    return {
        **contrast.space(start),
        "contrast.warmup_steps": IntDistribution(0, steps // 4),
        "train.lr": FloatDistribution(rate / 4, 4 * rate, log=True),
        "model.projection_dim": CategoricalDistribution([max(2, length // 2), length, 2 * length]),
    }
