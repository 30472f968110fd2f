"""Image files -> label maps, overlays and probabilities, in files, by Ray Data or in this process.

Tasks read and decode, actors predict, tasks write. Images that are too large to be predicted whole do not travel: the
actor reads them itself, and writes what it has made of them.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from pipeline.predicting.inference import MAX_WHOLE_PIXELS, strips
from pipeline.predicting.input_files import ENDING_OF, LABELS, OVERLAYS, PROBABILITIES, Input
from pipeline.predicting.picture import Palette, colour
from pipeline.predicting.predictor import Workers, load_for_inference
from pipeline.training.checkpoint import load_meta
from pixcon_core.config import EvaluateConfig
from pixcon_core.data.decode import decode_image, image_size

IMAGES_PER_BLOCK = 4
MAX_PIXELS = 2**30
OVERLAY_ROWS = 1024
JPEG_SIDE = 65500
"""Longer sides a JPEG cannot have."""


class Predicted(NamedTuple):
    """What became of an image file."""

    number: int
    height: int
    width: int
    reason: str
    """Why there is no prediction; empty where there is one."""


class Output(NamedTuple):
    """What is written, and where."""

    folder: Path
    kinds: tuple[str, ...]
    """Of `ENDING_OF`."""
    palette: Palette

    def file(self, kind: str, name: str) -> Path:
        """Return the file of one kind for an image."""
        return self.folder / kind / f"{name}{ENDING_OF[kind]}"


def predict_files(
    checkpoint: Path,
    inputs: Sequence[Input],
    output: Output,
    protocol: EvaluateConfig,
    workers: Workers,
    on_progress: Callable[[int, int], None],
) -> list[Predicted]:
    """Predict image files and write what was asked for; return what became of each, in their order.

    Raises:
        OSError: If something cannot be written.
    """
    import ray.data  # a second

    num_blocks = -(-len(inputs) // IMAGES_PER_BLOCK)
    rows = (
        ray.data.range(num_blocks, override_num_blocks=num_blocks)
        # Other amounts than the actors': what asks for the same, Ray would run inside an actor.
        .map_batches(partial(_read, inputs=inputs), batch_size=None, num_cpus=0.5)
        .map_batches(
            _Predictor,
            fn_constructor_args=(str(checkpoint.resolve()), inputs, output, protocol, workers),
            batch_size=IMAGES_PER_BLOCK,  # for GPUs Ray wants a number; blocks have at most so many rows and stay whole
            **workers.resources,
        )
        .map_batches(partial(_write, inputs=inputs, output=output), batch_size=None, num_cpus=0.25)
    )
    return _collect(rows.iter_rows(), len(inputs), on_progress)


def predict_files_here(
    checkpoint: Path,
    inputs: Sequence[Input],
    output: Output,
    protocol: EvaluateConfig,
    on_progress: Callable[[int, int], None],
) -> list[Predicted]:
    """Do what `predict_files` does in this process, on all cores; the result is the same."""
    predictor = _Predictor(str(checkpoint), inputs, output, protocol, Workers(1, False, 1))

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(-(-len(inputs) // IMAGES_PER_BLOCK)):
            block = _write(predictor(_read({"id": [number]}, inputs=inputs)), inputs=inputs, output=output)
            for values in zip(*block.values(), strict=True):
                yield dict(zip(block, values, strict=True))

    return _collect(rows(), len(inputs), on_progress)


def _collect(
    rows: Iterable[dict[str, Any]], num_images: int, on_progress: Callable[[int, int], None]
) -> list[Predicted]:
    """Put together what `_write` says of each image."""
    found: dict[int, Predicted] = {}
    on_progress(0, num_images)
    for row in rows:
        if row["failure"]:
            raise OSError(row["failure"])
        one = Predicted(*(row[name] for name in Predicted._fields))
        found[int(one.number)] = one
        on_progress(len(found), num_images)
    return [found[number] for number in range(num_images)]


def _read(numbers: dict[str, Any], *, inputs: Sequence[Input]) -> dict[str, Any]:
    """Decode some files; of large ones, and of those that cannot be, there are no pixels."""
    columns: dict[str, list[Any]] = {"number": [], "image": [], "reason": []}
    for block in numbers["id"]:
        first = int(block) * IMAGES_PER_BLOCK
        for number in range(first, min(first + IMAGES_PER_BLOCK, len(inputs))):
            image, reason = np.zeros((0, 0, 3), np.uint8), ""
            file = Path(inputs[number].file)
            try:
                height, width = image_size(file)
                if height * width <= MAX_WHOLE_PIXELS:
                    image = decode_image(file.read_bytes())
            except (ValueError, OSError) as error:
                reason = _in_words(error)
            for column, value in zip(columns.values(), (number, image, reason), strict=True):
                column.append(value)
    return columns


class _Predictor:
    """Predicts blocks of images, one after the other."""

    def __init__(
        self, checkpoint: str, inputs: Sequence[Input], output: Output, protocol: EvaluateConfig, workers: Workers
    ) -> None:
        self._loaded = load_for_inference(checkpoint, workers)
        self._inputs, self._output, self._protocol = inputs, output, protocol

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {
            name: [] for name in ("number", "image", "ids", "height", "width", "reason", "failure")
        }
        for number, image, reason in zip(block["number"], block["image"], block["reason"], strict=True):
            given = self._inputs[int(number)]
            ids, failure = np.zeros((0, 0), np.uint8), ""
            size = 0, 0
            try:
                if not reason:
                    is_large = image.size == 0
                    if is_large:
                        image = decode_image(Path(given.file).read_bytes(), max_pixels=MAX_PIXELS)
                    size = image.shape[:2]
                    ids = self._predict(image, given.name)
                    if is_large:
                        write(image, ids, given.name, self._output)
                        image, ids = image[:0, :0], ids[:0, :0]
            except (ValueError, RuntimeError) as error:  # of the file, or of a network that it does not fit
                reason = _in_words(error)
            except OSError as error:
                failure = str(error)
            made = (int(number), image, ids, *size, str(reason), failure)
            for column, value in zip(columns.values(), made, strict=True):
                column.append(value)
        return columns

    def _predict(self, image: UInt8[np.ndarray, "height width 3"], name: str) -> UInt8[np.ndarray, "height width"]:
        """Return class ids; write probabilities, if these are asked for, as they are made."""
        size = image.shape[:2]
        ids = np.empty(size, np.uint8)
        if PROBABILITIES not in self._output.kinds:
            for top, logits in strips(self._loaded, image, self._protocol):
                ids[top : top + logits.shape[1]] = _classes(logits)
            return ids
        file = self._output.file(PROBABILITIES, name)
        with _in_place_of(file) as draft:
            shape = (len(self._loaded.meta.classes), *size)
            kept = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float16, shape=shape)
            for top, logits in strips(self._loaded, image, self._protocol):
                rows = slice(top, top + logits.shape[1])
                ids[rows] = _classes(logits)
                kept[:, rows] = logits.softmax(dim=0).half().cpu().numpy()
            kept.flush()
            del kept
        return ids


def _classes(logits: torch.Tensor) -> UInt8[np.ndarray, "rows width"]:
    ids: np.ndarray = logits.max(dim=0).indices.to(torch.uint8).cpu().numpy()
    return ids


def _write(block: dict[str, Any], *, inputs: Sequence[Input], output: Output) -> dict[str, Any]:
    """Write the predictions that the actors have not."""
    failures = []
    for number, image, ids, failure in zip(*(block[n] for n in ("number", "image", "ids", "failure")), strict=True):
        if ids.size and not failure:
            try:
                write(image, ids, inputs[int(number)].name, output)
            except OSError as error:
                failure = str(error)
        failures.append(str(failure))
    return {name: block[name] for name in Predicted._fields} | {"failure": failures}


def write(
    image: UInt8[np.ndarray, "height width 3"], ids: UInt8[np.ndarray, "height width"], name: str, output: Output
) -> None:
    """Write label map and overlay, each of which appears whole or not at all.

    Raises:
        OSError: If they cannot be written.
    """
    with _in_place_of(output.file(LABELS, name)) as draft:
        label = Image.fromarray(ids)
        label.putpalette([level for one in output.palette for level in one])  # makes it mode P: ids with colours
        label.save(draft, format="PNG", compress_level=3)
    if OVERLAYS not in output.kinds:
        return
    blended = np.empty_like(image)
    for top in range(0, len(ids), OVERLAY_ROWS):
        rows = slice(top, top + OVERLAY_ROWS)
        cv2.addWeighted(image[rows], 0.5, colour(ids[rows], output.palette), 0.5, 0, dst=blended[rows])
    file, form, options = output.file(OVERLAYS, name), "JPEG", {"quality": 90}
    if max(ids.shape) > JPEG_SIDE:
        file, form, options = file.with_suffix(".png"), "PNG", {"compress_level": 1}
    with _in_place_of(file) as draft:
        Image.fromarray(blended).save(draft, format=form, **options)


@contextmanager
def _in_place_of(file: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the file's place when all went well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield draft
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _in_words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def new_output(folder: Path, checkpoint: Path, *, overlay: bool, probabilities: bool) -> Output:
    """Return what is to be written, with the checkpoint's colours."""
    kinds = (LABELS, *([OVERLAYS] if overlay else []), *([PROBABILITIES] if probabilities else []))
    return Output(folder, kinds, load_meta(checkpoint).palette)
