"""COCO-Stuff: the 164k release with PNGs, and the 10k release with .mat files."""

import numpy as np
import pytest
import scipy.io

from data.files import ids, picture, save
from pixcon_core.data import DATASETS, BadPairError, load_pair

SPEC, SPEC_10K = DATASETS["coco-stuff"], DATASETS["coco-stuff-10k"]

# Ids that COCO has no class for, as the 10k release counts. In the 164k release every id is lower by one.
DROPPED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
OF_10K = [i for i in range(1, 183) if i not in DROPPED]


@pytest.fixture(params=["annotations/stuffthingmaps", "stuffthingmaps", "annotations"])
def root(tmp_path, request):
    for split, names in (("train", ("000000000009", "000000000025")), ("val", ("000000000139",))):
        for i, name in enumerate(names):
            save(tmp_path / "images" / f"{split}2017" / f"{name}.jpg", picture())
            save(tmp_path / request.param / f"{split}2017" / f"{name}.png", np.full((6, 8), 181 * i, np.uint8))
    return tmp_path


@pytest.fixture
def root_10k(tmp_path):
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "annotations").mkdir()
    names = ["COCO_train2014_000000000077", "COCO_train2014_000000000109", "COCO_train2014_000000000149"]
    for i, name in enumerate(names):
        save(tmp_path / "images" / f"{name}.jpg", picture())
        matrix = np.full((6, 8), i, np.uint8)
        scipy.io.savemat(tmp_path / "annotations" / f"{name}.mat", {"S": matrix, "names": "x", "captions": "y"})
    (tmp_path / "imageLists" / "train.txt").write_text(f"{names[1]}\n{names[0]}\n")
    (tmp_path / "imageLists" / "test.txt").write_text(f"{names[2]}\n")
    (tmp_path / "imageLists" / "all.txt").write_text("\n".join(names))
    return tmp_path


@pytest.mark.parametrize("spec", [SPEC, SPEC_10K], ids=lambda spec: spec.name)
def test_there_are_171_classes(spec):
    assert len(spec.classes) == len(spec.palette) == 171
    assert spec.classes[:2] == ("person", "bicycle")
    assert spec.classes[10:12] == ("fire hydrant", "stop sign")
    assert spec.classes[79:82] == ("toothbrush", "banner", "blanket")
    assert spec.classes[-1] == "wood"
    assert list(spec.classes[80:]) == sorted(spec.classes[80:])


def train_ids(spec, raw_ids):
    """Train id of each raw id; None where it is stray."""
    found = []
    for raw in raw_ids:
        try:
            found.append(int(spec.to_train_ids(ids([raw]))[0, 0]))
        except ValueError:
            found.append(None)
    return found


def test_ids_of_the_10k_release_become_train_ids():
    expected = [OF_10K.index(raw) if raw in OF_10K else None for raw in range(1, 255)]
    assert train_ids(SPEC_10K, range(256)) == [255, *expected, 255]


def test_ids_of_the_164k_release_are_lower_by_one():
    expected = [OF_10K.index(raw + 1) if raw + 1 in OF_10K else None for raw in range(255)]
    assert train_ids(SPEC, range(256)) == [*expected, 255]


def test_stray_ids_are_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"id 11 \(1 pixels\) is not among the ids of COCO-Stuff, .* in 0\.\.181"):
        SPEC.to_train_ids(ids([0, 11, 255]))
    with pytest.raises(ValueError, match=r"id 12 \(1 pixels\) is not among the ids of COCO-Stuff 10k, .* in 1\.\.182"):
        SPEC_10K.to_train_ids(ids([0, 12, 255]))


def test_the_maps_of_the_164k_release_are_found_in_any_of_the_customary_folders(root):
    train, val = SPEC.find_pairs(root, "train"), SPEC.find_pairs(root, "val")
    assert [pair.id for pair in train] == ["000000000009", "000000000025"]
    assert [pair.id for pair in val] == ["000000000139"]
    assert [load_pair(SPEC, pair).label[0, 0] for pair in train] == [0, 170]


def test_an_image_of_the_164k_release_without_map_has_none(root):
    save(root / "images" / "val2017" / "000000000001.jpg", picture())
    (root / "images" / "val2017" / "._000000000139.jpg").write_bytes(b"Mac OS X")
    assert [(pair.id, pair.label is None) for pair in SPEC.find_pairs(root, "val")] == [
        ("000000000001", True),
        ("000000000139", False),
    ]


def test_the_lists_of_the_10k_release_are_followed_and_its_test_is_val(root_10k):
    train, val = SPEC_10K.find_pairs(root_10k, "train"), SPEC_10K.find_pairs(root_10k, "val")
    assert [pair.id for pair in train] == ["COCO_train2014_000000000077", "COCO_train2014_000000000109"]
    assert [pair.id for pair in val] == ["COCO_train2014_000000000149"]
    assert [load_pair(SPEC_10K, pair).label[0, 0] for pair in (*train, *val)] == [255, 0, 1]


def test_an_image_listed_twice_counts_once(root_10k):
    with (root_10k / "imageLists" / "train.txt").open("a") as file:
        file.write("COCO_train2014_000000000109\n")
    assert len(SPEC_10K.find_pairs(root_10k, "train")) == 2


def test_images_of_the_10k_release_without_files_are_refused_by_name(root_10k):
    (root_10k / "annotations" / "COCO_train2014_000000000149.mat").unlink()
    (pair,) = SPEC_10K.find_pairs(root_10k, "val")
    assert pair.label is None
    pair = SPEC_10K.find_pairs(root_10k, "train")[0]
    pair.image.unlink()
    with pytest.raises(BadPairError, match=r"images/COCO_train2014_000000000077\.jpg: No such file or directory\.$"):
        load_pair(SPEC_10K, pair)


@pytest.mark.parametrize(("make", "found"), [(False, "does not exist"), (True, "exists, but holds no images")])
def test_a_missing_or_empty_folder_of_the_164k_release_is_named(tmp_path, make, found):
    folder = tmp_path / "images" / "val2017"
    if make:
        folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC.find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"coco-stuff: found no pairs of split 'val': {folder} {found}. Expected images/val2017/*.jpg and "
        'stuffthingmaps/val2017/*.png. How to get the data is in the README under "Datasets"; '
        "--dataset mini-coco-stuff needs none."
    )


@pytest.mark.parametrize(("make", "found"), [(False, "does not exist"), (True, "exists, but names no images")])
def test_a_missing_or_empty_list_of_the_10k_release_is_named(tmp_path, make, found):
    listed = tmp_path / "imageLists" / "test.txt"
    if make:
        listed.parent.mkdir()
        listed.write_text("")
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC_10K.find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"coco-stuff-10k: found no pairs of split 'val': {listed} {found}. Expected "
        "imageLists/{train,test}.txt, images/*.jpg and annotations/*.mat. "
        'How to get the data is in the README under "Datasets"; --dataset mini-coco-stuff needs none.'
    )
