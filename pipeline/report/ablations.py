"""Ablation tables on the page."""

from typing import Any

from pipeline.report.text import percent, short


def ablation(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a table of what `ablation-*.json` holds."""
    seeds = [str(seed) for seed in stored.get("seeds") or ()]
    listed = [row for row in stored.get("rows") or () if isinstance(row, dict)]
    best = max((row["mean"] for row in listed if row.get("mean") is not None), default=None)
    rows = []
    for row in listed:
        mean, std = row.get("mean"), row.get("std")
        changes = row.get("changes") or {}
        rows.append(
            {
                "label": row.get("label", ""),
                "changes": ", ".join(f"{name} {short(value)}" for name, value in changes.items())
                if isinstance(changes, dict)
                else str(changes),
                "mean": mean,
                "text": percent(mean) + (f" ± {percent(std)}" if std is not None and len(seeds) > 1 else ""),
                "by_seed": list(row.get("miou") or ()),
                "is_best": mean is not None and mean == best,
            }
        )
    spread = ", mean and standard deviation over seeds" if len(seeds) > 1 else ", of one seed"
    name, dataset = stored.get("ablation", ""), stored.get("dataset", "")
    return {
        "title": f"{name} on {dataset}",
        "caption": f"mIoU in %{spread}; bars are out of 100 %. Bold: the highest mean.",
        "seeds": seeds,
        "rows": rows,
    }
