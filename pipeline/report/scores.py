"""Figures by data set: what contrast gained, in which classes, and which classes are taken for which."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from markupsafe import Markup

from pipeline.evaluate import STORED, Stored, load_evaluation
from pipeline.report.folder import BASELINE, CONTRAST, Dataset, Run
from pipeline.report.plots import intervals
from pipeline.report.text import digits_of, percent, signed

MANY_CLASSES = 30
"""With more, tables show those that matter most and fold the rest."""
NUM_PAIRS = 12
"""So many pairs of confused classes are listed."""
OTHER_SCORES = {
    "pixel_accuracy": "Pixel accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "frequency_weighted_iou": "Frequency-weighted IoU",
    "boundary_iou": "Boundary IoU",
}


class Headline(NamedTuple):
    """What is said first of a data set."""

    dataset: str
    images: int | None
    """Of the validation split."""
    seeds: list[int]
    miou: dict[str, list[float]]
    """By method, of each of its seeds, in 0..1."""
    difference: dict[str, float] | None
    """contrast - baseline: `mean`, `low`, `high`, in 0..1."""
    over_seeds: dict[str, float] | None
    """The same with the interval over seeds; None of one seed."""
    by_seed: list[float]
    """The same difference of each seed."""
    sentence: str
    warning: str
    """What keeps these figures from saying more; empty where nothing does."""

    @property
    def mean_difference(self) -> float | None:
        """Mean over seeds of contrast - baseline."""
        if self.difference is not None:
            return self.difference["mean"]
        return float(np.mean(self.by_seed)) if self.by_seed else None

    @property
    def digits(self) -> int:
        """After the point, of differences."""
        return digits_of(self.difference)


class ClassRow(NamedTuple):
    """A class's IoU by method, mean over seeds, in 0..1; None where it occurs nowhere."""

    name: str
    colour: str
    iou: dict[str, float | None]
    difference: float | None


class Classes(NamedTuple):
    """The table of classes."""

    shown: list[ClassRow]
    folded: list[ClassRow]


class Pair(NamedTuple):
    """A class that is taken for another one."""

    truth: str
    prediction: str
    share_of_class: dict[str, float]
    """By method: of the pixels that are `truth`."""
    share_of_all: float
    """Of all pixels, by the method that is shown."""


class Confusion(NamedTuple):
    """The confusion of a method, and what it confuses most."""

    method: str
    names: list[str]
    shares: Float[np.ndarray, "truth prediction"]
    """Of each row; NaN where a class does not occur."""
    pairs: list[Pair]
    runs: int
    """Whose matrices were added up."""


def headline(dataset: Dataset) -> Headline:
    """Return what is said first of a data set that has a result."""
    runs = [run for method in dataset.methods for run in dataset.finished(method)]
    miou = {
        method: [value for run in dataset.finished(method) if (value := _miou(run)) is not None]
        for method in dataset.methods
    }
    by_seed = [
        after - before
        for baseline, contrast in dataset.pairs()
        if (before := _miou(baseline)) is not None and (after := _miou(contrast)) is not None
    ]
    images = next((int(run.result["images"]) for run in runs if run.result and run.result.get("images")), None)
    seeds = sorted({run.seed for run in runs})
    warnings = [
        "drawn miniature images, not photographs" if dataset.kind == "miniature" else "",
        _shortened(dataset, runs),
        "one seed, and the interval knows nothing of others" if len(by_seed) == 1 else "",
    ]
    return Headline(
        dataset.name,
        images,
        seeds,
        miou,
        dataset.difference,
        dataset.over_seeds,
        by_seed,
        verdict(dataset.difference, by_seed, dataset.methods, dataset.over_seeds),
        "; ".join(filter(None, warnings)),
    )


def verdict(
    difference: dict[str, float] | None,
    by_seed: list[float],
    methods: list[str],
    over_seeds: dict[str, float] | None = None,
) -> str:
    """Say in a sentence what contrast gained: nothing that one of the intervals, by images or by seeds, leaves open."""
    if not by_seed:
        missing = [method for method in (BASELINE, CONTRAST) if method not in methods]
        if missing:
            return f"Nothing to compare with: there is no finished run of {' or '.join(missing)}."
        return "Nothing to compare: no seed has both a baseline and a contrast run."
    if difference is None:
        return f"{signed(float(np.mean(by_seed)))} points of mIoU; no interval was computed."
    digits, mean = digits_of(difference), difference["mean"]
    intervals_by = {"images": difference, **({"seeds": over_seeds} if over_seeds is not None else {})}
    texts = [
        f"{signed(one['low'], digits)} to {signed(one['high'], digits)} by {name}" for name, one in intervals_by.items()
    ]
    interval = f"95 % interval {', '.join(texts)}"
    if all(one["low"] > 0 for one in intervals_by.values()):
        return f"Contrast gained {percent(mean, digits)} points of mIoU ({interval})."
    if all(one["high"] < 0 for one in intervals_by.values()):
        return f"Contrast lost {percent(-mean, digits)} points of mIoU ({interval})."
    with_zero = [name for name, one in intervals_by.items() if one["low"] <= 0 <= one["high"]]
    why = f"0 lies in that by {' and by '.join(with_zero)}" if with_zero else "they contradict each other"
    return f"No difference shown: {signed(mean, digits)} points of mIoU ({interval}; {why})."


