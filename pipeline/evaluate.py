"""Station 5: checkpoint + data set -> scores, and what each image adds to them, by Ray Data. Also a command.

python -m pipeline.evaluate --checkpoint runs/NAME/checkpoint
python -m pipeline.evaluate --help

Tasks read and decode; actors, on GPUs where there are any, predict. On one machine without GPUs this process does both,
unless told otherwise. Predictions are compared at the labels' full resolution, with void left out (see
`pixcon_core.metrics`). Images that can no longer be read are left out and named.

Light to import: torch and Ray are needed only where something is predicted.
"""

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from pipeline.data.rows import read_blocks, split_rows
from pipeline.data.shard_file import Skipped
from pipeline.data.shards import Shards
from pixcon_core.config import EvaluateConfig
from pixcon_core.metrics import ImageCounts, Scores, iou_of, scores

if TYPE_CHECKING:
    from pipeline.predicting.predictor import Counted
    from pipeline.training.checkpoint import Loaded

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
    loaded: "Loaded | None" = None,
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
        num_workers: Processes that predict side by side. None is one for each GPU; or on CPUs one, with all cores:
            this one, unless Ray runs on a cluster.
        loaded: What `load_segmentor` makes of the checkpoint, if that is known here; other processes load it again.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If the checkpoint is not one, or was trained for other classes; if there is no such split; if the
            cluster has no room for so many workers; or if no image can be read, or all labels are void.
    """
    from pipeline.predicting.predictor import Scorer, count_workers, predicts_here  # some seconds

    if predicts_here(num_workers, use_gpu=use_gpu):
        return evaluate_here(
            checkpoint,
            shards,
            split=split,
            protocol=protocol,
            num_examples=num_examples,
            loaded=loaded,
            on_progress=on_progress,
        )
    import ray.data

    task = _plan(checkpoint, shards, split, num_examples)
    workers = count_workers(num_workers, use_gpu=use_gpu)
    results = (
        ray.data.range(task.num_blocks, override_num_blocks=task.num_blocks)
        # Half a CPU, another amount than the actors': what asks for the same, Ray would run inside an actor.
        .map_batches(task.read, batch_size=None, num_cpus=0.5)
        .map_batches(
            Scorer,
            fn_constructor_args=(str(checkpoint.resolve()), protocol, task.shown, workers),
            batch_size=IMAGES_PER_BLOCK,  # for GPUs Ray wants a number; blocks have at most so many rows and stay whole
            **workers.resources,
        )
    )
    return _collect(results.iter_rows(), task, shards, split, on_progress)


def evaluate_here(
    checkpoint: Path,
    shards: Shards,
    *,
    split: str = "val",
    protocol: EvaluateConfig | None = None,
    num_examples: int = 0,
    use_gpu: bool = False,
    num_sharing: int = 1,
    loaded: "Loaded | None" = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Do what `evaluate` does in this process, which may have imported all that it takes; the result is the same.

    Arguments and errors are those of `evaluate`; `num_sharing` processes share the cores of this machine.
    """
    from pipeline.predicting.predictor import Scorer, Workers

    task = _plan(checkpoint, shards, split, num_examples)
    workers = Workers(num_sharing, use_gpu, num_sharing)
    scorer = Scorer(loaded or str(checkpoint), protocol, task.shown, workers)
    blocks = (scorer(task.read({"id": [number]})) for number in range(task.num_blocks))
    results = ({name: column[0] for name, column in block.items()} for block in blocks)
    return _collect(results, task, shards, split, on_progress)


def check_classes(checkpoint: Path, trained: tuple[str, ...], dataset: str, classes: tuple[str, ...]) -> None:
    """Refuse a data set of other classes than a checkpoint was trained for.

    Raises:
        ValueError: If so.
    """
    if trained != classes:
        raise ValueError(
            f"{checkpoint} was trained for {len(trained)} classes ({_some(trained)}), but {dataset} has"
            f" {len(classes)} ({_some(classes)})."
        )


class _Task(NamedTuple):
    """What there is to do, in blocks."""

    num_images: int
    num_blocks: int
    read: Callable[[dict[str, Any]], dict[str, Any]]
    """Reads the blocks with some numbers, which are column `id`."""
    shown: frozenset[int]
    """Images that come back with their predictions."""


def _plan(checkpoint: Path, shards: Shards, split: str, num_examples: int) -> _Task:
    from pipeline.data.checks import check_labelled
    from pipeline.training.checkpoint import load_meta

    check_classes(checkpoint, load_meta(checkpoint).classes, shards.dataset, shards.classes)
    if split not in shards.splits:
        raise ValueError(f"{shards.dataset} has no split {split!r} here, only {', '.join(shards.splits)}.")
    check_labelled(shards, split)
    rows = split_rows(shards, split)
    return _Task(
        num_images=len(rows),
        num_blocks=-(-len(rows) // IMAGES_PER_BLOCK),
        read=partial(read_blocks, folder=shards.folder, rows=rows, size=IMAGES_PER_BLOCK),
        shown=frozenset(int(i) for i in np.linspace(0, len(rows) - 1, min(num_examples, len(rows)))),
    )


def _collect(
    results: Iterable[dict[str, Any]],
    task: _Task,
    shards: Shards,
    split: str,
    on_progress: Callable[[int, int], None] | None,
) -> Evaluation:
    """Put together what `Scorer` says of each block."""
    confusion = np.zeros((len(shards.classes),) * 2, dtype=np.int64)
    counted: dict[int, Counted] = {}
    skipped: dict[int, Skipped] = {}
    for result in results:
        confusion += result["confusion"]
        counted |= {one.number: one for one in result["counted"]}
        skipped |= {int(number): Skipped(split, *what) for number, what in json.loads(result["skipped"]).items()}
        if on_progress:
            on_progress(len(counted) + len(skipped), task.num_images)
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


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


if __name__ == "__main__":
    from pipeline.evaluate_command import main

    main()
