"""Station 5: checkpoint + data set -> scores, and what each image adds to them, by Ray Data.

Tasks read and decode; actors, on GPUs where there are any, predict. Predictions are compared at the labels' full
resolution, with void left out (see `pixcon_core.metrics`). Images that can no longer be read are left out and named.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.data
import torch
from jaxtyping import Float64, Int64, UInt8

from pipeline.checkpoint import load_meta, load_segmentor
from pipeline.inference import predict
from pipeline.rows import BLOCK_COLUMNS, read_blocks, split_rows
from pipeline.shard_file import Skipped
from pipeline.shards import Shards
from pipeline.train import set_up
from pixcon_core.boundary import boundary_counts
from pixcon_core.config import EvaluateConfig
from pixcon_core.metrics import ImageCounts, Scores, confusion_matrix, counts_of, iou_of, scores

IMAGES_PER_BLOCK = 8
STORED = "evaluation.npz"


class Example(NamedTuple):
    """An image with its labels and what was predicted, for a picture."""

    id: str
    image: UInt8[np.ndarray, "height width 3"]
    label: UInt8[np.ndarray, "height width"]
    prediction: UInt8[np.ndarray, "height width"]


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does on one split."""

    scores: Scores
    confusion: Int64[np.ndarray, "truth prediction"]
    images: ImageCounts
    """In the order of the shards' rows; those left out are not there."""
    boundary: Int64[np.ndarray, "image 3 class"]
    """The same of the bands along boundaries, see `pixcon_core.boundary`."""
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]

    @property
    def num_images(self) -> int:
        """Those left out not counted."""
        return len(self.images.ids)


class Stored(NamedTuple):
    """What `save_evaluation` keeps of an evaluation."""

    ids: tuple[str, ...]
    counts: Int64[np.ndarray, "image 3 class"]
    """As in `ImageCounts`."""
    confusion: Int64[np.ndarray, "truth prediction"]
    boundary: Float64[np.ndarray, " class"]
    """Boundary IoU; NaN for a class that has none."""
    boundary_counts: Int64[np.ndarray, "image 3 class"]


def evaluate(
    checkpoint: Path,
    shards: Shards,
    *,
    split: str = "val",
    protocol: EvaluateConfig | None = None,
    num_examples: int = 0,
    use_gpu: bool = False,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict every image of a split and compare. The result does not depend on the number of workers.

    Args:
        checkpoint: A checkpoint folder.
        shards: The prepared data set.
        split: Which of its splits.
        protocol: Scales, flips and windows; None takes those of the checkpoint's configuration.
        num_examples: So many images, spread over the split, come back with their predictions.
        use_gpu: Predict on GPUs, one for each worker.
        num_workers: Processes that predict side by side. None is one for each GPU; or on CPUs one, with all cores.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If the checkpoint is not one, or was trained for other classes; if there is no such split; if the
            cluster has no room for so many workers; or if no image can be read.
    """
    classes = load_meta(checkpoint).classes
    if classes != shards.classes:
        raise ValueError(
            f"{checkpoint} was trained for {len(classes)} classes ({_some(classes)}), but {shards.dataset} has"
            f" {len(shards.classes)} ({_some(shards.classes)})."
        )
    if split not in shards.splits:
        raise ValueError(f"{shards.dataset} has no split {split!r} here, only {', '.join(shards.splits)}.")
    rows = split_rows(shards, split)
    shown = frozenset(int(i) for i in np.linspace(0, len(rows) - 1, min(num_examples, len(rows))))
    num_blocks = -(-len(rows) // IMAGES_PER_BLOCK)
    workers = count_workers(num_workers, use_gpu=use_gpu)
    results = (
        ray.data.range(num_blocks, override_num_blocks=num_blocks)
        # Half a CPU, another amount than the actors': what asks for the same, Ray would run inside an actor.
        .map_batches(
            partial(read_blocks, folder=shards.folder, rows=rows, size=IMAGES_PER_BLOCK),
            batch_size=None,
            num_cpus=0.5,
        )
        .map_batches(
            _Predictor,
            fn_constructor_args=(str(checkpoint.resolve()), protocol, shown, workers.on_one_node),
            batch_size=None,
            concurrency=workers.number,
            num_gpus=1 if use_gpu else 0,
            num_cpus=1,
            scheduling_strategy="SPREAD",
        )
    )
    confusion = np.zeros((len(shards.classes),) * 2, dtype=np.int64)
    counted: dict[int, _Counted] = {}
    skipped: dict[int, Skipped] = {}
    for result in results.iter_rows():
        confusion += result["confusion"]
        counted |= {one.number: one for one in result["counted"]}
        skipped |= {int(number): Skipped(split, *what) for number, what in json.loads(result["skipped"]).items()}
        if on_progress:
            on_progress(len(counted) + len(skipped), len(rows))
    ordered = [counted[number] for number in sorted(counted)]
    left_out = tuple(skipped[number] for number in sorted(skipped))
    if not ordered:
        some = f": {left_out[0].id}: {left_out[0].reason}" if left_out else "."
        raise ValueError(f"{shards.dataset}: no image of split {split} can be read{some}")
    boundary = np.stack([one.boundary for one in ordered])
    return Evaluation(
        scores=scores(confusion, boundary.sum(axis=0)),
        confusion=confusion,
        images=ImageCounts(tuple(one.id for one in ordered), np.stack([one.counts for one in ordered])),
        boundary=boundary,
        examples=tuple(one.example for one in ordered if one.example is not None),
        skipped=left_out,
    )


def save_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write `evaluation.npz`, which appears whole or not at all, and return its path."""
    file = folder / STORED
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            ids=np.array(evaluation.images.ids, dtype=np.str_),
            counts=evaluation.images.counts,
            confusion=evaluation.confusion,
            boundary=iou_of(evaluation.boundary.sum(axis=0)),
            boundary_counts=evaluation.boundary,
        )
    temporary.rename(file)
    return file


