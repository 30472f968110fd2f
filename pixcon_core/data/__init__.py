"""Data sets: where their files lie, what their labels mean, and how both are read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pixcon_core.data import camvid, cityscapes, coco_stuff, pascal_context
from pixcon_core.data.decode import decode_image, decode_label, encode_label
from pixcon_core.data.folder import load_folder_spec
from pixcon_core.data.labels import IGNORE_INDEX
from pixcon_core.data.miniature.write import has_miniature, write_miniature
from pixcon_core.data.pairs import BadPairError, load_pair
from pixcon_core.data.spec import DatasetSpec, Miniature, Pair, Sample


def _miniature(real: DatasetSpec, write_pair: Miniature) -> DatasetSpec:
    """Return the drawn twin of a data set: the same classes, files and readers."""
    return replace(real, name=f"mini-{real.name}", splits=("train", "val"), mini=write_pair)


DATASETS: dict[str, DatasetSpec] = {
    "camvid": camvid.CAMVID,
    "cityscapes": cityscapes.CITYSCAPES,
    "pascal-context": pascal_context.PASCAL_CONTEXT,
    "pascal-context-60": pascal_context.PASCAL_CONTEXT_60,
    "coco-stuff": coco_stuff.COCO_STUFF,
    "coco-stuff-10k": coco_stuff.COCO_STUFF_10K,
    "mini-camvid": _miniature(camvid.CAMVID, camvid.write_mini_pair),
    "mini-cityscapes": _miniature(cityscapes.CITYSCAPES, cityscapes.write_mini_pair),
    "mini-pascal-context": _miniature(pascal_context.PASCAL_CONTEXT, pascal_context.write_mini_pair),
    "mini-coco-stuff": _miniature(coco_stuff.COCO_STUFF, coco_stuff.write_mini_pair),
}
"""Every data set by the name that the command line takes."""


def make_miniature(
    name: str,
    root: Path,
    *,
    seed: int = 0,
    num_train: int = 300,
    num_val: int = 80,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the miniature data set `name` into `root`, if it is not there (see `write_miniature`)."""
    return write_miniature(DATASETS[name], root, seed=seed, num_train=num_train, num_val=num_val, progress=progress)


__all__ = [
    "DATASETS",
    "IGNORE_INDEX",
    "BadPairError",
    "DatasetSpec",
    "Pair",
    "Sample",
    "decode_image",
    "decode_label",
    "encode_label",
    "has_miniature",
    "load_folder_spec",
    "load_pair",
    "make_miniature",
]
