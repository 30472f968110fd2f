"""Station 5: checkpoint + data set -> confusion matrix, by Ray Data.

Tasks read and decode; one actor, on a GPU where there is one, predicts. Predictions are compared at the labels' full
resolution, with void left out (see `pixcon_core.metrics`). Images that can no longer be read are left out and named.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray.data
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from pipeline.checkpoint import Loaded, load_meta, load_segmentor
from pipeline.rows import BLOCK_COLUMNS, read_blocks, split_rows
from pipeline.shard_file import Skipped
from pipeline.shards import Shards
from pixcon_core.metrics import Scores, confusion_matrix, scores
from pixcon_core.models import Segmentor

IMAGES_PER_BLOCK = 8
# Stride of the coarsest features of any backbone here: images are padded to a multiple of it, so that the features
# lie on them without being stretched.
PAD_TO = 32


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
    confusion: np.ndarray
    """(C, C), rows truth, columns prediction."""
    num_images: int
    """Those left out not counted."""
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]


def evaluate(
    checkpoint: Path,
    shards: Shards,
    *,
    split: str = "val",
    num_examples: int = 0,
    use_gpu: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict every image of a split and compare.

    Args:
        checkpoint: A checkpoint folder.
        shards: The prepared data set.
        split: Which of its splits.
        num_examples: So many images, spread over the split, come back with their predictions.
        use_gpu: Predict on a GPU.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If the checkpoint is not one, or was trained for other classes; or if no image can be read.
    """
    classes = load_meta(checkpoint).classes
    if classes != shards.classes:
        raise ValueError(
            f"{checkpoint} was trained for {len(classes)} classes ({_some(classes)}), but {shards.dataset} has"
            f" {len(shards.classes)} ({_some(shards.classes)})."
        )
    rows = split_rows(shards, split)
    shown = frozenset(int(i) for i in np.linspace(0, len(rows) - 1, min(num_examples, len(rows))))
    num_blocks = -(-len(rows) // IMAGES_PER_BLOCK)
    results = (
        ray.data.range(num_blocks, override_num_blocks=num_blocks)
        # Half a CPU, another amount than the actor's: what asks for the same, Ray would run inside the actor.
        .map_batches(
            partial(read_blocks, folder=shards.folder, rows=rows, size=IMAGES_PER_BLOCK),
            batch_size=None,
            num_cpus=0.5,
        )
        .map_batches(
            _Predictor,
            fn_constructor_args=(str(checkpoint.resolve()), shown),
            batch_size=None,
            concurrency=1,
            num_gpus=1 if use_gpu else 0,
            num_cpus=1,
        )
    )
    confusion = np.zeros((len(shards.classes),) * 2, dtype=np.int64)
    examples: list[Example] = []
    skipped: list[Skipped] = []
    done = 0
    for result in results.iter_rows():
        confusion += result["confusion"]
        examples += result["examples"]
        done += int(result["images"])
        skipped += [Skipped(split, id_, reason) for id_, reason in json.loads(result["skipped"])]
        if on_progress:
            on_progress(done + len(skipped), len(rows))
    if not done:
        some = f": {skipped[0].id}: {skipped[0].reason}" if skipped else "."
        raise ValueError(f"{shards.dataset}: no image of split {split} can be read{some}")
    return Evaluation(scores(confusion), confusion, done, tuple(sorted(examples)), tuple(skipped))


@torch.inference_mode()
def predict(loaded: Loaded, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """Return the class of every pixel of an image of any size, by the protocol of the checkpoint's configuration.

    The logits of all scales and of mirrored images are added up at the image's size, as in the paper's code.
    """
    protocol, model = loaded.meta.config.evaluate, loaded.model
    device = next(model.parameters()).device
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (loaded.meta.mean, loaded.meta.std))
    pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    normalised = (pixels / 255 - mean) / std
    height, width = image.shape[:2]
    base = 1.0 if protocol.short_side is None else protocol.short_side / min(height, width)
    total: Tensor | float = 0.0
    for scale in protocol.scales:
        size = max(1, round(height * base * scale)), max(1, round(width * base * scale))
        resized = _resize(normalised, size)
        total = total + _resize(_logits(model, resized), (height, width))
        if protocol.flip:
            total = total + _resize(_logits(model, resized.flip(3)), (height, width)).flip(3)
    assert isinstance(total, Tensor)  # there is at least one scale
    ids: np.ndarray = total[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return ids


def _logits(model: Segmentor, images: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 class height width"]:
    """Return the logits of every pixel."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % PAD_TO, 0, -height % PAD_TO))
    logits: Tensor = model(padded).logits.float()
    return _resize(logits, (padded.shape[2], padded.shape[3]))[:, :, :height, :width]


def _resize(
    maps: Float[Tensor, "1 channel height width"], size: tuple[int, int]
) -> Float[Tensor, "1 channel new_height new_width"]:
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class _Predictor:
    """Predicts blocks of images, one after the other."""

    def __init__(self, checkpoint: str, shown: frozenset[int]) -> None:
        self._loaded = load_segmentor(Path(checkpoint))
        self._shown = shown
        if torch.cuda.is_available():
            self._loaded.model.to("cuda")
        else:
            torch.set_num_threads(len(os.sched_getaffinity(0)))  # Ray gives one

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        num_classes = len(self._loaded.meta.classes)
        confusion = np.zeros((num_classes,) * 2, dtype=np.int64)
        examples, skipped = [], []
        for number, id_, image, label, reason in zip(*(block[name] for name in BLOCK_COLUMNS), strict=True):
            if reason:
                skipped.append((str(id_), str(reason)))
                continue
            prediction = predict(self._loaded, image)
            confusion += confusion_matrix(prediction, label, num_classes)
            if int(number) in self._shown:
                examples.append(Example(str(id_), image, label, prediction))
        return {
            "confusion": [confusion],
            "examples": [examples],
            "images": [len(block["id"]) - len(skipped)],
            "skipped": [json.dumps(skipped)],
        }


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
