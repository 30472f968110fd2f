"""Processes that predict: how many there can be, what each holds; for `pipeline.evaluate` and `pipeline.predict`."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from jaxtyping import Int64

from pipeline.data.rows import BLOCK_COLUMNS
from pipeline.evaluate import Example
from pipeline.growth import TooSmallError, reachable_resources
from pipeline.predicting.inference import predict
from pipeline.train import set_up
from pipeline.training.checkpoint import Loaded, load_segmentor
from pixcon_core.boundary import boundary_counts
from pixcon_core.config import Device, EvaluateConfig
from pixcon_core.metrics import confusion_matrix, counts_of


class Workers(NamedTuple):
    """Processes that predict side by side."""

    number: int
    use_gpu: bool
    """Each has one."""
    on_one_node: int
    """How many share the cores of a machine, at most."""

    @property
    def resources(self) -> dict[str, Any]:
        """What `map_batches` is to be told."""
        return {"concurrency": self.number, "num_gpus": int(self.use_gpu), "num_cpus": 1}


def count_workers(wanted: int | None, *, use_gpu: bool) -> Workers:
    """Return how many processes predict; unless told, one for each GPU, or on CPUs one, with all cores of its machine.

    Raises:
        ValueError: If the cluster has no room for so many; Ray would wait for ever.
    """
    there, resources = ray.cluster_resources(), reachable_resources()
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    number = wanted if wanted is not None else (max(1, int(there.get("GPU", 0))) if use_gpu else 1)
    if number < 1:
        raise ValueError(f"num_workers must be >= 1, but got {number}.")
    if use_gpu and number > gpus:
        raise TooSmallError(f"num_workers must be at most the GPUs that Ray sees ({gpus}), but got {number}.")
    if number >= cpus:
        raise TooSmallError(
            f"num_workers must be less than the CPUs that Ray has ({cpus}), so that one is left to read images, but"
            f" got {number}."
        )
    return Workers(number, use_gpu, -(-number // nodes))


def predicts_here(wanted: int | None, *, use_gpu: bool) -> bool:
    """Return whether the command's own process predicts: on one machine without GPUs, unless told otherwise.

    Another one would take longer to begin, ten seconds and more, than a few hundred small images take.
    """
    return wanted is None and not use_gpu and "RAY_ADDRESS" not in os.environ


def may_use_gpu(device: Device) -> bool:
    """Return whether GPUs of this machine are wanted, before Ray is there to be asked."""
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def has_gpu(device: Device) -> bool:
    """Return whether to predict on GPUs: where there are any, or as told.

    Raises:
        ValueError: If they are asked for and there are none.
    """
    gpus = int(reachable_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise TooSmallError("--device cuda needs a GPU, but Ray sees none.")
    return device != "cpu" and gpus > 0


def load_for_inference(checkpoint: str | Loaded, workers: Workers) -> Loaded:
    """Load a checkpoint, unless it is, onto this process's GPU, or let it use its share of the cores."""
    loaded = load_segmentor(Path(checkpoint)) if isinstance(checkpoint, str) else checkpoint
    if workers.use_gpu:
        loaded.model.to("cuda")
    else:
        set_up(torch.device("cpu"), workers.on_one_node)
    return loaded


class Counted(NamedTuple):
    """What an image adds to the scores."""

    number: int
    """Of its row."""
    id: str
    counts: Int64[np.ndarray, "3 class"]
    boundary: Int64[np.ndarray, "3 class"]
    example: Example | None


class Scorer:
    """Predicts blocks of images, one after the other, and compares."""

    def __init__(
        self, checkpoint: str | Loaded, protocol: EvaluateConfig | None, shown: frozenset[int], workers: Workers
    ) -> None:
        self._loaded = load_for_inference(checkpoint, workers)
        self._protocol, self._shown = protocol, shown

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Take the columns of `read_blocks`; return a row with a confusion matrix, images and what was left out."""
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
            counted.append(Counted(int(number), str(id_), counts_of(mine), near, example))
        return {"confusion": [confusion], "counted": [counted], "skipped": [json.dumps(skipped)]}