def interval_chart(headlines: list[Headline]) -> Markup | None:
    """Return the differences of all data sets beside a line at 0."""
    rows = []
    for one in headlines:
        if one.difference is not None:
            found = [by for by in (one.difference, one.over_seeds) if by is not None]
            rows.append(
                (one.dataset, 100 * one.difference["mean"], [(100 * by["low"], 100 * by["high"]) for by in found])
            )
    if not rows:
        return None
    alt = "Difference in mIoU, contrast minus baseline, with 95 % interval by images, of several seeds over seeds too: "
    alt += "; ".join(
        f"{name} {mean:+.1f} points, " + ", ".join(f"{low:+.1f} to {high:+.1f}" for low, high in ends)
        for name, mean, ends in rows
    )
    return intervals(alt, rows, x="mIoU, contrast - baseline, points")


def class_table(dataset: Dataset, colours: dict[str, str]) -> Classes:
    """Return IoU by class; of many classes, those that changed most first and the rest folded."""
    by_method = {method: _class_iou(dataset.finished(method)) for method in dataset.methods}
    names = list(next(iter(by_method.values())))
    rows = []
    for name in names:
        iou = {method: found.get(name) for method, found in by_method.items()}
        before, after = iou.get(BASELINE), iou.get(CONTRAST)
        difference = None if before is None or after is None else after - before
        rows.append(ClassRow(name, colours.get(name, ""), iou, difference))
    if len(rows) <= MANY_CLASSES:
        return Classes(rows, [])
    rows.sort(key=lambda row: (row.difference is None, -abs(row.difference or 0)))
    return Classes(rows[:MANY_CLASSES], rows[MANY_CLASSES:])


def other_scores(dataset: Dataset) -> list[tuple[str, dict[str, float]]]:
    """Return the scores besides mIoU: name, and mean over seeds by method, in 0..1."""
    return [(title, means) for key, title in OTHER_SCORES.items() if (means := _means(dataset, key))]


def training_speed(dataset: Dataset) -> dict[str, float]:
    """Return images trained per second by method, mean over seeds."""
    return _means(dataset, "images_per_second")


def _means(dataset: Dataset, key: str) -> dict[str, float]:
    means = {}
    for method in dataset.methods:
        values = [run.result.get(key) for run in dataset.finished(method) if run.result]
        if values and None not in values:
            means[method] = float(np.mean(np.array(values, dtype=float)))
    return means


def confusion(dataset: Dataset) -> Confusion:
    """Return the confusion of contrast, or of the one method that there is, added up over seeds.

    Raises:
        ValueError: If no run has its counts.
    """
    totals: dict[str, Int64[np.ndarray, "truth prediction"]] = {}
    counted: dict[str, int] = {}
    for method in dataset.methods:
        matrices = [one.confusion for run in dataset.finished(method) if (one := evaluation(run)) is not None]
        if matrices:
            totals[method], counted[method] = np.sum(matrices, axis=0), len(matrices)
    if not totals:
        raise ValueError(f"no run has {STORED}")
    method = CONTRAST if CONTRAST in totals else next(iter(totals))
    names = _class_names(dataset)
    shares = {one: _rows_of_one(matrix) for one, matrix in totals.items()}
    wrong = totals[method] * (1 - np.eye(len(names), dtype=np.int64))
    largest = [place for place in np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS] if wrong.flat[place]]
    pairs = []
    for place in largest:
        truth, prediction = divmod(int(place), len(names))
        pairs.append(
            Pair(
                names[truth],
                names[prediction],
                {one: float(found[truth, prediction]) for one, found in shares.items()},
                float(wrong[truth, prediction] / totals[method].sum()),
            )
        )
    return Confusion(method, names, shares[method], pairs, counted[method])


def evaluation(run: Run) -> Stored | None:
    """Return what each image adds to the scores of a run; None where that was not kept."""
    try:
        return load_evaluation(run.folder / STORED)
    except ValueError:
        return None


def _shortened(dataset: Dataset, runs: list[Run]) -> str:
    """Say that runs were shorter than those of the preset, if they were."""
    steps = next((run.result["steps"] for run in runs if run.result and "steps" in run.result), None)
    if dataset.full_steps is None or steps is None or steps >= dataset.full_steps:
        return ""
    return f"shortened training, {steps} of {dataset.full_steps} steps"


def _miou(run: Run) -> float | None:
    return None if run.result is None else run.result.get("miou")


def _class_names(dataset: Dataset) -> list[str]:
    runs = [run for method in dataset.methods for run in dataset.finished(method)]
    return list(runs[0].result["per_class_iou"]) if runs and runs[0].result else []


def _class_iou(runs: list[Run]) -> dict[str, float | None]:
    """Return the mean over the runs in which a class has an IoU."""
    values: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in (run.result or {}).get("per_class_iou", {}).items():
            values.setdefault(name, []).extend([] if value is None else [value])
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _rows_of_one(matrix: Int64[np.ndarray, "truth prediction"]) -> Float[np.ndarray, "truth prediction"]:
    totals = matrix.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    return shares
