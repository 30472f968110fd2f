"""Ablation tables on the page."""

from typing import Any, NamedTuple

from pipeline.report.text import plain, signed, spread


class Row(NamedTuple):
    """A variant."""

    label: str
    changes: str
    """Its settings that differ from the chosen ones."""
    mean: float | None
    """mIoU, mean over seeds, in 0..1."""
    miou: str
    gain: str
    """Points above the first row."""
    by_seed: str
    published: str
    is_best: bool


class Ablation(NamedTuple):
    """A table."""

    title: str
    caption: str
    rows: list[Row]
    source: str
    """Of the published figures; empty where there are none."""


def ablation(stored: dict[str, Any]) -> Ablation:
    """Return the table of what `ablation-*.json` holds."""
    listed = [row for row in stored.get("rows") or () if isinstance(row, dict)]
    means = [row.get("mean") for row in listed]
    best = max((mean for mean in means if mean is not None), default=None)
    rows = []
    for row, mean in zip(listed, means, strict=True):
        found = [value for value in row.get("miou") or () if value is not None]
        published = row.get("published")
        rows.append(
            Row(
                str(row.get("label", "")),
                plain(row.get("changes") or {}),
                mean,
                spread(found),
                signed(None if mean is None or means[0] is None else mean - means[0]),
                ", ".join(map(spread, ([value] for value in found))),
                "" if published is None else f"{published:.2f}",
                mean is not None and mean == best,
            )
        )
    seeds, steps = stored.get("seeds") or (), stored.get("steps")
    of = "mean and standard deviation over seeds" if len(seeds) > 1 else "of one seed"
    length = f", {steps} steps" if steps else ""
    has_published = any(row.published for row in rows)
    return Ablation(
        f"{stored.get('ablation', '')} on {stored.get('dataset', '')}",
        f"mIoU in %, {of}{length}; gain over the first row in points; bars are out of 100 %. Bold: the highest mean.",
        rows,
        str(stored.get("source", "")) if has_published else "",
    )
