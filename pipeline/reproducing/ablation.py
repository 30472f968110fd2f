"""The paper's ablations: which settings their rows have, and what was published of them.

The figures are of another network on other data (HRNet-W48, Cityscapes), to stand beside ours and no more. Only those
are here that can be traced: the README of the paper's research code has the temperatures (40 000 steps, batches of 8,
keys from the batch alone), and Sung et al., Contextrast++, Table III, quote the full method.
"""

from statistics import fmean
from typing import Any, NamedTuple

from pipeline.reproducing.options import Ablation
from pipeline.reproducing.summary import mean_and_std

CODE = "README of the paper's code, HRNet-W48, Cityscapes val, without memory"
QUOTED = "the paper's full method, HRNet-W48, Cityscapes val, as quoted in Contextrast++, Table III"
NO_CONTRAST: dict[str, Any] = {"contrast.weight": 0.0}


class Row(NamedTuple):
    """One line of a table."""

    label: str
    changes: dict[str, Any]
    """Of the chosen settings."""
    published: float | None = None
    """mIoU in per cent."""


class Table(NamedTuple):
    """One ablation."""

    title: str
    rows: tuple[Row, ...]
    source: str
    """Of the published figures."""


def _sampling(anchors: str, ratio: float | None, keys: str, published: float | None = None) -> Row:
    changes = {"contrast.hard_anchor_ratio": ratio, "contrast.key_sampling": keys.replace("-", "_")}
    return Row(f"{anchors:<20} {keys}", changes, published)


_TEMPERATURES = {0.05: 79.80, 0.07: 79.59, 0.1: 80.18, 0.2: 80.01, 0.3: 79.27, 0.4: 79.40}

TABLES: dict[Ablation, Table] = {
    "memory": Table(
        "Memory",
        (
            Row("cross-entropy alone", NO_CONTRAST),
            Row("mini-batch, no memory", {"contrast.keys": "batch"}),
            Row("pixel memory", {"contrast.keys": "pixel"}),
            Row("region memory", {"contrast.keys": "region"}),
            Row("pixel and region memory", {"contrast.keys": "pixel+region"}, 81.00),
        ),
        QUOTED,
    ),
    "sampling": Table(
        "Sampling of anchors and keys",
        (
            Row("cross-entropy alone", NO_CONTRAST),
            *(_sampling("random", None, keys) for keys in ("random", "hardest", "semi-hard")),
            *(_sampling("segmentation-aware", 0.5, keys) for keys in ("random", "hardest")),
            _sampling("segmentation-aware", 0.5, "semi-hard", 81.00),
        ),
        QUOTED,
    ),
    "temperature": Table(
        "Temperature",
        (
            Row("cross-entropy alone", NO_CONTRAST, 79.27),
            *(Row(f"{value:.2f}", {"contrast.temperature": value}, miou) for value, miou in _TEMPERATURES.items()),
        ),
        CODE,
    ),
}


def slug(row: Row) -> str:
    """Return a row as a part of a folder's name."""
    parts = (f"{name.rpartition('.')[2]}-{value}".lower() for name, value in row.changes.items())
    return "_".join(parts).replace("_", "-").replace("+", "-")


def format_table(table: Table, results: list[list[float]], what: str) -> str:
    """Return a table as text, at most 80 columns wide.

    Args:
        table: The ablation.
        results: mIoU of each seed, by row; of a row without any, an empty list.
        what: Of which data set, seeds and steps.
    """
    base = fmean(results[0]) if results[0] else None
    lines = [f"{table.title}: {what}", f"{'':<32}{'mIoU %':>14}{'gain':>8}{'published':>12}"]
    for row, mious in zip(table.rows, results, strict=True):
        gain = "" if base is None or not mious or row is table.rows[0] else f"{100 * (fmean(mious) - base):+.1f}"
        published = "" if row.published is None else f"{row.published:.2f}"
        lines.append(f"{row.label:<32}{mean_and_std(mious):>14}{gain:>8}{published:>12}".rstrip())
    return "\n".join([*lines, f"published: {table.source}"])
