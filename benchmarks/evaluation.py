"""How long evaluation takes for an image, beside a bare loop that does the same to the same shards.

    python benchmarks/evaluation.py                 # 480x360 images, EfficientNet-Lite0; some minutes
    python benchmarks/evaluation.py --kind png      # 2048x1024

The loop reads, decodes, predicts and counts in one process, with as many threads as the one worker of `evaluate` has.
The two are timed in turn, round by round. Evaluation is also timed from its first result on: what comes before is the
start of its worker, which does not grow with the number of images.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ingest import KINDS, write_images

from pipeline.data.rows import Stored, read_rows, split_rows
from pipeline.data.shards import Shards
from pipeline.evaluate import evaluate
from pipeline.predicting.inference import predict
from pipeline.prepare import prepare
from pipeline.session import ray_session
from pipeline.train import set_up
from pipeline.training.checkpoint import Meta, load_segmentor, save_checkpoint
from pixcon_core.boundary import boundary_counts
from pixcon_core.config import EvaluateConfig, ModelConfig, RunConfig
from pixcon_core.data import DATASETS
from pixcon_core.metrics import confusion_matrix
from pixcon_core.models import build_segmentor, normalization

SPEC = DATASETS["camvid"]
IMAGES_AT_ONCE = 8
# A light model: the heavier it is, the less anything else weighs.
MODEL = ModelConfig(backbone="tf_efficientnet_lite0", pretrained="false")


class Seconds(NamedTuple):
    """Of one evaluation."""

    whole: float
    for_each_image: float
    """From the first result on."""


def fresh_checkpoint(folder: Path, protocol: EvaluateConfig) -> Path:
    """Write a checkpoint that was never trained."""
    folder.mkdir()
    config = RunConfig(dataset="camvid", model=MODEL, evaluate=protocol)
    meta = Meta(config, SPEC.classes, SPEC.palette, *normalization(MODEL), 0)
    save_checkpoint(folder, build_segmentor(MODEL, len(SPEC.classes), projection=False), meta, {})
    return folder


def bare_loop(checkpoint: Path, shards: Shards) -> tuple[Seconds, np.ndarray]:
    """Evaluate in this process."""
    start = time.perf_counter()
    set_up(torch.device("cpu"), 1)
    loaded, rows = load_segmentor(checkpoint), split_rows(shards, "train")
    num_classes = len(shards.classes)
    total, bands = np.zeros((num_classes, num_classes), np.int64), np.zeros((3, num_classes), np.int64)
    begun = time.perf_counter()
    for first in range(0, len(rows), IMAGES_AT_ONCE):
        for found in read_rows(shards.folder, rows[first : first + IMAGES_AT_ONCE]):
            assert isinstance(found, Stored)
            prediction = predict(loaded, found.image)
            total += confusion_matrix(prediction, found.label, num_classes)
            bands += boundary_counts(prediction, found.label, num_classes)
    end = time.perf_counter()
    return Seconds(end - start, (end - begun) / len(rows)), total


def ours(checkpoint: Path, shards: Shards) -> tuple[Seconds, np.ndarray]:
    """Evaluate as the commands do."""
    done: list[tuple[float, int]] = []
    start = time.perf_counter()
    evaluation = evaluate(
        checkpoint, shards, split="train", on_progress=lambda n, _: done.append((time.perf_counter(), n))
    )
    end = time.perf_counter()
    begun, already = done[0]
    return Seconds(end - start, (end - begun) / (evaluation.num_images - already)), evaluation.confusion


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="jpeg")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flip", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ray_session():
        kind = KINDS[arguments.kind]._replace(count=arguments.images)
        pairs = write_images(kind, Path(name))
        shards = prepare(SPEC, {"train": pairs, "val": pairs[:2]}, Path(name) / "shards", max_bad_share=0)
        checkpoint = fresh_checkpoint(Path(name) / "checkpoint", EvaluateConfig(flip=arguments.flip))
        ratios, wholes = [], []
        for number in range(arguments.rounds):
            loop, expected = bare_loop(checkpoint, shards)
            found, confusion = ours(checkpoint, shards)
            assert (confusion == expected).all(), "the two do not count the same"
            ratios.append(found.for_each_image / loop.for_each_image)
            wholes.append(found.whole / loop.whole)
            print(
                f"round {number}: loop {1e3 * loop.for_each_image:.1f} ms an image, evaluate"
                f" {1e3 * found.for_each_image:.1f} ms: {ratios[-1]:.2f}x; with starts {loop.whole:.1f} s and"
                f" {found.whole:.1f} s: {wholes[-1]:.2f}x"
            )
    print(f"evaluate / loop, median: {statistics.median(ratios):.2f}x an image, {statistics.median(wholes):.2f}x whole")


if __name__ == "__main__":
    main()
