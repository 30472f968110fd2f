"""A checkpoint folder: all that a resume needs, and all that inference needs, and nothing that can run code.

model.safetensors   the segmentor's weights
meta.json           configuration, classes, palette, input normalisation, step
training.pt         optimiser, contrast memory, time spent; loaded with weights_only=True
"""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixcon_core.config import RunConfig
from pixcon_core.models import Segmentor, build_segmentor
from pixcon_core.models.weights import differences, reason
from pixcon_core.override import override

WEIGHTS, META, TRAINING = "model.safetensors", "meta.json", "training.pt"
PROJECTION = "projection."
MAX_CLASSES = 255
"""Labels are bytes, and 255 is void."""


class CheckpointError(ValueError):
    """A checkpoint is damaged, or of another model or run."""


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    config: RunConfig
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float]
    """Subtracted from RGB in 0..1."""
    std: tuple[float, float, float]
    """Divides what is left."""
    step: int


class Loaded(NamedTuple):
    """A segmentor ready for inference, and what its checkpoint says."""

    model: Segmentor
    meta: Meta


def save_checkpoint(folder: Path, model: nn.Module, meta: Meta, training: dict[str, Any]) -> None:
    """Write a checkpoint into an existing, empty folder; whoever calls makes it appear whole."""
    # Contiguous: channels_last weights differ in memory order only.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    torch.save(training, folder / TRAINING)
    (folder / META).write_text(json.dumps(dataclasses.asdict(meta), indent=1))


def load_meta(folder: Path) -> Meta:
    """Read what a checkpoint says of itself.

    Raises:
        CheckpointError: If the folder is not a checkpoint of ours.
    """
    try:
        stored = json.loads((folder / META).read_text())
        meta = Meta(
            config=override(RunConfig(), stored["config"]),
            classes=tuple(stored["classes"]),
            palette=tuple(tuple(colour) for colour in stored["palette"]),
            mean=tuple(stored["mean"]),
            std=tuple(stored["std"]),
            step=int(stored["step"]),
        )
        _check(meta)
        return meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{META} has no {error}" if isinstance(error, KeyError) else reason(error)
        raise CheckpointError(
            f"{folder} is not a checkpoint: expected {WEIGHTS}, {META} and {TRAINING} in it ({what})."
        ) from error


def _check(meta: Meta) -> None:
    """Raise ValueError or TypeError if what a file says is not what `save_checkpoint` writes."""
    classes, palette = meta.classes, meta.palette
    if not (1 <= len(classes) <= MAX_CLASSES and all(isinstance(name, str) and name.isprintable() for name in classes)):
        raise ValueError(f"{META}: classes must be 1 to {MAX_CLASSES} names")
    levels = [level for colour in palette for level in colour]
    if {len(colour) for colour in palette} != {3} or not all(type(one) is int and 0 <= one <= 255 for one in levels):
        raise ValueError(f"{META}: palette must be colours of three numbers in 0..255")
    if len(palette) != len(classes):
        raise ValueError(f"{META}: there are {len(palette)} colours for {len(classes)} classes")
    figures = [float(one) for one in (*meta.mean, *meta.std)]
    if not len(meta.mean) == len(meta.std) == 3 or not all(map(math.isfinite, figures)) or min(meta.std) <= 0:
        raise ValueError(f"{META}: mean and std must be three numbers each, and std > 0")


def load_segmentor(folder: Path) -> Loaded:
    """Load a checkpoint for inference: without projection head, in eval mode, on the CPU.

    Raises:
        CheckpointError: If the folder is not a checkpoint of ours, or its weights do not fit its configuration.
    """
    meta = load_meta(folder)
    fresh = dataclasses.replace(meta.config.model, pretrained="false")
    num_classes = len(meta.classes)
    try:
        with torch.device("meta"):  # no memory for sizes that the file does not bear out
            outline = build_segmentor(fresh, num_classes=num_classes, projection=False)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder / META} describes no model that can be built: {reason(error)}.") from error
    weights = _fitting_weights(folder, outline)
    model = build_segmentor(fresh, num_classes=num_classes, projection=False)
    model.load_state_dict(weights)
    return Loaded(model.eval(), meta)


def load_weights(folder: Path, model: Segmentor) -> None:
    """Load a checkpoint's weights into a segmentor; those of the projection head only if it has one.

    Raises:
        CheckpointError: If the file cannot be read or its weights do not fit.
    """
    model.load_state_dict(_fitting_weights(folder, model))


def _fitting_weights(folder: Path, model: Segmentor) -> dict[str, Tensor]:
    """Return a checkpoint's weights for a segmentor, of which only names and shapes are looked at."""
    file = folder / WEIGHTS
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({reason(error)}).") from error
    if model.projection is None:
        weights = {name: value for name, value in weights.items() if not name.startswith(PROJECTION)}
    differing = differences(weights, model.state_dict())
    if differing:
        raise CheckpointError(
            f"{file} does not fit the model: {differing}. Its model.* settings, its classes and whether there is"
            f" contrast must be those of {META} beside it."
        )
    return weights


def load_training(folder: Path) -> dict[str, Any]:
    """Load the part of a checkpoint that only a resume needs.

    Raises:
        CheckpointError: If it cannot be read, or is something else.
    """
    file = folder / TRAINING
    try:
        training = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a dozen kinds, among them for a truncated file
        raise CheckpointError(f"{file} cannot be read ({reason(error)}).") from error
    if not isinstance(training, dict):
        raise CheckpointError(f"{file} must hold a dict of optimiser, memory and clock, but holds {type(training)}.")
    return training


def newest_checkpoint(place: Path) -> Path | None:
    """Return the newest of the checkpoints that `keep_newest` left in a folder."""
    return max(place.glob("checkpoint-*"), default=None)


def keep_newest(checkpoint: Path, place: Path, step: int) -> None:
    """Copy a checkpoint into a folder, whole or not at all, and remove the ones before it."""
    earlier = list(place.glob("checkpoint-*"))
    partial = place / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    partial.chmod(0o755)  # temporary folders are their owner's alone
    partial.rename(place / f"checkpoint-{step:08}")
    for one in earlier:
        shutil.rmtree(one)
