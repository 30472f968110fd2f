"""Contrast against cross-entropy on real CamVid: paired seeds, then the paper's ablations.

    python benchmarks/camvid.py --data path/to/CamVid                      # five pairs; hours on two cores
    python benchmarks/camvid.py --data path/to/CamVid --ablation           # then the tables, with three seeds
    python benchmarks/camvid.py --data path/to/CamVid --seeds 1 --steps 20 # a first look
    python benchmarks/camvid.py --data path/to/CamVid --unseen_drive       # scored on a drive that no run has seen

The runs are those of `pipeline.reproduce`, which goes on where it was stopped: the same command again does what is
left, and shows all at the end. The network is that of `camvid-lite` (EfficientNet-Lite0 with ImageNet weights, from
pixcon[lite]) with `--set name=value` changed in both, and fewer steps. What it found: docs/results.md.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from pipeline.options import load, parse, store
from pipeline.reproduce import main as reproduce
from pipeline.reproducing.state import STATE
from pipeline.reproducing.summary import METHODS, mean_interval, read_result
from pixcon_core.data.camvid import find_pairs

ABLATIONS = ("memory", "sampling", "temperature")
DRIVE = "0016E5"
"""Of which `train` has 204 images, and `val` all of its own."""


def settings_folder(data: Path, changes: list[str], out: Path) -> Path:
    """Leave a configuration as a run does, for `--trial`."""
    flags = ["--preset", "camvid-lite", "--dataset", "camvid", "--data_root", str(data.resolve())]
    for change in changes:
        name, _, value = change.partition("=")
        flags += [f"--{name}", *value.split()]
    config = parse(flags).config
    folder = out / "settings"
    if (folder / "config.json").exists() and load(folder).config != config:
        raise SystemExit(f"{folder} has other settings; take another --out, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    store(folder, "camvid-lite", config)
    return folder


def without_drive(data: Path, out: Path) -> Path:
    """Leave links to the images of `train`, those of one drive as `val`."""
    folder = out / "unseen_drive"
    for pair in find_pairs(data.resolve(), "train"):
        assert pair.label is not None
        split = "val" if pair.id.startswith(DRIVE) else "train"
        for file, name in ((pair.image, split), (pair.label, f"{split}annot")):
            link = folder / name / f"{pair.id}{file.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file)
    return folder


def by_class(folder: Path) -> list[str]:
    """Return the IoU of each class, mean over seeds, with the interval of the paired difference."""
    state = json.loads((folder / STATE).read_text())
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for seed in state["seeds"]:
        pair = {method: read_result(folder / f"camvid/{method}-seed{seed}") for method in METHODS}
        if None not in pair.values():
            for method, result in pair.items():
                assert result is not None
                found[method].append(result["per_class_iou"])
    lines = [f"{'IoU %':<12}{'baseline':>10}{'contrast':>10}{'difference, 95 % over seeds':>31}"]
    for name in found["baseline"][0]:
        base, treated = ([100 * one[name] for one in found[method]] for method in ("baseline", "contrast"))
        gains = [one - other for one, other in zip(treated, base, strict=True)]
        interval = mean_interval(gains)
        shown = "" if interval is None else f" ({interval['low']:+.1f} to {interval['high']:+.1f})"
        lines.append(f"{name:<12}{fmean(base):>10.1f}{fmean(treated):>10.1f}{fmean(gains):>+13.1f}{shown:>18}")
    return lines


def main() -> None:
    """Train what is left, and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid as its authors lay it out, or prepared")
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--seeds", type=int, help="5; with --ablation 3")
    parser.add_argument("--ablation", nargs="*", choices=ABLATIONS, help="the paper's tables; all, if none is named")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of all runs")
    parser.add_argument("--unseen_drive", action="store_true", help=f"train on the others, score all of {DRIVE}")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-camvid"))
    given = parser.parse_args()
    data = without_drive(given.data, given.out) if given.unseen_drive else given.data
    trial = settings_folder(data, given.set, given.out)
    is_ablation = given.ablation is not None
    arguments = ["--trial", str(trial), "--datasets", "camvid", "--out", str(given.out), "--steps", str(given.steps)]
    arguments += ["--seeds", str(given.seeds or (3 if is_ablation else 5))]
    if is_ablation:
        arguments += ["--ablation", *(given.ablation or ABLATIONS)]
    reproduce(arguments)
    if not is_ablation:
        (newest,) = sorted(given.out.glob(f"reproduce-*/{STATE}"), key=lambda file: file.stat().st_mtime)[-1:]
        print("\n" + "\n".join(by_class(newest.parent)))


if __name__ == "__main__":
    main()
