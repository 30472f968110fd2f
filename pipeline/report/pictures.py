"""Images beside their truth and what was predicted, and which of them to show: where contrast helped and hurt most."""

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from PIL import Image

from pipeline.data.rows import Row, Stored, read_rows
from pipeline.data.shards import Shards
from pipeline.data.storage import locate
from pipeline.predicting.inference import predict
from pipeline.predicting.picture import Palette, colour
from pipeline.report.folder import Run
from pipeline.report.scores import evaluation
from pipeline.report.text import percent, signed
from pipeline.training.checkpoint import Loaded, load_segmentor
from pixcon_core.metrics import miou_of

EACH = 3
"""So many images where contrast helped most, and as many where it hurt most."""
PANEL_WIDTH = 360
"""Pixels of a picture, at most."""
BETTER, WORSE, SAME = (86, 180, 233), (213, 94, 0), (128, 128, 128)
"""Of the picture of changes; told apart without seeing red and green."""
VOID_ID = 255


class Panel(NamedTuple):
    """A picture on the page."""

    title: str
    source: str
    """A data URI."""
    alt: str
    width: int
    height: int


class Shown(NamedTuple):
    """An image with its pictures."""

    id: str
    miou: tuple[float, float]
    """Of this image alone, by baseline and contrast, in 0..1."""
    panels: list[Panel]


class Pictures(NamedTuple):
    """Where contrast helped and hurt most."""

    helped: list[Shown]
    hurt: list[Shown]
    legend: list[tuple[str, str]]
    """Classes that occur in them, with their colours."""
    seed: int
    counts: tuple[int, int, int]
    """Images in which contrast is better, worse, neither."""


def best_and_worst(
    baseline: Run, contrast: Run, shards: Shards, on_progress: Callable[[int, int], None] | None = None
) -> Pictures:
    """Choose images by the difference in their own mIoU, and predict them again with both checkpoints.

    Args:
        baseline: A run without contrast.
        contrast: The one of the same seed with it.
        shards: The data set.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If counts by image, a checkpoint, or the images are missing.
    """
    before, after = (_image_miou(run) for run in (baseline, contrast))
    common = [id_ for id_ in before if id_ in after and not np.isnan(before[id_] + after[id_])]
    gain = {id_: after[id_] - before[id_] for id_ in common}
    by_gain = sorted(common, key=lambda id_: (-gain[id_], id_))
    helped = [id_ for id_ in by_gain[:EACH] if gain[id_] > 0]
    hurt = [id_ for id_ in reversed(by_gain[-EACH:]) if gain[id_] < 0]
    if baseline.checkpoint is None or contrast.checkpoint is None:
        raise ValueError("a checkpoint is no longer there")
    models = [load_network(run.checkpoint) for run in (baseline, contrast) if run.checkpoint]
    shown: dict[str, Shown] = {}
    occurring: set[int] = set()
    found = read_rows(shards.folder, _rows_of(shards, "val", [*helped, *hurt]))
    for done, stored in enumerate(found, start=1):
        if isinstance(stored, Stored):
            predictions = [predict(model, stored.image) for model in models]
            pair = before[stored.id], after[stored.id]
            shown[stored.id] = Shown(stored.id, pair, _panels(stored, predictions, pair, shards))
            occurring |= {int(i) for ids in (stored.label, *predictions) for i in np.unique(ids)}
        if on_progress:
            on_progress(done, len(helped) + len(hurt))
    legend = [(name, hex_colour(shards.palette[i])) for i, name in enumerate(shards.classes) if i in occurring]
    values = np.array(list(gain.values()))
    return Pictures(
        [shown[id_] for id_ in helped if id_ in shown],
        [shown[id_] for id_ in hurt if id_ in shown],
        legend,
        contrast.seed,
        (int((values > 0).sum()), int((values < 0).sum()), int((values == 0).sum())),
    )


def load_network(checkpoint: Path) -> Loaded:
    """Load a checkpoint for inference, on a GPU where there is one."""
    loaded = load_segmentor(checkpoint)
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return loaded


