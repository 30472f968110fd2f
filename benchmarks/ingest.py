"""How fast augmented batches come, beside a torch DataLoader that does the same to the same images.

    python benchmarks/ingest.py                    # 480x360 JPEG and 2048x1024 PNG; some minutes
    python benchmarks/ingest.py --kind jpeg --epochs 20

Both sides decode and augment with this project's functions, hand over uint8 and are used by a loop that does nothing
else. They are timed in turn, round by round, each over whole epochs after a first round; the ratio is the median over
rounds. Ray has two CPUs' worth of this machine, the DataLoader two workers.
"""

import argparse
import dataclasses
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.data.cache import keep_decoded
from pipeline.data.shards import Shards
from pipeline.ingest import stream
from pipeline.prepare import prepare
from pipeline.session import ray_session
from pipeline.train import Job, Worker
from pixcon_core.config import IngestConfig, RunConfig, TrainConfig
from pixcon_core.data import DATASETS, DatasetSpec, Pair, decode_image, decode_label, encode_label, make_miniature
from pixcon_core.data.transforms import augment

BATCH = 8


class Kind(NamedTuple):
    """A sort of image files, and what is cut out of them."""

    size: tuple[int, int]
    format: str
    crop: tuple[int, int]
    count: int
    epochs: int
    """In one round: several parts of the stream, which come one whole part after the other."""


KINDS = {
    "jpeg": Kind((360, 480), "JPEG", (320, 320), 504, 2),
    "png": Kind((1024, 2048), "PNG", (512, 1024), 64, 12),
}


def write_images(kind: Kind, root: Path) -> list[Pair]:
    """Write image and label files of a kind: miniature street scenes, enlarged, with some grain."""
    small = make_miniature("mini-camvid", root / "small", num_train=24, num_val=2)
    spec = DATASETS["camvid"]
    drawn = [pair for pair in spec.find_pairs(small, "train") if pair.label]
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(kind.count):
        pair = drawn[number % len(drawn)]
        width_height = kind.size[::-1]
        colours = np.asarray(Image.open(pair.image).convert("RGB").resize(width_height, Image.Resampling.BICUBIC))
        grain = rng.normal(0, 3, (*kind.size, 1))
        image = Image.fromarray(np.clip(colours + grain, 0, 255).astype(np.uint8))
        label = spec.to_train_ids(spec.read_label(pair.label)) if pair.label else None
        assert label is not None
        label = np.asarray(Image.fromarray(label).resize(width_height, Image.Resampling.NEAREST))
        file = root / f"{number:04d}.{kind.format.lower()}"
        image.save(file, kind.format, **({"quality": 92, "subsampling": 0} if kind.format == "JPEG" else {}))
        ids = root / f"{number:04d}_ids.png"
        ids.write_bytes(encode_label(np.where(label == 255, 11, label).astype(np.uint8)))
        pairs.append(Pair(f"{number:04d}", file, ids))
    return pairs


class Files:
    """The files as a map-style dataset; the labels are ids of classes, or those of a data set."""

    def __init__(self, pairs: list[Pair], config: IngestConfig, spec: DatasetSpec | None = None) -> None:
        self.pairs, self.config, self.spec = pairs, config, spec

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self.pairs[index]
        assert pair.label is not None
        if self.spec is None:
            label = decode_label(pair.label.read_bytes())
        else:
            label = self.spec.to_train_ids(self.spec.read_label(pair.label))
        image = decode_image(pair.image.read_bytes(), label.shape)
        image, label = augment(image, label, self.config, np.random.default_rng())
        return torch.from_numpy(image), torch.from_numpy(label)


