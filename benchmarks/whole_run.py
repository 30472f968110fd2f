"""A whole run beside the same training in a bare PyTorch loop, and what contrast and the start cost.

    python benchmarks/whole_run.py                          # the default run's network and data; some minutes
    python benchmarks/whole_run.py --preset camvid-lite --steps 60

The loop has a DataLoader of two workers that read the raw files, and takes the same steps: forward, backward, update.
`pipeline.run` is started as a user starts it. Both rates leave out the first step. They are measured in turn, round by
round; ratios are medians over rounds of ratios within a round.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from ingest import Files

from pipeline.data.sources import dataset_spec, find_all_pairs, find_root
from pipeline.train import set_up
from pipeline.training.model import TrainedModel
from pipeline.training.optimization import autocast, build_optimizer
from pixcon_core.config import RunConfig
from pixcon_core.presets import PRESETS


class Run(NamedTuple):
    """What a training came to."""

    images_per_second: float
    start: float
    """Seconds until the first step was done."""
    whole: float
    """Seconds in all."""


def loop(config: RunConfig, data: Path, steps: int) -> Run:
    """Train in this process."""
    from torch.utils.data import DataLoader

    begun = time.perf_counter()
    set_up(torch.device("cpu"), 1)
    spec = dataset_spec(config.dataset)
    pairs = find_all_pairs(spec, data)["train"]
    size = config.train.batch_size
    loader = DataLoader(
        Files(pairs, config.ingest),  # type: ignore[arg-type]
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=4,
    )
    model = TrainedModel(config, (1000,) * len(spec.classes)).train()
    model.segmentor.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    done, first = 0, 0.0
    while done < steps:
        for images, labels in loader:
            with autocast(config.train, torch.device("cpu")):
                losses = model(images, labels)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if done == 1:
                first = time.perf_counter()
            if done == steps:
                break
    end = time.perf_counter()
    return Run((steps - 1) * size / (end - first), first - begun, end - begun)


def pipeline_run(preset: str, data: Path, steps: int, out: Path) -> Run:
    """Train as a user does."""
    command = [sys.executable, "-m", "pipeline.run", "--preset", preset, "--data_root", str(data), "--out", str(out)]
    command += ["--train.steps", str(steps), "--train.log_every", "1", "--contrast.warmup_steps", "0"]
    begun, first = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Training: ") and not first:
                first = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"pipeline.run ended with code {process.returncode}")
    newest = max(out.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    rate = json.loads(newest.read_text())["images_per_second"]
    return Run(rate, first - begun, time.perf_counter() - begun)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini-camvid", choices=PRESETS)
    parser.add_argument("--data_root", default=None)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    on = dataclasses.replace(preset, contrast=dataclasses.replace(preset.contrast, warmup_steps=0))
    off = dataclasses.replace(preset, contrast=dataclasses.replace(preset.contrast, weight=0.0))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        data = find_root(dataset_spec(preset.dataset), preset.dataset, arguments.data_root, out)
        rounds = []
        for _ in range(arguments.rounds):
            ours = pipeline_run(arguments.preset, data, arguments.steps, out)
            rounds.append((ours, loop(on, data, arguments.steps), loop(off, data, arguments.steps)))
    names = "pipeline.run", "loop", "loop without contrast"
    print(f"{arguments.preset}, {arguments.steps} steps, medians of {arguments.rounds} rounds")
    print(f"{'':<22} {'images/s':>9} {'first step after s':>19} {'in all s':>9}")
    for title, runs in zip(names, zip(*rounds, strict=True), strict=True):
        rate, start, whole = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{title:<22} {rate:>9.1f} {start:>19.1f} {whole:>9.1f}")
    ratios = [
        (a.images_per_second / b.images_per_second, c.images_per_second / b.images_per_second) for a, b, c in rounds
    ]
    against_loop, contrast = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"pipeline.run / loop: {against_loop:.2f}x (target 0.95); a step with contrast / without: {contrast:.2f}x")


if __name__ == "__main__":
    main()
