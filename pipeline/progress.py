"""What a person sees while it works, and the metrics files: fed by workers, wherever they run.

Workers put records into a mailbox, a small actor; a thread of the driver takes them out. So nothing depends on a disk
that workers and driver share, and workers print nothing.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from pipeline.data.shard_file import Skipped

Record = dict[str, Any]
POLL_SECONDS = 0.5
LINE_SECONDS = 10.0
SKIPPED = "skipped"
"""A record with this has no metrics: it names an image that was left out."""


class Bar:
    """Progress with rate and time left: a bar on a terminal, now and then a plain line elsewhere."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._bar: Any = None
        self._first = -1
        self._start = self._last_line = 0.0

    def update(self, done: int, total: int, **figures: float) -> None:
        """Show that so many of the total are done, and some figures beside it."""
        if self._first < 0:
            self._first, self._start = done, time.monotonic()
            if sys.stderr.isatty():
                self._bar = tqdm(total=total, initial=done, desc=self._what, unit=self._unit, leave=False)
        texts = {name: f"{value:.3g}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(texts, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done >= total or time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line(done, total, texts)

    def _print_line(self, done: int, total: int, texts: dict[str, str]) -> None:
        self._last_line = time.monotonic()
        rate = (done - self._first) / max(self._last_line - self._start, 1e-9)
        left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        pace = f" ({rate:.1f} {self._unit}s/s{left})" if rate > 0 else ""
        shown = "".join(f" {name} {text}" for name, text in texts.items())
        print(f"{self._what}: {done}/{total} {self._unit}s{pace}{shown}", flush=True)

    def print(self, text: str) -> None:
        """Print a line; a bar stays below it."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Return a length of time as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Mailbox:
    """Holds the records that workers put in until the driver takes them out; see `open_mailbox`."""

    def __init__(self, skipped: Sequence[Skipped] = ()) -> None:
        self._records: list[Record] = []
        self._failure: Exception | None = None
        self._skipped = dict.fromkeys(skipped)

    def put(self, record: Record) -> None:
        """Add a record."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """Return all records since the last call, oldest first."""
        records, self._records = self._records, []
        return records

    def skip(self, one: Skipped) -> list[Skipped]:
        """Say that an image was left out; return all of its split, of which it may have been one."""
        if one not in self._skipped:
            self._skipped[one] = None
            self._records.append({SKIPPED: one})
        return [other for other in self._skipped if other.split == one.split]

    def fail(self, why: Exception) -> None:
        """Say that the work cannot go on, for a reason that its user can mend."""
        self._failure = why

    def failure(self) -> Exception | None:
        """Return that reason, if there is one."""
        return self._failure


def open_mailbox(skipped: Sequence[Skipped] = ()) -> Any:
    """Start a mailbox as an actor, that knows of some images left out earlier.

    It runs on the machine of the one that opens it, since it is not to be lost with another one.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here).remote(skipped)


@contextlib.contextmanager
def follow(mailbox: Any, on_record: Callable[[Record], None]) -> Iterator[None]:
    """Pass each record to a function of this process, from another thread, until the block ends.

    A record that the function cannot take, since a disk is full, is offered again until it can; at the end it raises.
    """
    over, waiting = threading.Event(), deque[Record]()

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            with contextlib.suppress(OSError):
                deliver()

    def deliver() -> None:
        waiting.extend(ray.get(mailbox.take.remote()))
        while waiting:
            on_record(waiting[0])
            waiting.popleft()

    thread = threading.Thread(target=poll, daemon=True, name="mailbox")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        deliver()


class MetricsLog:
    """Metrics by step in a run folder: `metrics.jsonl`, and the same for TensorBoard.

    A run that was stopped and resumed writes some steps again; the earlier lines of these are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "metrics.jsonl"
        self._last_step = -1
        for record in load_records(self._file):
            self._last_step = record["step"]
        self._board: Any = None

    def write(self, record: Record) -> None:
        """Append the metrics of one step."""
        step = record["step"]
        if step <= self._last_step:
            self._drop_from(step)
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step)
        append_record(self._file, record)
        self._last_step = step
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what TensorBoard's writer still holds."""
        if self._board is not None:
            self._board.close()

    def _drop_from(self, step: int) -> None:
        kept = [record for record in load_records(self._file) if record["step"] < step]
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.rename(self._file)
        if self._board is not None:  # a worker restarted: TensorBoard is to forget the later steps too
            self._board.close()
            self._board = None


def append_record(file: Path, record: Record) -> None:
    """Append a record as a line of JSON, whole or not at all; half a line that a crash left there is cut off."""
    end = _cut_half_line(file)
    try:
        with file.open("ab") as stream:
            stream.write(json.dumps(record).encode() + b"\n")
    except OSError:  # the disk is full: no half of a line is to stay, before one that is written later
        if file.exists():
            os.truncate(file, end)
        raise


def load_records(file: Path) -> list[Record]:
    """Return what `append_record` wrote, none if there is no file; a last line without its end is left out.

    Raises:
        ValueError: If another line cannot be read.
    """
    if not file.exists():
        return []
    records = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number}: {line[:40].decode(errors='replace')!r} must be a JSON object ({error}). Delete"
                " this line to go on without it."
            ) from None
    return records


def _cut_half_line(file: Path) -> int:
    """Cut off what follows the last line's end, and return the size that is left."""
    if not file.exists():
        return 0
    with file.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 1, 0))
        if stream.read() not in (b"", b"\n"):
            stream.seek(0)
            size = stream.truncate(stream.read().rfind(b"\n") + 1)
    return size
