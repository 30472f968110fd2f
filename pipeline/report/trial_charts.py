"""Charts of a search: trials in their order, by step, and by the value of each setting."""

import math

from markupsafe import Markup

from pipeline.report.folder import BASELINE
from pipeline.report.plots import FIRST, INK, MUTED, SECOND, Line, Points, chart
from pipeline.report.text import short
from pipeline.report.trials import Search
from pipeline.tuning.study import Record

STATES = {"complete": (SECOND, "o"), "stopped": (MUTED, "v"), "failed": (INK, "x"), "running": (MUTED, "+")}
"""How a trial ended: colour and mark."""


def history(trials: list[Record]) -> Markup | None:
    """Return the score of each trial, and the best of the complete ones so far."""
    scored = [one for one in trials if one.points]
    if not scored:
        return None
    series: list[Line | Points] = []
    best: list[tuple[int, float]] = []
    for one in trials:
        if one.state == "complete" and one.role != BASELINE:
            best.append((one.number, max(one.miou, best[-1][1] if best else 0.0)))
    if best:
        best.append((trials[-1].number, best[-1][1]))  # those after it had no more
        xs, ys = zip(*best, strict=True)
        series.append(Line(xs, [100 * y for y in ys], "best so far", SECOND, width=1.4))
    base = next((one.miou for one in trials if one.role == BASELINE and one.state == "complete"), None)
    if base is not None:
        ends = [trials[0].number, trials[-1].number]
        series.append(Line(ends, [100 * base] * 2, "without contrast", FIRST, "--", 1.4))
    for state, (colour, marker) in STATES.items():
        mine = [one for one in scored if one.state == state and one.role != BASELINE]
        if mine:
            series.append(Points([one.number for one in mine], [100 * one.miou for one in mine], state, colour, marker))
    reached = f"; the best complete one has {100 * best[-1][1]:.1f} %" if best else ""
    without = f", without contrast {100 * base:.1f} %" if base is not None else ""
    alt = f"mIoU of {len(scored)} trials in their order{reached}{without}."
    return chart(alt, series, x="trial", y="val mIoU, %")


def by_step(trials: list[Record]) -> Markup | None:
    """Return the scores of each trial while it was trained."""
    lines = []
    labelled: set[str] = set()
    for one in trials:
        if not one.points:
            continue
        what = "without contrast" if one.role == BASELINE else one.state
        colour = FIRST if one.role == BASELINE else STATES[one.state][0]
        style = "--" if one.role == BASELINE else "-"
        steps = sorted(one.points)
        label = "" if what in labelled else what
        labelled.add(what)
        marks = [100 * one.points[step] for step in steps]
        lines.append(Line(steps, marks, label, colour, style, 1.4, 0.8))
    if not lines or max(len(line.x) for line in lines) < 2:
        return None
    alt = f"mIoU by training step of {len(lines)} trials: " + "; ".join(
        f"{what} {sum(one.state == what for one in trials)}"
        for what in STATES
        if any(one.state == what for one in trials)
    )
    return chart(alt, lines, x="step", y="val mIoU, %")


def slices(search: Search) -> list[Markup]:
    """Return mIoU by the value of each setting, of trials with contrast at the step that importance is of."""
    if search.importance is None:
        return []
    step = search.importance.step
    there = [one for one in search.trials if one.role != BASELINE and step in one.points]
    charts = []
    for name in search.settings:
        mine = [(one.changes[name], 100 * one.points[step]) for one in there if name in one.changes]
        if len(mine) < 2:
            continue
        mine.sort(key=lambda pair: (str(type(pair[0])), pair[0] if _is_number(pair[0]) else str(pair[0])))
        values, scores = zip(*mine, strict=True)
        numeric = all(_is_number(value) for value in values)
        (low, worst), (high, best) = (choose(mine, key=lambda pair: pair[1]) for choose in (min, max))
        alt = (
            f"mIoU at step {step} by {name}, of {len(mine)} trials: from {worst:.1f} % at {short(low)} to {best:.1f} %"
            f" at {short(high)}."
        )
        xs = values if numeric else [str(value) for value in values]
        log = numeric and name in search.logarithmic and all(value > 0 for value in values)
        charts.append(chart(alt, [Points(xs, scores, colour=SECOND)], x=name, y="val mIoU, %", log_x=log))
    return charts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