def loader_epochs(pairs: list[Pair], config: IngestConfig) -> Iterator[int]:
    """Yield after each epoch of a DataLoader that keeps its workers."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Files(pairs, config),  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=4,
    )
    while True:
        yield sum(len(images) for images, _ in loader)


def stream_epochs(shards: Shards, config: IngestConfig, num_epochs: int) -> Iterator[int]:
    """Yield after each epoch of our stream."""
    steps = shards.splits["train"].num_images // BATCH
    run = RunConfig(ingest=config, train=TrainConfig(batch_size=BATCH, steps=steps * num_epochs))
    plan = Job(run, shards, keep_decoded(shards, "train", run)).plan(Worker())
    seen = 0
    for number, batch in enumerate(stream(plan, config, first_step=0, last_step=steps * num_epochs), start=1):
        seen += len(batch.images)
        if number % steps == 0:
            yield seen
            seen = 0


def rate(epochs: Iterator[int], number: int) -> float:
    """Return images a second over the next epochs."""
    begin = time.perf_counter()
    return sum(itertools.islice(epochs, number)) / (time.perf_counter() - begin)


def compare(kind: Kind, folder: Path, rounds: int) -> None:
    """Print both sides' rates and their ratio."""
    pairs = write_images(kind, folder)
    config = IngestConfig(crop=kind.crop, cache="off")
    with ray_session():
        shards = prepare(DATASETS["camvid"], {"train": pairs, "val": pairs[:8]}, folder / "shards", max_bad_share=0)
        ours, theirs = stream_epochs(shards, config, (rounds + 1) * kind.epochs), loader_epochs(pairs, config)
        first = rate(ours, kind.epochs), rate(theirs, kind.epochs)
        rates = [(rate(ours, kind.epochs), rate(theirs, kind.epochs)) for _ in range(rounds)]
        ours.close()  # type: ignore[attr-defined]
        cached = stream_epochs(shards, dataclasses.replace(config, cache="on"), (rounds + 1) * kind.epochs)
        rate(cached, kind.epochs)
        kept = statistics.median(rate(cached, kind.epochs) for _ in range(rounds))
    mine, torchs = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    print(
        f"{kind.format} {kind.size[1]}x{kind.size[0]}, crop {kind.crop[1]}x{kind.crop[0]}: {mine:.1f} images/s,"
        f" DataLoader {torchs:.1f}: {ratio:.2f}x; first round {first[0]:.1f} and {first[1]:.1f};"
        f" from the cache {kept:.1f}, {kept / torchs:.2f}x"
    )


def profile(kind: Kind, folder: Path) -> None:
    """Print what decoding and augmenting cost in one thread."""
    pairs = write_images(kind, folder)[:24]
    config = IngestConfig(crop=kind.crop)
    stored = [(pair.image.read_bytes(), pair.label.read_bytes()) for pair in pairs if pair.label]
    rng = np.random.default_rng(0)

    def decode() -> list[tuple[np.ndarray, np.ndarray]]:
        return [(decode_image(image), decode_label(label)) for image, label in stored]

    def both() -> None:
        for image, label in stored:
            augment(decode_image(image), decode_label(label), config, rng)

    times = [(_seconds(decode), _seconds(both)) for _ in range(6)][1:]
    ratio = statistics.median(b / a for a, b in times)
    alone = statistics.median(a for a, _ in times) / len(stored)
    print(f"{kind.format}: decoding {alone * 1e3:.1f} ms an image and core, decode + augment {ratio:.2f}x of that")


def memory(kind: Kind, folder: Path, epochs: int) -> None:
    """Print how this process's peak memory grows over many epochs."""
    pairs = write_images(kind, folder)
    with ray_session():
        shards = prepare(DATASETS["camvid"], {"train": pairs, "val": pairs[:8]}, folder / "shards", max_bad_share=0)
        peaks = []
        for _ in stream_epochs(shards, IngestConfig(crop=kind.crop), epochs):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"{kind.format}: peak memory after epoch 2: {peaks[1]:.0f} MB, after epoch {epochs}: {peaks[-1]:.0f} MB")


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=0, help="measure memory over so many epochs instead")
    arguments = parser.parse_args()
    for name in arguments.kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.epochs:
                memory(KINDS[name], Path(folder), arguments.epochs)
                continue
            profile(KINDS[name], Path(folder))
            compare(KINDS[name], Path(folder), arguments.rounds)


if __name__ == "__main__":
    main()
