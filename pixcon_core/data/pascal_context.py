"""PASCAL-Context: 59 classes, or 60 with background, over the images of PASCAL VOC 2010.

Labels are PNGs of ids 0..59 (`SegmentationClassContext/`), or the authors' .mat files of all 459 classes
(`trainval/`), of which the 59 are taken and everything else is background.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from pixcon_core.data.decode import read_label_png
from pixcon_core.data.labels import IGNORE_INDEX, IdTable
from pixcon_core.data.mat import read_label_mat
from pixcon_core.data.miniature.places import draw_place
from pixcon_core.data.miniature.write import image_rng
from pixcon_core.data.palette import bit_palette
from pixcon_core.data.spec import DatasetSpec, Pair, no_pairs

IDS_459 = {
    "aeroplane": 2,
    "bag": 9,
    "bed": 18,
    "bedclothes": 19,
    "bench": 22,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "book": 33,
    "bottle": 34,
    "building": 44,
    "bus": 45,
    "cabinet": 46,
    "car": 59,
    "cat": 65,
    "ceiling": 68,
    "chair": 72,
    "cloth": 80,
    "computer": 85,
    "cow": 98,
    "cup": 104,
    "curtain": 105,
    "dog": 113,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "horse": 207,
    "keyboard": 220,
    "light": 232,
    "motorbike": 258,
    "mountain": 259,
    "mouse": 260,
    "person": 284,
    "plate": 295,
    "platform": 296,
    "pottedplant": 308,
    "road": 324,
    "rock": 326,
    "sheep": 347,
    "shelves": 349,
    "sidewalk": 354,
    "sign": 355,
    "sky": 360,
    "snow": 366,
    "sofa": 368,
    "table": 397,
    "track": 415,
    "train": 416,
    "tree": 420,
    "truck": 424,
    "tvmonitor": 427,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
"""Id among the 459 classes of each of the 59, in the order of their train ids, which is that of the names."""

CLASSES = tuple(IDS_459)
BACKGROUND = 0
_IDS_60 = np.zeros(460, np.uint8)
_IDS_60[list(IDS_459.values())] = np.arange(1, 60)

_EXPECTED = "0 for background, 1..59"
to_train_ids_59 = IdTable("PASCAL-Context", {BACKGROUND: IGNORE_INDEX} | {i: i - 1 for i in range(1, 60)}, _EXPECTED)
to_train_ids_60 = IdTable("PASCAL-Context", {i: i for i in range(60)}, _EXPECTED)


def read_label(path: Path) -> Shaped[np.ndarray, "height width *colour"]:
    """Read either kind of label file as ids 0..59.

    Raises:
        ValueError: If the file is damaged, or has ids beyond the 459.
    """
    if path.suffix != ".mat":
        return read_label_png(path)
    raw = read_label_mat(path, "LabelMap")
    if raw.size and not 0 <= raw.min() <= raw.max() <= 459:
        raise ValueError(f"it has ids {raw.min()}..{raw.max()}, but PASCAL-Context's .mat files have 0..459")
    return _IDS_60[raw.astype(np.int64)]


LAYOUT = (
    "VOCdevkit/VOC2010 with ImageSets/SegmentationContext/{split}.txt (or ImageSets/Main/{split}.txt), "
    "JPEGImages/*.jpg, and SegmentationClassContext/*.png or trainval/*.mat"
)


def find_pairs(root: Path, split: str) -> list[Pair]:
    """Find the images named in the split's list.

    The list is that of the context labels, or for the .mat files VOC's own for all tasks, which has the same
    images: train 4998, val 5105.
    """
    base = next((b for b in (root / "VOCdevkit" / "VOC2010", root / "VOC2010") if b.is_dir()), root)
    lists = [base / "ImageSets" / kind / f"{split}.txt" for kind in ("SegmentationContext", "Main")]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        raise no_pairs("pascal-context", split, lists[0], LAYOUT)
    # VOC's lists by class have a second column.
    ids = sorted({line.split()[0] for line in found.read_text().splitlines() if line.strip()})
    if not ids:
        raise no_pairs("pascal-context", split, found, LAYOUT)
    return [Pair(i, base / "JPEGImages" / f"{i}.jpg", _label(root, base, i)) for i in ids]


def _label(root: Path, base: Path, image_id: str) -> Path | None:
    candidates = (
        base / "SegmentationClassContext" / f"{image_id}.png",
        base / "trainval" / f"{image_id}.mat",
        root / "trainval" / f"{image_id}.mat",
    )
    return next((path for path in candidates if path.is_file()), None)


PASCAL_CONTEXT = DatasetSpec(
    name="pascal-context",
    classes=CLASSES,
    palette=bit_palette(59),
    splits=("train", "val"),
    find_pairs=find_pairs,
    to_train_ids=to_train_ids_59,
    layout=LAYOUT,
    read_label=read_label,
)
PASCAL_CONTEXT_60 = DatasetSpec(
    name="pascal-context-60",
    classes=("background", *CLASSES),
    palette=((0, 0, 0), *bit_palette(59)),
    splits=("train", "val"),
    find_pairs=find_pairs,
    to_train_ids=to_train_ids_60,
    layout=LAYOUT,
    read_label=read_label,
)

MINI_IDS = {name: i for i, name in enumerate(CLASSES, 1)}


def write_mini_pair(root: Path, split: str, index: int, seed: int) -> None:
    """Write one drawn place in VOC's layout."""
    scene = draw_place(image_rng(seed, split, index), width=192, height=160)
    base = root / "VOCdevkit" / "VOC2010"
    images, labels = base / "JPEGImages", base / "SegmentationClassContext"
    lists = base / "ImageSets" / "SegmentationContext"
    for folder in (images, labels, lists):
        folder.mkdir(parents=True, exist_ok=True)
    image_id = f"{'2008' if split == 'train' else '2010'}_{index:06d}"
    Image.fromarray(scene.image).save(images / f"{image_id}.jpg", quality=92)
    Image.fromarray(scene.ids(MINI_IDS, default=BACKGROUND)).save(labels / f"{image_id}.png")
    with (lists / f"{split}.txt").open("a") as ids:
        ids.write(f"{image_id}\n")
