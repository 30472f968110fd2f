"""Cityscapes, from its two archives as they unpack."""

import numpy as np
import pytest

from data.files import ids, picture, save
from pixcon_core.data import DATASETS, IGNORE_INDEX, load_pair

SPEC = DATASETS["cityscapes"]
NAMES = ["aachen_000000_000019", "aachen_000173_000019", "bochum_000000_000313"]

# Raw ids of the 19 classes in the order of train ids, as the authors' labels.py has them.
EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        city = name.split("_")[0]
        save(tmp_path / f"leftImg8bit/train/{city}/{name}_leftImg8bit.png", picture())
        for kind in ("labelIds", "instanceIds", "color", "labelTrainIds"):
            save(tmp_path / f"gtFine/train/{city}/{name}_gtFine_{kind}.png", np.full((6, 8), 7, np.uint8))
    return tmp_path


def test_there_are_19_classes():
    assert len(SPEC.classes) == len(SPEC.palette) == 19
    assert SPEC.classes[:3] == ("road", "sidewalk", "building")
    assert SPEC.classes[10:14] == ("sky", "person", "rider", "car")
    assert SPEC.classes[-3:] == ("train", "motorcycle", "bicycle")
    assert SPEC.splits == ("train", "val", "test")


def test_raw_ids_become_train_ids_and_all_others_are_ignored():
    expected = [EVALUATED.index(raw) if raw in EVALUATED else IGNORE_INDEX for raw in range(34)]
    assert SPEC.to_train_ids(ids(range(34))).tolist() == [expected]


def test_ids_beyond_the_34_are_stray():
    with pytest.raises(
        ValueError, match=r"id 34 \(1 pixels\) is not among the ids of Cityscapes.* 0\.\.33 \(labelIds\)"
    ):
        SPEC.to_train_ids(ids([0, 34]))


def test_all_cities_are_found_in_the_order_of_their_names(root):
    pairs = SPEC.find_pairs(root, "train")
    assert [pair.id for pair in pairs] == NAMES
    assert [pair.label.name for pair in pairs] == [f"{name}_gtFine_labelIds.png" for name in NAMES]
    assert all((load_pair(SPEC, pair).label == 0).all() for pair in pairs)


def test_an_image_without_labels_has_none(root):
    (root / f"gtFine/train/bochum/{NAMES[2]}_gtFine_labelIds.png").unlink()
    assert [pair.label is None for pair in SPEC.find_pairs(root, "train")] == [False, False, True]


def test_hidden_and_other_files_are_no_images(root):
    folder = root / "leftImg8bit/train/aachen"
    for name in ("._aachen_000000_000019_leftImg8bit.png", "Thumbs.db", "aachen_000000_000019_rightImg8bit.png"):
        (folder / name).write_bytes(b"")
    assert len(SPEC.find_pairs(root, "train")) == 3


@pytest.mark.parametrize(("make", "found"), [(False, "does not exist"), (True, "exists, but holds no images")])
def test_a_missing_or_empty_folder_is_named_with_what_belongs_there(tmp_path, make, found):
    folder = tmp_path / "leftImg8bit" / "val"
    if make:
        folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC.find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"cityscapes: found no pairs of split 'val': {folder} {found}. Expected "
        "leftImg8bit/val/CITY/*_leftImg8bit.png and gtFine/val/CITY/*_gtFine_labelIds.png. "
        'How to get the data is in the README under "Datasets"; --dataset mini-cityscapes needs none.'
    )