def load_evaluation(file: Path) -> Stored:
    """Read what `save_evaluation` wrote.

    Raises:
        ValueError: If it is something else, or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            found = Stored(tuple(stored["ids"].tolist()), *(stored[name] for name in Stored._fields[1:]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what an evaluation left ({error}).") from error
    num_classes = found.confusion.shape[0]
    shape = len(found.ids), 3, num_classes
    if found.counts.shape != shape or found.boundary_counts.shape != shape or found.boundary.shape != (num_classes,):
        raise ValueError(f"{file} is not what an evaluation left: its parts are of other images or classes.")
    return found


class Workers(NamedTuple):
    """Processes that predict side by side."""

    number: int
    on_one_node: int
    """How many share the cores of a machine, at most."""


def count_workers(wanted: int | None, *, use_gpu: bool) -> Workers:
    """Return how many processes predict.

    Raises:
        ValueError: If the cluster has no room for so many; Ray would wait for ever.
    """
    resources = ray.cluster_resources()
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    number = wanted if wanted is not None else (max(1, gpus) if use_gpu else 1)
    if number < 1:
        raise ValueError(f"num_workers must be >= 1, but got {number}.")
    if use_gpu and number > gpus:
        raise ValueError(f"num_workers={number} on GPUs takes as many, but Ray sees {gpus}.")
    if number >= cpus:
        raise ValueError(
            f"num_workers must be less than the CPUs that Ray has ({cpus}), so that one is left to read images, but"
            f" got {number}."
        )
    return Workers(number, -(-number // nodes))


class _Counted(NamedTuple):
    """What an image adds to the scores."""

    number: int
    """Of its row."""
    id: str
    counts: Int64[np.ndarray, "3 class"]
    boundary: Int64[np.ndarray, "3 class"]
    example: Example | None


class _Predictor:
    """Predicts blocks of images, one after the other."""

    def __init__(
        self, checkpoint: str, protocol: EvaluateConfig | None, shown: frozenset[int], num_sharing: int
    ) -> None:
        self._loaded = load_segmentor(Path(checkpoint))
        self._protocol = protocol
        self._shown = shown
        if torch.cuda.is_available():
            self._loaded.model.to("cuda")
        else:
            set_up(torch.device("cpu"), num_sharing)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        num_classes = len(self._loaded.meta.classes)
        confusion = np.zeros((num_classes,) * 2, dtype=np.int64)
        counted, skipped = [], {}
        for number, id_, image, label, reason in zip(*(block[name] for name in BLOCK_COLUMNS), strict=True):
            if reason:
                skipped[int(number)] = str(id_), str(reason)
                continue
            prediction = predict(self._loaded, image, self._protocol)
            mine = confusion_matrix(prediction, label, num_classes)
            confusion += mine
            near = boundary_counts(prediction, label, num_classes)
            example = Example(str(id_), image, label, prediction) if int(number) in self._shown else None
            counted.append(_Counted(int(number), str(id_), counts_of(mine), near, example))
        return {"confusion": [confusion], "counted": [counted], "skipped": [json.dumps(skipped)]}


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
