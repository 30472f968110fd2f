"""A whole run beside the same training in a bare PyTorch loop; what contrast, the start and a second worker cost.

    python benchmarks/whole_run.py                          # the default run's network and data; some ten minutes
    python benchmarks/whole_run.py --preset camvid-lite --seconds 30
    python benchmarks/whole_run.py --model.backbone resnet50   # any setting of pipeline.run, for all
    python benchmarks/whole_run.py --busy 1                 # only a run beside a busy process, and one that waits short
    python benchmarks/whole_run.py --start                  # only where the seconds before the first step go

The loop has a DataLoader whose workers read the raw files, two of them, or on a GPU one for each core, and takes the
same steps: forward, backward, update. `pipeline.run` is started as a user starts it, with one worker on all cores, or
on the GPU if there is one, and without a GPU with two that share the cores as well.

The speed of a machine changes within minutes, by more than what is looked for. So all are started, one after the other,
and then train by turns of some seconds, while all processes of the others are halted. Rates leave out the first second
of a turn; ratios are means over turns of ratios within one, with their standard errors. Memory is that of all processes
of one together at the end of a turn, the most over turns, pages that they share counted once.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

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
STEPS = 100_000
"""More than are taken."""
WARM_STEPS = 20
PRINTED, LOOP_STEPS = "printed", "steps"


class Side:
    """One training: a command and all processes below it, which can be halted."""

    def __init__(self, name: str, command: Sequence[str | Path], out: Path, clock: Callable[[], list[float]]) -> None:
        """Start it, and let it train until it is warm.

        Args:
            name: To call it by.
            command: Trains.
            out: What it prints goes to a file there.
            clock: Returns when each step was done, in seconds since the first.
        """
        self.name, self.gib, self.start = name, 0.0, 0.0
        """`start`: seconds until the first step was done."""
        self._out, self._clock = out, clock
        self._turns: list[tuple[float, float]] = []
        out.mkdir(exist_ok=True)
        begun = time.monotonic()
        with (out / PRINTED).open("w") as printed:
            self._process = subprocess.Popen(command, env=_environment(), stdout=printed, stderr=subprocess.STDOUT)
        try:
            while not clock():
                self._wait(0.05)
            self._first = time.monotonic()
            self.start = self._first - begun
            while len(clock()) < WARM_STEPS:
                self._wait(1.0)
            self._send(signal.SIGSTOP)
        except BaseException:
            self.end()
            raise

    def turn(self, seconds: float) -> None:
        """Let it train for some seconds."""
        self._send(signal.SIGCONT)
        begun = time.monotonic()
        self._wait(seconds)
        self._turns.append((begun + 1.0, time.monotonic()))
        self._send(signal.SIGSTOP)
        self.gib = max(self.gib, sum(map(_gib, _family(self._process.pid))))

    def rates(self, batch_size: int) -> list[float]:
        """Return the images a second of each turn."""
        steps, rates = [self._first + seconds for seconds in self._clock()], []
        for begun, ended in self._turns:
            inside = [step for step in steps if begun <= step <= ended]
            if len(inside) < 3:
                raise SystemExit(f"{self.name} takes fewer than three steps in a turn. Set --seconds higher.")
            rates.append((len(inside) - 1) * batch_size / (inside[-1] - inside[0]))
        return rates

    def end(self) -> None:
        """End it."""
        self._send(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60.0)
        self._send(signal.SIGKILL)
        self._process.wait()

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            printed = (self._out / PRINTED).read_text()[-2000:]
            raise SystemExit(f"{self.name} ended with code {self._process.returncode}:\n{printed}")

    def _send(self, number: signal.Signals) -> None:
        for pid in _family(self._process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def _environment() -> dict[str, str]:
    """Return the environment that this process was started with; `pipeline` has added to its own."""
    variables = Path("/proc/self/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)


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


def start_run(name: str, settings: list[str], data: Path, workers: int, out: Path, *variables: str) -> Side:
    """Train as a user does, with variables in the environment."""
    command = ["env", *variables, sys.executable, "-m", "pipeline.run", *settings]
    command += ["--data_root", str(data), "--out", str(out)]
    command += ["--train.steps", str(STEPS), "--train.checkpoint_every", str(STEPS), "--train.log_every", "1"]
    command += ["--contrast.warmup_steps", "0", "--train.num_workers", str(workers)]

    def clock() -> list[float]:
        lines = [line for file in out.glob("*/metrics.jsonl") for line in file.read_text().split("\n")[:-1]]
        records = [json.loads(line) for line in lines]
        steps = [record["images_per_second"] / batch for record in records]
        return [(record["step"] - 1) / rate if rate else 0.0 for record, rate in zip(records, steps, strict=True)]

    batch = parse(settings).config.train.batch_size
    return Side(name, command, out, clock)


def start_loop(name: str, settings: list[str], data: Path, out: Path) -> Side:
    """Train in a process of this file's."""
    command = [sys.executable, __file__, *settings, "--data_root", str(data), "--loop", str(out / LOOP_STEPS)]

    def clock() -> list[float]:
        file = out / LOOP_STEPS
        return [float(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []

    return Side(name, command, out, clock)


def loop(config: RunConfig, data: Path) -> Iterator[None]:
    """Train in this process, without end; yields after each step."""
    from torch.utils.data import DataLoader

    set_up(DEVICE, 1)
    spec = dataset_spec(config.dataset)
    loader = DataLoader(
        Files(find_all_pairs(spec, data)["train"], config.ingest, spec),  # type: ignore[arg-type]
        batch_size=config.train.batch_size,
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
    while True:
        for batch in loader:
            images, labels = (tensor.to(DEVICE, non_blocking=True) for tensor in batch)
            with autocast(config.train, DEVICE):
                losses = model(images, labels)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield


def write_steps(config: RunConfig, data: Path, file: Path) -> None:
    """Train in this process, and write when each step was done."""
    first = 0.0
    with file.open("w", buffering=1) as stream:
        for number, _ in enumerate(loop(config, data)):
            if not number:
                if DEVICE.type == "cuda":
                    torch.cuda.synchronize()
                first = time.monotonic()
            stream.write(f"{time.monotonic() - first}\n")


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
    next(loop(config, data))
    end("network and first step, in a loop")
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
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--busy", type=int, default=0, help="so many processes compute beside them")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--loop", type=Path, help="only train in the loop, and write the seconds of steps to this file")
    arguments, changes = parser.parse_known_args()
    if arguments.turns < 2 or arguments.seconds <= 1.0:
        parser.error(
            f"--turns must be 2 or more, for a standard error, and --seconds more than the one left out, but got"
            f" {arguments.turns} and {arguments.seconds:g}"
        )
    settings = ["--preset", arguments.preset, *changes]
    config = parse(settings).config
    config = replace(config, contrast=replace(config.contrast, warmup_steps=0))
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        data = find_root(dataset_spec(config.dataset), config.dataset, arguments.data_root, out)
        if arguments.loop:
            write_steps(config, data, arguments.loop)
        elif arguments.start:
            for part, seconds in start_parts(config, data, out).items():
                print(f"{part:<60} {seconds:>6.1f} s")
        else:
            compare(settings, data, out, arguments.turns, arguments.seconds, arguments.busy)


def compare(settings: list[str], data: Path, out: Path, turns: int, seconds: float, num_busy: int) -> None:
    """Print the table and the ratios."""
    run, bare, plain, two, short = "pipeline.run", "loop", "loop without contrast", "with 2 workers", "with short waits"
    starts = {run: partial(start_run, run, settings, data, 1, out / "run")}
    if num_busy:
        # One less than what commands set themselves, so it is left as it is.
        starts[short] = partial(start_run, short, settings, data, 1, out / "short", "GOMP_SPINCOUNT=999")
        ratios = [("images/s of pipeline.run / of one whose threads all wait short", run, short)]
    else:
        starts[bare] = partial(start_loop, bare, settings, data, out / "loop")
        starts[plain] = partial(start_loop, plain, [*settings, "--contrast.weight", "0"], data, out / "plain")
        ratios = [
            ("images/s of pipeline.run / loop (target 0.95)", run, bare),
            ("time of a step with contrast / without", plain, bare),
        ]
        if DEVICE.type == "cpu":  # of GPUs each worker takes one
            starts[two] = partial(start_run, two, settings, data, 2, out / "two")
            ratios.append(("images/s of two workers / one, on the same cores", two, run))
    sides: list[Side] = []
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for name, start in starts.items():
            sides.append(start())
            print(f"{name} has begun", file=sys.stderr)
        busy += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]
        for number in range(turns):
            for side in sides if number % 2 == 0 else sides[::-1]:
                side.turn(seconds)
        batch = parse(settings).config.train.batch_size
        rates = {side.name: side.rates(batch) for side in sides}
    finally:
        for process in busy:
            process.kill()
        for side in sides:
            side.end()
    print(
        f"{' '.join(settings)} on {DEVICE.type}, {turns} turns of {seconds:g} s each, beside {num_busy} busy processes"
    )
    print(f"{'':<24} {'images/s':>15} {'first step after s':>19} {'GiB':>6}")
    for side in sides:
        print(f"{side.name:<24} {_mean(rates[side.name], 1):>15} {side.start:>19.1f} {side.gib:>6.1f}")
    for what, name, other in ratios:
        print(f"{what}: {_mean([a / b for a, b in zip(rates[name], rates[other], strict=True)], 2)}")


def _mean(values: list[float], digits: int) -> str:
    """Return the mean with its standard error."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


if __name__ == "__main__":
    main()
