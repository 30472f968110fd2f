"""CamVid: 11 classes of street scenes, in three layouts.

The 480x360 re-release has `train/` and `trainannot/` with labels of ids 0..11. The original 701 frames of
960x720 (`701_StillsRaw_full/`, `LabeledApproved_full/`) have labels in 32 colours, merged here to the 11. Kaggle
has these in folders by split (`train/`, `train_labels/`).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from pixcon_core.data.labels import IGNORE_INDEX, IdTable, colours_to_ids
from pixcon_core.data.miniature.street import draw_street
from pixcon_core.data.miniature.write import image_rng
from pixcon_core.data.spec import DatasetSpec, Pair, if_there, no_pairs, visible_files

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
VOID = 11
SEQUENCES = ("0001TP", "0006R0", "0016E5", "Seq05VD")
RAW_SUFFIXES = (".png", ".jpg")

# Colours of the original release's label_colors.txt. The grouping is that of SegNet's training, as listed in
# MathWorks' example "Semantic Segmentation Using Deep Learning".
ORIGINAL_COLOURS = {
    (128, 128, 128): 0,  # Sky
    (128, 0, 0): 1,  # Building
    (192, 0, 128): 1,  # Archway
    (0, 128, 64): 1,  # Bridge
    (64, 0, 64): 1,  # Tunnel
    (64, 192, 0): 1,  # Wall
    (192, 192, 128): 2,  # Column_Pole
    (0, 0, 64): 2,  # TrafficCone
    (128, 64, 128): 3,  # Road
    (128, 0, 192): 3,  # LaneMkgsDriv
    (192, 0, 64): 3,  # LaneMkgsNonDriv
    (0, 0, 192): 4,  # Sidewalk
    (64, 192, 128): 4,  # ParkingBlock
    (128, 128, 192): 4,  # RoadShoulder
    (128, 128, 0): 5,  # Tree
    (192, 192, 0): 5,  # VegetationMisc
    (192, 128, 128): 6,  # SignSymbol
    (128, 128, 64): 6,  # Misc_Text
    (0, 64, 64): 6,  # TrafficLight
    (64, 64, 128): 7,  # Fence
    (64, 0, 128): 8,  # Car
    (64, 128, 192): 8,  # SUVPickupTruck
    (192, 128, 192): 8,  # Truck_Bus
    (192, 64, 128): 8,  # Train
    (128, 64, 64): 8,  # OtherMoving
    (64, 64, 0): 9,  # Pedestrian
    (192, 128, 64): 9,  # Child
    (64, 0, 192): 9,  # CartLuggagePram
    (64, 128, 64): 9,  # Animal
    (0, 128, 192): 10,  # Bicyclist
    (192, 0, 192): 10,  # MotorcycleScooter
    (0, 0, 0): IGNORE_INDEX,  # Void
}

_from_ids = IdTable("CamVid", {**{i: i for i in range(11)}, VOID: IGNORE_INDEX}, "0..10 and 11 for void")


LAYOUT = (
    "{split}/*.png (or .jpg) and {split}annot/*.png or {split}_labels/*_L.png, or the original "
    "701_StillsRaw_full/*.png and LabeledApproved_full/*_L.png"
)


def to_train_ids(raw: Shaped[np.ndarray, "height width *colour"]) -> UInt8[np.ndarray, "height width"]:
    """Translate ids of the re-release or colours of the original release."""
    if raw.ndim == 3:
        return colours_to_ids(raw, ORIGINAL_COLOURS, "CamVid")
    return _from_ids(raw)


def find_pairs(root: Path, split: str) -> list[Pair]:
    """Find the pairs of any of the layouts."""
    original = root / "701_StillsRaw_full"
    if original.is_dir():
        pairs = _original_pairs(root, original, split)
        folder = original
    else:
        folder = root / split
        images = (path for path in visible_files(folder, "*") if path.suffix.lower() in RAW_SUFFIXES)
        kaggle = root / f"{split}_labels"
        labels, suffix = (kaggle, "_L") if kaggle.is_dir() else (root / f"{split}annot", "")
        pairs = [Pair(image.stem, image, if_there(labels / f"{image.stem}{suffix}.png")) for image in images]
    if not pairs:
        raise no_pairs("camvid", split, folder, LAYOUT)
    return sorted(pairs)


def _original_pairs(root: Path, images: Path, split: str) -> list[Pair]:
    labels = root / "LabeledApproved_full"
    return [
        Pair(image.stem, image, if_there(labels / f"{image.stem}_L.png"))
        for image in visible_files(images, "*.png")
        if original_split(image.stem) == split
    ]


def original_split(frame: str) -> str | None:
    """Return the split of a frame of the original release: train 367, val 101, test 233.

    The customary split follows the sequences: the one filmed at dusk (0001TP) is halved between train and
    test, and val is the stretch of 0016E5 that was labelled at 15 Hz. None for what is no frame.
    """
    sequence, _, number = frame.rpartition("_")
    if sequence not in SEQUENCES or not number.removeprefix("f").isdecimal():
        return None
    if sequence == "Seq05VD":
        return "test"
    if sequence == "0001TP":
        return "train" if int(number) <= 8520 else "test"
    if sequence == "0016E5" and 7959 <= int(number) <= 8159:
        return "val"
    return "train"


CAMVID = DatasetSpec(
    name="camvid",
    classes=CLASSES,
    palette=PALETTE,
    splits=("train", "val", "test"),
    find_pairs=find_pairs,
    to_train_ids=to_train_ids,
    layout=LAYOUT,
)

MINI_IDS = {
    "sky": 0,
    "building": 1,
    "wall": 1,
    "pole": 2,
    "road": 3,
    "sidewalk": 4,
    "vegetation": 5,
    "terrain": 5,
    "traffic sign": 6,
    "traffic light": 6,
    "fence": 7,
    "car": 8,
    "truck": 8,
    "bus": 8,
    "train": 8,
    "person": 9,
    "rider": 10,
    "bicycle": 10,
    "motorcycle": 10,
}


def write_mini_pair(root: Path, split: str, index: int, seed: int) -> None:
    """Write one drawn street scene in the re-release's layout."""
    scene = draw_street(image_rng(seed, split, index), width=192, height=144)
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(root / split / f"mini_{index:05d}.png", compress_level=1)
    ids = scene.ids(MINI_IDS, default=VOID)
    Image.fromarray(ids).save(root / f"{split}annot" / f"mini_{index:05d}.png")
