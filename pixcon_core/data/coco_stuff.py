"""COCO-Stuff: 171 classes of things and stuff.

The 164k release has PNGs (`stuffthingmaps/`). The 10k release before it has .mat files, in which each class's
id is higher by one, and its own lists of train and test.
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
from pixcon_core.data.spec import DatasetSpec, Pair, if_there, no_pairs, visible_files

RAW_IDS = {
    "person": 1,
    "bicycle": 2,
    "car": 3,
    "motorcycle": 4,
    "airplane": 5,
    "bus": 6,
    "train": 7,
    "truck": 8,
    "boat": 9,
    "traffic light": 10,
    "fire hydrant": 11,
    "stop sign": 13,
    "parking meter": 14,
    "bench": 15,
    "bird": 16,
    "cat": 17,
    "dog": 18,
    "horse": 19,
    "sheep": 20,
    "cow": 21,
    "elephant": 22,
    "bear": 23,
    "zebra": 24,
    "giraffe": 25,
    "backpack": 27,
    "umbrella": 28,
    "handbag": 31,
    "tie": 32,
    "suitcase": 33,
    "frisbee": 34,
    "skis": 35,
    "snowboard": 36,
    "sports ball": 37,
    "kite": 38,
    "baseball bat": 39,
    "baseball glove": 40,
    "skateboard": 41,
    "surfboard": 42,
    "tennis racket": 43,
    "bottle": 44,
    "wine glass": 46,
    "cup": 47,
    "fork": 48,
    "knife": 49,
    "spoon": 50,
    "bowl": 51,
    "banana": 52,
    "apple": 53,
    "sandwich": 54,
    "orange": 55,
    "broccoli": 56,
    "carrot": 57,
    "hot dog": 58,
    "pizza": 59,
    "donut": 60,
    "cake": 61,
    "chair": 62,
    "couch": 63,
    "potted plant": 64,
    "bed": 65,
    "dining table": 67,
    "toilet": 70,
    "tv": 72,
    "laptop": 73,
    "mouse": 74,
    "remote": 75,
    "keyboard": 76,
    "cell phone": 77,
    "microwave": 78,
    "oven": 79,
    "toaster": 80,
    "sink": 81,
    "refrigerator": 82,
    "book": 84,
    "clock": 85,
    "vase": 86,
    "scissors": 87,
    "teddy bear": 88,
    "hair drier": 89,
    "toothbrush": 90,
    "banner": 92,
    "blanket": 93,
    "branch": 94,
    "bridge": 95,
    "building-other": 96,
    "bush": 97,
    "cabinet": 98,
    "cage": 99,
    "cardboard": 100,
    "carpet": 101,
    "ceiling-other": 102,
    "ceiling-tile": 103,
    "cloth": 104,
    "clothes": 105,
    "clouds": 106,
    "counter": 107,
    "cupboard": 108,
    "curtain": 109,
    "desk-stuff": 110,
    "dirt": 111,
    "door-stuff": 112,
    "fence": 113,
    "floor-marble": 114,
    "floor-other": 115,
    "floor-stone": 116,
    "floor-tile": 117,
    "floor-wood": 118,
    "flower": 119,
    "fog": 120,
    "food-other": 121,
    "fruit": 122,
    "furniture-other": 123,
    "grass": 124,
    "gravel": 125,
    "ground-other": 126,
    "hill": 127,
    "house": 128,
    "leaves": 129,
    "light": 130,
    "mat": 131,
    "metal": 132,
    "mirror-stuff": 133,
    "moss": 134,
    "mountain": 135,
    "mud": 136,
    "napkin": 137,
    "net": 138,
    "paper": 139,
    "pavement": 140,
    "pillow": 141,
    "plant-other": 142,
    "plastic": 143,
    "platform": 144,
    "playingfield": 145,
    "railing": 146,
    "railroad": 147,
    "river": 148,
    "road": 149,
    "rock": 150,
    "roof": 151,
    "rug": 152,
    "salad": 153,
    "sand": 154,
    "sea": 155,
    "shelf": 156,
    "sky-other": 157,
    "skyscraper": 158,
    "snow": 159,
    "solid-other": 160,
    "stairs": 161,
    "stone": 162,
    "straw": 163,
    "structural-other": 164,
    "table": 165,
    "tent": 166,
    "textile-other": 167,
    "towel": 168,
    "tree": 169,
    "vegetable": 170,
    "wall-brick": 171,
    "wall-concrete": 172,
    "wall-other": 173,
    "wall-panel": 174,
    "wall-stone": 175,
    "wall-tile": 176,
    "wall-wood": 177,
    "water-other": 178,
    "waterdrops": 179,
    "window-blind": 180,
    "window-other": 181,
    "wood": 182,
}
"""Id of each class in the 10k release, in the order of train ids. COCO dropped the eleven missing ids."""

CLASSES = tuple(RAW_IDS)

_DROPPED = "those of the 171 classes"
to_train_ids = IdTable(
    "COCO-Stuff",
    {raw - 1: i for i, raw in enumerate(RAW_IDS.values())},
    f"{_DROPPED} in 0..181, 255 unlabelled",
)
to_train_ids_10k = IdTable(
    "COCO-Stuff 10k",
    {0: IGNORE_INDEX} | {raw: i for i, raw in enumerate(RAW_IDS.values())},
    f"{_DROPPED} in 1..182, 0 unlabelled",
)


LAYOUT = "images/{split}2017/*.jpg and stuffthingmaps/{split}2017/*.png"
LAYOUT_10K = "imageLists/{train,test}.txt, images/*.jpg and annotations/*.mat"


def find_pairs(root: Path, split: str) -> list[Pair]:
    """Find the images of the 164k release; the maps may lie in any of the customary folders."""
    folder = root / "images" / f"{split}2017"
    maps = [root / sub / f"{split}2017" for sub in ("annotations/stuffthingmaps", "stuffthingmaps", "annotations")]
    labels = next((path for path in maps if path.is_dir()), maps[0])
    pairs = [Pair(p.stem, p, if_there(labels / f"{p.stem}.png")) for p in visible_files(folder, "*.jpg")]
    if not pairs:
        raise no_pairs("coco-stuff", split, folder, LAYOUT)
    return sorted(pairs)


def find_pairs_10k(root: Path, split: str) -> list[Pair]:
    """Find the images of the 10k release; val is what its authors call test."""
    listed = root / "imageLists" / f"{ {'val': 'test'}.get(split, split) }.txt"
    ids = sorted(set(listed.read_text().split())) if listed.is_file() else []
    if not ids:
        raise no_pairs("coco-stuff-10k", split, listed, LAYOUT_10K)
    return [Pair(i, root / "images" / f"{i}.jpg", if_there(root / "annotations" / f"{i}.mat")) for i in ids]


def read_label_10k(path: Path) -> Shaped[np.ndarray, "height width"]:
    """Read the label map of a .mat file of the 10k release."""
    return read_label_mat(path, "S")


COCO_STUFF = DatasetSpec(
    name="coco-stuff",
    classes=CLASSES,
    palette=bit_palette(171),
    splits=("train", "val"),
    find_pairs=find_pairs,
    to_train_ids=to_train_ids,
    layout=LAYOUT,
    read_label=read_label_png,
)
COCO_STUFF_10K = DatasetSpec(
    name="coco-stuff-10k",
    classes=CLASSES,
    palette=bit_palette(171),
    splits=("train", "val"),
    find_pairs=find_pairs_10k,
    to_train_ids=to_train_ids_10k,
    layout=LAYOUT_10K,
    read_label=read_label_10k,
)

MINI_NAMES = {
    "aeroplane": "airplane",
    "bedclothes": "blanket",
    "ceiling": "ceiling-other",
    "door": "door-stuff",
    "floor": "floor-other",
    "ground": "sand",
    "pottedplant": "potted plant",
    "shelves": "shelf",
    "sky": "sky-other",
    "sofa": "couch",
    "table": "dining table",
    "tvmonitor": "tv",
    "wall": "wall-concrete",
    "water": "sea",
    "window": "window-other",
}
"""Names of drawn classes that PASCAL-Context, whose names they have, calls otherwise."""

UNLABELLED = 255


def write_mini_pair(root: Path, split: str, index: int, seed: int) -> None:
    """Write one drawn place in the 164k release's layout."""
    scene = draw_place(image_rng(seed, split, index), width=192, height=160)
    images, maps = root / "images" / f"{split}2017", root / "stuffthingmaps" / f"{split}2017"
    for folder in (images, maps):
        folder.mkdir(parents=True, exist_ok=True)
    classes = {name: MINI_NAMES.get(name, name) for name in scene.names}
    ids = {name: RAW_IDS[of] - 1 for name, of in classes.items() if of in RAW_IDS}
    Image.fromarray(scene.image).save(images / f"{index:012d}.jpg", quality=92)
    Image.fromarray(scene.ids(ids, default=UNLABELLED)).save(maps / f"{index:012d}.png")
