"""Training curves: losses and what the contrast term sees, by step."""

from typing import Any

from markupsafe import Markup

from pipeline.report.folder import BASELINE, CONTRAST, Dataset
from pipeline.report.plots import FIRST, SECOND, Line, chart

LOOK = {BASELINE: (FIRST, "--"), CONTRAST: (SECOND, "-")}
"""Colour and line of a method, in all charts."""


def curves(dataset: Dataset) -> list[Markup]:
    """Return the charts of a data set's runs that there are."""
    found: dict[str, list[list[dict[str, Any]]]] = {
        method: [lines for run in dataset.finished(method) if (lines := run.metrics())] for method in dataset.methods
    }
    charts = [_by_method(dataset.name, found)]
    # Before it begins, the contrast term has neither a loss nor pairs to compare.
    runs = [[line for line in lines if line.get("contrast/anchors")] for lines in found.get(CONTRAST, [])]
    contrast = [
        Line(_steps(lines, "contrast"), _values(lines, "contrast"), colour=SECOND, width=1.4, alpha=0.8)
        for lines in runs
    ]
    if any(len(line.x) for line in contrast):
        alt = f"Contrast loss by step on {dataset.name}: {_ends(contrast)}."
        charts.append(chart(alt, contrast, x="step", y="contrast loss, nats"))
    similarity = []
    for place, lines in enumerate(runs):
        for key, label, colour, style in (
            ("contrast/positive_similarity", "same class", SECOND, "-"),
            ("contrast/negative_similarity", "other classes", FIRST, "--"),
        ):
            steps, values = _steps(lines, key), _values(lines, key)
            similarity.append(Line(steps, values, "" if place else label, colour, style, 1.4, 0.8))
    similarity = [line for line in similarity if len(line.x)]
    if similarity:
        alt = (
            f"Cosine similarity of anchors with keys of the same class ({_ends(similarity[::2])}) and of other classes"
            f" ({_ends(similarity[1::2])}) on {dataset.name}, by step."
        )
        charts.append(chart(alt, similarity, x="step", y="cosine similarity of embeddings"))
    return [one for one in charts if one is not None]


def _by_method(name: str, found: dict[str, list[list[dict[str, Any]]]]) -> Markup | None:
    series = []
    for method, runs in found.items():
        colour, style = LOOK[method]
        for place, lines in enumerate(runs):
            steps, values = _steps(lines, "cross_entropy"), _values(lines, "cross_entropy")
            series.append(Line(steps, values, "" if place else method, colour, style, 1.4, 0.8))
    series = [line for line in series if len(line.x)]
    if not series:
        return None
    ends = "; ".join(
        f"{method} {_ends([Line(_steps(run, 'cross_entropy'), _values(run, 'cross_entropy')) for run in runs])}"
        for method, runs in found.items()
    )
    return chart(f"Cross-entropy by training step on {name}: {ends}.", series, x="step", y="cross-entropy, nats")


def _steps(lines: list[dict[str, Any]], key: str) -> list[float]:
    return [line["step"] for line in lines if isinstance(line.get(key), int | float)]


def _values(lines: list[dict[str, Any]], key: str) -> list[float]:
    return [line[key] for line in lines if isinstance(line.get(key), int | float)]


def _ends(lines: list[Line]) -> str:
    """Say where some lines begin and end."""
    return ", ".join(f"from {line.y[0]:.2f} to {line.y[-1]:.2f}" for line in lines if len(line.y))
