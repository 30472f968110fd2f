"""What a reproduction comes to: the comparison of contrast and baseline, from the files that the runs left."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluate import STORED, load_evaluation
from pipeline.options import RESULT
from pipeline.report.text import digits_of
from pixcon_core.metrics import paired_bootstrap

METHODS = ("contrast", "baseline")


class Pair(NamedTuple):
    """Folders of two runs of one seed."""

    contrast: Path
    baseline: Path


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result in a run folder; None where there is none."""
    file = folder / RESULT
    result: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return result


def read_miou(folder: Path) -> float | None:
    """Return the mIoU in a run folder; None where there is none."""
    result = read_result(folder)
    return None if result is None or result["miou"] is None else float(result["miou"])


def summarise(pairs: Mapping[int, Pair]) -> dict[str, Any] | None:
    """Compare the two methods on one data set, over the seeds of which both runs have a result.

    Args:
        pairs: By seed.

    Returns:
        For JSON; None where there is no pair.
    """
    whole = {seed: pair for seed, pair in pairs.items() if None not in map(read_miou, pair)}
    if not whole:
        return None
    summary: dict[str, Any] = {"seeds": list(whole)}
    for method in METHODS:
        results = [result for pair in whole.values() if (result := read_result(getattr(pair, method))) is not None]
        mious = [float(result["miou"]) for result in results]
        summary[method] = {
            "miou": mious,
            "mean": fmean(mious),
            "std": std(mious),
            "images": min(result["images"] for result in results),
            "images_per_second": fmean([result["images_per_second"] for result in results]),
        }
    summary["difference"] = _difference(list(whole.values()))
    gains = [one - other for one, other in zip(*(summary[method]["miou"] for method in METHODS), strict=True)]
    summary["over_seeds"] = mean_interval(gains)
    return summary


def mean_interval(values: Sequence[float], level: float = 0.95) -> dict[str, float] | None:
    """Return a mean with its interval by Student's t; None of fewer than two values.

    Of paired gains it says what other seeds may give, if they scatter as these do.
    """
    from scipy.stats import t  # half a second

    if len(values) < 2:
        return None
    middle = fmean(values)
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": middle, "low": middle - half, "high": middle + half}


def _difference(pairs: list[Pair]) -> dict[str, float] | None:
    """Return the gain and its interval, over the images that all runs could read; None where there is none."""
    found = {method: [_counts(getattr(pair, method)) for pair in pairs] for method in METHODS}
    common = set.intersection(*(set(one) for runs in found.values() for one in runs))
    order = sorted(common)
    if not order:
        return None
    counts = {method: [np.stack([one[id_] for id_ in order]) for one in runs] for method, runs in found.items()}
    difference = paired_bootstrap(counts["baseline"], counts["contrast"])
    return None if any(map(math.isnan, difference)) else difference._asdict()


def _counts(folder: Path) -> dict[str, np.ndarray]:
    stored = load_evaluation(folder / STORED)
    return dict(zip(stored.ids, stored.counts, strict=True))


def format_summary(summary: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Return the comparison as a table of at most 80 columns.

    Args:
        summary: What `summarise` returns, by data set; None for one without a pair.
        notes: Lines below it.
    """
    width = max([19, *map(len, summary)])
    lines = [f"{'val mIoU %':<{width}}{'baseline':>13}{'contrast':>13}{'difference, 95 %':>23}{'images':>8}"]
    for dataset, found in summary.items():
        if found is None:
            lines.append(f"{dataset:<{width}}{'-':>13}{'-':>13}")
            continue
        base, treated = (mean_and_std(found[method]["miou"]) for method in ("baseline", "contrast"))
        images = found["contrast"]["images"]
        lines.append(f"{dataset:<{width}}{base:>13}{treated:>13}{_interval(found['difference']):>23}{images:>8}")
        if found["over_seeds"] is not None:
            lines.append(f"{'  over seeds':<{width}}{'':>26}{_interval(found['over_seeds']):>23}")
    return "\n".join([*lines, *notes])


def _interval(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return "-"
    digits = digits_of(difference)
    middle, low, high = (100 * difference[name] for name in ("mean", "low", "high"))
    return f"{middle:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def slower_by(summaries: Iterable[Mapping[str, Any] | None]) -> float | None:
    """Return how many times as long a step with contrast takes, on average over data sets."""
    ratios = [
        one["baseline"]["images_per_second"] / one["contrast"]["images_per_second"]
        for one in summaries
        if one is not None
    ]
    return fmean(ratios) if ratios else None


def std(values: list[float]) -> float | None:
    """Return the standard deviation of a sample; None of fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def mean_and_std(values: list[float]) -> str:
    """Return shares as per cent, for a table."""
    if not values:
        return "-"
    spread = std(values)
    return f"{100 * fmean(values):.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
