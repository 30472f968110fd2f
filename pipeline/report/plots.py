"""Charts as SVG that is part of the page: its text is text, and its colours are those of the page, light or dark."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Colours that no chart has by chance, and what becomes of them in the page. Series differ in lightness as well, so
# that they can be told apart without seeing colours.
INK, GRID, FIRST, SECOND, MUTED = "#010201", "#010301", "#010401", "#010501", "#010601"
_VARIABLES = {INK: "--ink", GRID: "--line", FIRST: "--first", SECOND: "--second", MUTED: "--muted"}
WIDTH, HEIGHT = 4.6, 2.9
"""Inches of a chart: as wide as a phone, where its text has the size of the page's."""
HALO = "halo"
"""Class of text that is to be read on top of marks."""
MAX_TALL = 1.2
"""Height of a map for its width, at most."""
MAX_POINTS = 150
"""Points of a line; of longer ones, means of so many parts."""


class Line(NamedTuple):
    """A line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    """Shown in the legend."""
    colour: str = FIRST
    style: str = "-"
    width: float = 1.8
    alpha: float = 1.0


class Points(NamedTuple):
    """Marks of a chart."""

    x: Sequence[Any]
    y: Sequence[float]
    label: str = ""
    colour: str = FIRST
    marker: str = "o"


def chart(
    alt: str,
    series: Sequence[Line | Points],
    *,
    x: str,
    y: str,
    log_x: bool = False,
) -> Markup:
    """Return lines and marks over two axes.

    Args:
        alt: What is to be seen, for those who do not.
        series: In the order in which they are drawn.
        x: Name of the axis, with its unit.
        y: The same.
        log_x: Whether that axis is logarithmic.
    """
    with _style():
        figure, axes = _axes((WIDTH, HEIGHT))
        for one in series:
            if isinstance(one, Line):
                xs, ys = thin(one.x, one.y)
                (drawn,) = axes.plot(
                    xs, ys, color=one.colour, ls=one.style, lw=one.width, alpha=one.alpha, label=one.label or None
                )
                if len(xs) == 1:  # no line to see
                    drawn.set_marker("o")
            else:
                axes.scatter(one.x, one.y, s=26, color=one.colour, marker=one.marker, label=one.label or None, zorder=3)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if log_x:
            _log_x(axes)
        elif all(isinstance(value, int) for one in series for value in one.x):
            axes.locator_params("x", integer=True)  # there is no trial 0.5
        if any(one.label for one in series):
            axes.legend(
                frameon=False,
                loc="lower left",
                bbox_to_anchor=(0, 1.0),
                ncols=2,
                borderaxespad=0.2,
                handlelength=2.4,
                columnspacing=1.2,
            )
        return _svg(figure, alt)


def intervals(alt: str, rows: Sequence[tuple[str, float, Sequence[tuple[float, float]]]], *, x: str) -> Markup:
    """Return values with their intervals, one below the other, beside a line at 0.

    Args:
        alt: What is to be seen.
        rows: Name, value, and lower and upper ends of its intervals, of which the first is drawn thick, others thin.
        x: Name of the axis, with its unit.
    """
    with _style():
        figure, axes = _axes((WIDTH, 0.9 + 0.35 * len(rows)))
        for place, (_, value, ends) in enumerate(rows):
            for number, both in enumerate(ends):
                axes.plot(both, [place, place], color=SECOND, lw=1 if number else 4, solid_capstyle="butt")
            axes.plot([value], [place], "o", color=SECOND, ms=8)
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(x)
        return _svg(figure, alt)


def scatter_map(
    alt: str, points: np.ndarray, labels: np.ndarray, names: Mapping[int, str], palette: Mapping[int, str]
) -> Markup:
    """Return a map of labelled points, each class named amid its points.

    Args:
        alt: What is to be seen.
        points: (N, 2).
        labels: (N,) class of each.
        names: Of the classes.
        palette: Their colours, as `#rrggbb`.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    width, margin = 72 * WIDTH, 16.0
    scale = (width - 2 * margin) / max(high[0] - low[0], (high[1] - low[1]) / MAX_TALL, 1e-9)
    placed = (points - low) * scale + margin
    size = width, (high[1] - low[1]) * scale + 2 * margin
    with _style():
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
        axes.set_axis_off()
        # All points of the chart in one scatter, in mixed order: no class lies on top of all others.
        order = np.random.default_rng(0).permutation(len(placed))
        colours = [palette[int(i)] for i in labels[order]]
        axes.scatter(placed[order, 0], placed[order, 1], s=11, c=colours, linewidths=0.3, edgecolors=GRID)
        for name, x, y in _places(placed, labels, names, size):
            text = axes.text(x, y, name, ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
            text.set_gid(HALO)
        return _svg(figure, alt)


def _places(
    points: np.ndarray, labels: np.ndarray, names: Mapping[int, str], size: tuple[float, float]
) -> list[tuple[str, float, float]]:
    """Return where to write each class's name: at that of its points nearest its middle where it covers no other."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for i in sorted({int(one) for one in labels}):
        half = 3.6 * len(names[i])  # bold letters of 11 points
        mine = points[labels == i]
        mine = np.clip(mine, [half, 8], [max(half, size[0] - half), size[1] - 8])
        order = np.argsort(np.linalg.norm(mine - np.median(mine, axis=0), axis=1), kind="stable")
        spots = [(float(x), float(y)) for x, y in mine[order]]
        free = ((x, y) for x, y in spots if all(abs(x - a) > half + b or abs(y - c) > 14 for a, c, b in taken))
        x, y = next(free, spots[0])
        taken.append((x, y, half))
        found.append((names[i], x, y))
    return found


def thin(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a line with at most `MAX_POINTS` points: means of neighbours, so that noise is not picked from."""
    if len(x) <= MAX_POINTS:
        return np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    xs, ys = (np.array_split(np.asarray(values, dtype=float), MAX_POINTS) for values in (x, y))
    return np.array([part.mean() for part in xs]), np.array([part.mean() for part in ys])


def _style() -> Any:
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "pixcon",
            "text.parse_math": False,  # names of classes are others' text
            "font.size": 11,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": GRID,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.formatter.useoffset": False,
        }
    )


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _log_x(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with plain numbers: matplotlib's powers of ten are mathematical text."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure, alt: str) -> Markup:
    """Return a figure as an element of the page."""
    screen = io.StringIO()
    figure.savefig(screen, format="svg", transparent=True, metadata={"Date": None})
    text = screen.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = text.replace(f'id="{HALO}"', f'class="{HALO}"')
    # Identifiers are the page's, and other charts have the same: keep those that are referred to, marked as this one's.
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    mark = f"c{hashlib.sha256((alt + text).encode()).hexdigest()[:8]}-"
    text = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{mark}{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{mark}", text).replace("xlink:href", "href")
    text = re.sub(r"\s*\n\s*", "\n", text)
    head, _, body = text.partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None  # matplotlib always writes one
    return Markup(f'<svg {view[0]} role="img" aria-label="{escape(alt)}">{body}')
