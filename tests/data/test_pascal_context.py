"""PASCAL-Context: labels as PNGs and as the authors' .mat files, with and without background."""

import numpy as np
import pytest
import scipy.io

from data.files import ids, picture, save, with_palette
from pixcon_core.data import DATASETS, BadPairError, Pair, load_pair
from pixcon_core.data.palette import bit_palette
from pixcon_core.data.pascal_context import IDS_459, read_label

SPEC, SPEC_60 = DATASETS["pascal-context"], DATASETS["pascal-context-60"]
SPECS = pytest.mark.parametrize("spec", [SPEC, SPEC_60], ids=lambda spec: spec.name)
IMAGES = ["2008_000002", "2008_000003", "2010_000003"]

# The ids that count among the 459, in the order of the classes; the first is the background.
OF_459 = [
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158),
    *(159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
    *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
]


@pytest.fixture
def root(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2010"
    for i, name in enumerate(IMAGES):
        save(base / "JPEGImages" / f"{name}.jpg", picture())
        save(base / "SegmentationClassContext" / f"{name}.png", np.full((6, 8), i, np.uint8))
    lists = base / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000003\n2008_000002\n")
    (lists / "val.txt").write_text("2010_000003\n")
    return tmp_path


def write_mat(path, matrix, key="LabelMap"):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {key: matrix})
    return path


def test_the_59_classes_are_in_the_order_of_their_names():
    assert len(SPEC.classes) == 59
    assert list(SPEC.classes) == sorted(SPEC.classes)
    assert (SPEC.classes[0], SPEC.classes[36], SPEC.classes[58]) == ("aeroplane", "person", "wood")
    assert list(IDS_459.values()) == OF_459[1:]


def test_the_variant_of_60_has_background_first():
    assert SPEC_60.classes == ("background", *SPEC.classes)
    assert SPEC_60.palette == ((0, 0, 0), *SPEC.palette)
    assert SPEC_60.find_pairs is SPEC.find_pairs


def test_background_is_ignored_or_a_class():
    assert SPEC.to_train_ids(ids(range(60))).tolist() == [[255, *range(59)]]
    assert SPEC_60.to_train_ids(ids(range(60))).tolist() == [list(range(60))]


@SPECS
def test_ids_beyond_59_are_stray(spec):
    with pytest.raises(
        ValueError, match=r"id 60 .* among the ids of PASCAL-Context, which are 0 for background, 1\.\.59"
    ):
        spec.to_train_ids(ids([59, 60]))


@pytest.mark.parametrize("folder", ["VOCdevkit/VOC2010", "VOC2010", "."])
def test_the_listed_images_are_found_sorted(root, tmp_path, folder):
    base = tmp_path / "elsewhere" / folder
    base.parent.mkdir(parents=True, exist_ok=True)
    (root / "VOCdevkit" / "VOC2010").rename(base)
    pairs = SPEC.find_pairs(tmp_path / "elsewhere", "train")
    assert [pair.id for pair in pairs] == ["2008_000002", "2008_000003"]
    assert [pair.image for pair in pairs] == [base / "JPEGImages" / f"{pair.id}.jpg" for pair in pairs]
    assert [load_pair(SPEC_60, pair).label[0, 0] for pair in pairs] == [0, 1]
    assert [load_pair(SPEC, pair).label[0, 0] for pair in pairs] == [255, 0]


def test_vocs_own_lists_serve_where_there_are_no_others(root):
    lists = root / "VOCdevkit" / "VOC2010" / "ImageSets"
    (lists / "SegmentationContext").rename(lists / "Main")
    (lists / "Main" / "train.txt").write_text("2008_000002  1\n2008_000003 -1\n\n2008_000002  0\n")
    assert [pair.id for pair in SPEC.find_pairs(root, "train")] == ["2008_000002", "2008_000003"]


