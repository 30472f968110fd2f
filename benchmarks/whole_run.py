"""A whole run beside the same training in a bare PyTorch loop; what contrast, the start and a second worker cost.

    python benchmarks/whole_run.py                          # the default run's network and data; some minutes
    python benchmarks/whole_run.py --preset camvid-lite --steps 60
    python benchmarks/whole_run.py --model.backbone resnet50   # any setting of pipeline.run, for both
    python benchmarks/whole_run.py --start                  # only where the seconds before the first step go

The loop has a DataLoader whose workers read the raw files, two of them, or on a GPU one for each core, and takes the
same steps: forward, backward, update. `pipeline.run` is started as a user starts it, with one worker on all cores, or
on the GPU if there is one, and without a GPU with two that share the cores as well. Rates leave out the first step. All
are measured in turn, round by round; ratios are medians over rounds of ratios within a round.
Memory is the most that all processes of one together have at a time, pages that they share counted once.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ray
import torch
from ingest import Files

from pipeline.cores import num_cores
from pipeline.data.cache import keep_decoded
from pipeline.data.sources import dataset_spec, find_all_pairs, find_root
from pipeline.ingest import stream
from pipeline.journey import find_data, prepare_data
from pipeline.options import parse
from pipeline.session import ray_session
from pipeline.train import Job, Worker, set_up
from pipeline.training.fit import run_workers
from pipeline.training.model import TrainedModel
from pipeline.training.optimization import autocast, build_optimizer
from pixcon_core.config import RunConfig
from pixcon_core.presets import PRESETS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Run(NamedTuple):
    """What a training came to."""

    images_per_second: float
    start: float
    """Seconds until the first step was done."""
    whole: float
    """Seconds in all."""
    gib: float = 0.0
    """Memory of all processes together, at its peak."""


class Memory:
    """Looks every ten seconds, for 0.3 seconds of a CPU, at how much memory a process and all below it have."""

    def __init__(self) -> None:
        self.peak = 0.0

    @contextlib.contextmanager
    def watch(self, pid: int) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(10.0):
                self.peak = max(self.peak, sum(map(_gib, _family(pid))))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for one in found:  # grows meanwhile
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, file.read_text().split())
    return found


def _gib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 2**20
    return 0.0


def loop(config: RunConfig, data: Path, steps: int) -> Run:
    """Train in this process."""
    memory = Memory()
    with memory.watch(os.getpid()):
        return _loop(config, data, steps)._replace(gib=memory.peak)


def _loop(config: RunConfig, data: Path, steps: int) -> Run:
    from torch.utils.data import DataLoader

    begun = time.perf_counter()
    set_up(DEVICE, 1)
    spec = dataset_spec(config.dataset)
    pairs = find_all_pairs(spec, data)["train"]
    size = config.train.batch_size
    loader = DataLoader(
        Files(pairs, config.ingest, spec),  # type: ignore[arg-type]
        batch_size=size,
        shuffle=True,
        drop_last=True,
        num_workers=2 if DEVICE.type == "cpu" else num_cores(),
        pin_memory=DEVICE.type == "cuda",
        persistent_workers=True,
        prefetch_factor=4,
    )
    model = TrainedModel(config, (1000,) * len(spec.classes)).train().to(DEVICE)
    model.segmentor.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    done, first = 0, 0.0
    while done < steps:
        for batch in loader:
            images, labels = (tensor.to(DEVICE, non_blocking=True) for tensor in batch)
            with autocast(config.train, DEVICE):
                losses = model(images, labels)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if done in (1, steps) and DEVICE.type == "cuda":
                torch.cuda.synchronize()
            if done == 1:
                first = time.perf_counter()
            if done == steps:
                break
    end = time.perf_counter()
    return Run((steps - 1) * size / (end - first), first - begun, end - begun)


def pipeline_run(settings: list[str], data: Path, steps: int, workers: int, out: Path) -> Run:
    """Train as a user does."""
    command = [sys.executable, "-m", "pipeline.run", *settings, "--data_root", str(data), "--out", str(out)]
    command += ["--train.steps", str(steps), "--train.log_every", "1", "--contrast.warmup_steps", "0"]
    command += ["--train.num_workers", str(workers)]
    memory = Memory()
    begun, first = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, memory.watch(process.pid):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Training: ") and not first:
                first = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"pipeline.run ended with code {process.returncode}")
    newest = max(out.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    rate = json.loads(newest.read_text())["images_per_second"]
    return Run(rate, first - begun, time.perf_counter() - begun, memory.peak)


def start_parts(config: RunConfig, data: Path, out: Path) -> dict[str, float]:
    """Do one after the other what a run does before its first step, and return the seconds of each part."""
    parts, last = {}, time.perf_counter()

    def end(part: str) -> None:
        nonlocal last
        now = time.perf_counter()
        parts[part], last = now - last, now

    subprocess.run([sys.executable, "-c", "import pipeline.run, pipeline.journey"], check=True)
    end("Python and what the command imports")
    with ray_session():
        end("Ray")
        shards = prepare_data(find_data(replace(config, data_root=str(data)), out), config, out)
        end("shards, where there are none yet")
        ray.get(ray.remote(_import_all).remote())
        end("one process of Ray's and what a worker imports")
        run_workers(_do_nothing, {}, config.train, out, num_steps=lambda: 0, use_gpu=DEVICE.type == "cuda")
        end("a trainer whose worker does nothing: two such processes")
        cache = keep_decoded(shards, "train", config)
        next(iter(stream(Job(config, shards, cache).plan(Worker()), config.ingest, first_step=0, last_step=8)))
        end("the first batch")
    parts["network and first step, in a loop"] = loop(config, data, 1).start
    return parts


def _import_all() -> None:
    import pipeline.training.worker  # noqa: F401


def _do_nothing(_: dict[str, object]) -> None:
    pass


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini-camvid", choices=PRESETS)
    parser.add_argument("--data_root", default=None)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", action="store_true")
    arguments, changes = parser.parse_known_args()
    settings = ["--preset", arguments.preset, *changes]
    preset = parse(settings).config
    on = replace(preset, contrast=replace(preset.contrast, warmup_steps=0))
    off = replace(preset, contrast=replace(preset.contrast, weight=0.0))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        data = find_root(dataset_spec(preset.dataset), preset.dataset, arguments.data_root, out)
        if arguments.start:
            for part, seconds in start_parts(on, data, out).items():
                print(f"{part:<60} {seconds:>6.1f} s")
            return
        sides: dict[str, Callable[[], Run]] = {
            "pipeline.run": lambda: pipeline_run(settings, data, arguments.steps, 1, out),
            "pipeline.run, 2 workers": lambda: pipeline_run(settings, data, arguments.steps, 2, out),
            "loop": lambda: loop(on, data, arguments.steps),
            "loop without contrast": lambda: loop(off, data, arguments.steps),
        }
        if DEVICE.type == "cuda":
            del sides["pipeline.run, 2 workers"]  # each worker takes a GPU
        rounds = [{name: side() for name, side in sides.items()} for _ in range(arguments.rounds)]
    print(f"{arguments.preset}, {arguments.steps} steps on {DEVICE.type}, medians of {arguments.rounds} rounds")
    print(f"{'':<24} {'images/s':>9} {'first step after s':>19} {'in all s':>9} {'GiB':>6}")
    for name in sides:
        columns = zip(*(each[name] for each in rounds), strict=True)
        rate, start, whole, gib = (statistics.median(column) for column in columns)
        print(f"{name:<24} {rate:>9.1f} {start:>19.1f} {whole:>9.1f} {gib:>6.1f}")

    def ratio(name: str, other: str) -> float:
        return statistics.median(each[name].images_per_second / each[other].images_per_second for each in rounds)

    print(f"pipeline.run / loop: {ratio('pipeline.run', 'loop'):.2f}x (target 0.95)")
    print(f"a step with contrast / without: {ratio('loop without contrast', 'loop'):.2f}x")
    if "pipeline.run, 2 workers" in sides:
        print(f"two workers / one, on the same cores: {ratio('pipeline.run, 2 workers', 'pipeline.run'):.2f}x")


if __name__ == "__main__":
    main()
