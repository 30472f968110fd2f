"""Scores as JSON has them, and as a table."""

import math
from collections.abc import Sequence
from typing import Any

from pixcon_core.metrics import Scores

TOTALS = {
    "miou": "mIoU",
    "boundary_iou": "boundary IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "class accuracy",
    "frequency_weighted_iou": "weighted IoU",
}
"""Fields of a result, and what the table calls them."""


def score_fields(classes: Sequence[str], scores: Scores) -> dict[str, Any]:
    """Return scores as fields of a `result.json`, each in 0..1; null where there is none."""
    return {
        "void": "left out",
        **{name: _number(getattr(scores, name)) for name in TOTALS},
        "per_class_iou": dict(zip(classes, map(_number, scores.per_class_iou), strict=True)),
        "per_class_boundary_iou": dict(zip(classes, map(_number, scores.per_class_boundary_iou), strict=True)),
    }


def print_scores(result: dict[str, Any]) -> None:
    """Print the scores of a result as a table."""
    width = max(14, *map(len, result["per_class_iou"]))
    boundary = result.get("per_class_boundary_iou", {})  # results of earlier versions have none
    line = "-" * (width + 21)
    print(f"\n{'class':<{width}}  IoU %  boundary IoU %\n{line}")
    for name, iou in result["per_class_iou"].items():
        print(f"{name:<{width}}  {_percent(iou)}  {_percent(boundary.get(name)):>14}")
    print(line)
    for name, title in TOTALS.items():
        if name in result:
            print(f"{title:<{width}}  {_percent(result[name])}")


def _number(value: float | None) -> float | None:
    """Return a number that JSON has: NaN is not one."""
    return None if value is None or math.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"