def test_a_listed_image_without_label_has_none(root):
    (root / "VOCdevkit/VOC2010/SegmentationClassContext/2008_000002.png").unlink()
    assert [pair.label is None for pair in SPEC.find_pairs(root, "train")] == [True, False]


@pytest.mark.parametrize("folder", ["trainval", "VOCdevkit/VOC2010/trainval"])
def test_mat_files_serve_where_there_are_no_pngs(root, folder):
    (root / "VOCdevkit/VOC2010/SegmentationClassContext/2010_000003.png").unlink()
    write_mat(root / folder / "2010_000003.mat", np.full((6, 8), 284, np.uint16))
    (pair,) = SPEC.find_pairs(root, "val")
    assert pair.label == root / folder / "2010_000003.mat"
    assert (load_pair(SPEC, pair).label == SPEC.classes.index("person")).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_the_59_are_taken_out_of_the_459_and_the_rest_is_background(tmp_path, dtype):
    matrix = np.arange(460).astype(dtype).reshape(20, 23)
    found = read_label(write_mat(tmp_path / "a.mat", matrix))
    assert found.shape == (20, 23)
    expected = [OF_459.index(raw) if raw in OF_459 else 0 for raw in range(460)]
    assert found.ravel().tolist() == expected


@pytest.mark.parametrize("stray", [-1, 460, 65_000])
def test_ids_beyond_the_459_are_stray(tmp_path, stray):
    image = save(tmp_path / "a.jpg", picture())
    label = write_mat(tmp_path / "a.mat", np.full((6, 8), stray, np.int32))
    with pytest.raises(BadPairError) as error:
        load_pair(SPEC, Pair("a", image, label))
    expected = f"it has ids {stray}..{stray}, but PASCAL-Context's .mat files have 0..459."
    assert str(error.value) == f"{label}: {expected}"


def test_a_mat_file_without_the_labels_is_refused(tmp_path):
    image = save(tmp_path / "a.jpg", picture())
    label = write_mat(tmp_path / "a.mat", np.zeros((6, 8), np.uint8), key="S")
    with pytest.raises(BadPairError) as error:
        load_pair(SPEC, Pair("a", image, label))
    assert str(error.value) == f"{label}: it has no matrix 'LabelMap'."


def test_a_mat_file_that_is_gone_is_refused(tmp_path):
    image = save(tmp_path / "a.jpg", picture())
    with pytest.raises(BadPairError, match=r"a\.mat: No such file or directory\.$"):
        load_pair(SPEC, Pair("a", image, tmp_path / "a.mat"))


@SPECS
def test_palette_labels_are_read_as_grey_ones_are(tmp_path, spec):
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    image = save(tmp_path / "a.png", picture())
    grey = save(tmp_path / "grey.png", label)
    palette = save(tmp_path / "palette.png", with_palette(label, ((0, 0, 0), *bit_palette(255))))
    found = [load_pair(spec, Pair("a", image, path)).label for path in (grey, palette)]
    np.testing.assert_array_equal(*found)


LAYOUT = (
    "Expected VOCdevkit/VOC2010 with ImageSets/SegmentationContext/val.txt (or ImageSets/Main/val.txt), "
    "JPEGImages/*.jpg, and SegmentationClassContext/*.png or trainval/*.mat. "
    'How to get the data is in the README under "Datasets"; --dataset mini-pascal-context needs none.'
)


def test_a_missing_list_is_named_with_what_belongs_there(tmp_path):
    lists = tmp_path / "ImageSets" / "SegmentationContext"
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC.find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"pascal-context: found no pairs of split 'val': {lists / 'val.txt'} does not exist. {LAYOUT}"
    )


def test_an_empty_list_is_named_with_what_belongs_there(root):
    file = root / "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt"
    file.write_text("\n")
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC.find_pairs(root, "val")
    assert str(error.value) == (
        f"pascal-context: found no pairs of split 'val': {file} exists, but names no images. {LAYOUT}"
    )