def hex_colour(rgb: Sequence[int]) -> str:
    """Return a colour as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def data_uri(picture: Image.Image, kind: str) -> str:
    """Return a picture as a part of the page: `JPEG` for photographs, `PNG` for areas of a colour."""
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def file_uri(file: Path, width: int) -> tuple[str, int, int]:
    """Return a picture in a file as a part of the page, not wider than this, with its size."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    return data_uri(picture, "JPEG"), picture.width, picture.height


def _image_miou(run: Run) -> dict[str, float]:
    """Return each image's own mIoU: the mean over the classes in its truth or prediction."""
    found = evaluation(run)
    if found is None:
        raise ValueError(f"{run.folder.name} has no counts by image")
    return {id_: miou_of(counts) for id_, counts in zip(found.ids, found.counts, strict=True)}


def _rows_of(shards: Shards, split: str, ids: Sequence[str]) -> list[Row]:
    """Return where some images lie, in the order of their ids; those that are not there are left out."""
    folder = locate(shards.folder)
    places: dict[str, Row] = {}
    groups = shards.splits[split].groups
    for name in dict.fromkeys(group.file for group in groups):
        with folder.open(name) as source:
            file = pq.ParquetFile(source)
            for group in (one for one in groups if one.file == name):
                column = file.read_row_group(group.group, columns=["id"])["id"].to_pylist()
                places |= {str(id_): Row(group, place) for place, id_ in enumerate(column)}
    return [places[id_] for id_ in ids if id_ in places]


def _panels(
    stored: Stored, predictions: Sequence[UInt8[np.ndarray, "height width"]], miou: tuple[float, float], shards: Shards
) -> list[Panel]:
    name = stored.id
    before, after = (prediction == stored.label for prediction in predictions)
    labelled = stored.label != VOID_ID
    changes = np.select([~labelled, after & ~before, before & ~after], [VOID_ID, 0, 1], 2).astype(np.uint8)
    share = max(1, int(labelled.sum()))
    gained, lost = (int((changes == i).sum()) / share for i in (0, 1))
    return [
        _photograph(stored.image, f"Image {name}."),
        _areas("truth", stored.label, shards.palette, f"True classes of {name}: {_most(stored.label, shards)}."),
        _areas("baseline", predictions[0], shards.palette, f"What the baseline predicts in {name}: {_score(miou[0])}."),
        _areas("contrast", predictions[1], shards.palette, f"What contrast predicts in {name}: {_score(miou[1])}."),
        _areas(
            "changes",
            changes,
            (BETTER, WORSE, SAME),
            f"Where they differ in {name}: contrast alone is right in {percent(gained)} % of the labelled pixels, the"
            f" baseline alone in {percent(lost)} %; {signed(miou[1] - miou[0])} points of mIoU.",
        ),
    ]


def _photograph(pixels: UInt8[np.ndarray, "height width 3"], alt: str) -> Panel:
    picture = Image.fromarray(pixels)
    size = _size(picture)
    return Panel("image", data_uri(picture.resize(size, Image.Resampling.LANCZOS), "JPEG"), alt, *size)


def _areas(title: str, ids: UInt8[np.ndarray, "height width"], palette: Palette, alt: str) -> Panel:
    picture = Image.fromarray(ids)
    size = _size(picture)
    small = picture.resize(size, Image.Resampling.NEAREST)
    small.putpalette(colour(np.arange(256, dtype=np.uint8), palette).tobytes())
    return Panel(title, data_uri(small, "PNG"), alt, *size)


def _size(picture: Image.Image) -> tuple[int, int]:
    width = min(PANEL_WIDTH, picture.width)
    return width, max(1, round(picture.height * width / picture.width))


def _score(miou: float) -> str:
    return f"mIoU {percent(miou)} %"


def _most(label: UInt8[np.ndarray, "height width"], shards: Shards) -> str:
    """Name the largest classes of an image."""
    ids, counts = np.unique(label[label != VOID_ID], return_counts=True)
    largest = ids[np.argsort(-counts, kind="stable")][:3]
    named = ", ".join(shards.classes[int(i)] for i in largest)
    return f"most of it {named}" if named else "nothing is labelled"
