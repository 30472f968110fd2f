"""Cityscapes: 19 classes of street scenes, in `leftImg8bit/` and `gtFine/` as the two archives unpack."""

from pathlib import Path

from PIL import Image

from pixcon_core.data.labels import IGNORE_INDEX, IdTable
from pixcon_core.data.miniature.street import draw_street
from pixcon_core.data.miniature.write import image_rng
from pixcon_core.data.spec import DatasetSpec, Pair, if_there, no_pairs, visible_files

RAW_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Raw id of each of the 19 classes, in the order of their train ids."""

VOID_IDS = {"unlabeled": 0, "ego vehicle": 1, "static": 4, "dynamic": 5, "ground": 6}
NUM_RAW_IDS = 34

PALETTE = (
    (128, 64, 128),
    (244, 35, 232),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
)

to_train_ids = IdTable(
    "Cityscapes",
    dict.fromkeys(range(NUM_RAW_IDS), IGNORE_INDEX) | {raw: i for i, raw in enumerate(RAW_IDS.values())},
    f"0..{NUM_RAW_IDS - 1} (labelIds)",
)


LAYOUT = "leftImg8bit/{split}/CITY/*_leftImg8bit.png and gtFine/{split}/CITY/*_gtFine_labelIds.png"


def find_pairs(root: Path, split: str) -> list[Pair]:
    """Find the images of all cities and their fine labels; a pair's id is its file name's common part."""
    folder = root / "leftImg8bit" / split
    pairs = []
    for image in visible_files(folder, "*/*_leftImg8bit.png"):
        name = image.name.removesuffix("_leftImg8bit.png")
        label = root / "gtFine" / split / image.parent.name / f"{name}_gtFine_labelIds.png"
        pairs.append(Pair(name, image, if_there(label)))
    if not pairs:
        raise no_pairs("cityscapes", split, folder, LAYOUT)
    return sorted(pairs)


CITYSCAPES = DatasetSpec(
    name="cityscapes",
    classes=tuple(RAW_IDS),
    palette=PALETTE,
    splits=("train", "val", "test"),
    find_pairs=find_pairs,
    to_train_ids=to_train_ids,
    layout=LAYOUT,
)

MINI_CITIES = {"train": ("drawnburg", "inkstadt"), "val": ("pencilheim",)}


def write_mini_pair(root: Path, split: str, index: int, seed: int) -> None:
    """Write one drawn street scene in the authors' layout."""
    cities = MINI_CITIES[split]
    city = cities[index % len(cities)]
    scene = draw_street(image_rng(seed, split, index), width=256, height=128)
    name = f"{city}_{index:06d}_000019"
    for kind, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", scene.image),
        ("gtFine", "gtFine_labelIds", scene.ids(RAW_IDS | VOID_IDS, default=0)),
    ):
        folder = root / kind / split / city
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{name}_{ending}.png", compress_level=1)
