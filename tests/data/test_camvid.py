"""CamVid, in the layout with ids and in those of the original release with colours."""

import numpy as np
import pytest

from data.files import ids, picture, save, with_palette
from pixcon_core.data import DATASETS, BadPairError, Pair, load_pair
from pixcon_core.data.camvid import ORIGINAL_COLOURS, PALETTE, original_split

SPEC = DATASETS["camvid"]
CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]

# The original release's label_colors.txt, with the classes that it lists, and what they are merged to.
ORIGINAL = """
64 128 64 Animal pedestrian
192 0 128 Archway building
0 128 192 Bicyclist bicyclist
0 128 64 Bridge building
128 0 0 Building building
64 0 128 Car car
64 0 192 CartLuggagePram pedestrian
192 128 64 Child pedestrian
192 192 128 Column_Pole pole
64 64 128 Fence fence
128 0 192 LaneMkgsDriv road
192 0 64 LaneMkgsNonDriv road
128 128 64 Misc_Text sign
192 0 192 MotorcycleScooter bicyclist
128 64 64 OtherMoving car
64 192 128 ParkingBlock pavement
64 64 0 Pedestrian pedestrian
128 64 128 Road road
128 128 192 RoadShoulder pavement
0 0 192 Sidewalk pavement
192 128 128 SignSymbol sign
128 128 128 Sky sky
64 128 192 SUVPickupTruck car
0 0 64 TrafficCone pole
0 64 64 TrafficLight sign
192 64 128 Train car
128 128 0 Tree tree
192 128 192 Truck_Bus car
64 0 64 Tunnel building
192 192 0 VegetationMisc tree
0 0 0 Void ignored
64 192 0 Wall building
"""


def original_colours():
    for line in ORIGINAL.split("\n")[1:-1]:
        red, green, blue, name, merged = line.split()
        yield (int(red), int(green), int(blue)), name, CLASSES.index(merged) if merged in CLASSES else 255


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            save(tmp_path / split / f"0016E5_{i:05d}.png", picture())
            save(tmp_path / f"{split}annot" / f"0016E5_{i:05d}.png", np.full((6, 8), i, np.uint8))
        (tmp_path / f"{split}.txt").write_text("/SegNet/CamVid/...\n")
    return tmp_path


@pytest.fixture
def original(tmp_path):
    for frame in ("0016E5_07959", "0016E5_08161", "0001TP_008520", "0001TP_008550", "Seq05VD_f00000", "0006R0_f00930"):
        save(tmp_path / "701_StillsRaw_full" / f"{frame}.png", picture())
        label = np.full((6, 8, 3), (128, 64, 128), np.uint8)
        label[0] = (192, 128, 64)
        save(tmp_path / "LabeledApproved_full" / f"{frame}_L.png", label)
    return tmp_path


def test_there_are_11_classes():
    assert list(SPEC.classes) == CLASSES


def test_ids_stay_and_void_is_ignored():
    assert SPEC.to_train_ids(ids(range(12))).tolist() == [[*range(11), 255]]


@pytest.mark.parametrize("stray", [12, 13, 254])
def test_other_ids_are_stray(stray):
    with pytest.raises(
        ValueError, match=rf"id {stray} .* not among the ids of CamVid, which are 0\.\.10 and 11 for void"
    ):
        SPEC.to_train_ids(ids([0, stray]))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_pairs_of_the_layout_with_ids_are_found(root, split):
    pairs = SPEC.find_pairs(root, split)
    assert [pair.id for pair in pairs] == [f"0016E5_{i:05d}" for i in range(len(pairs))]
    assert len(pairs) == {"train": 3, "val": 2, "test": 1}[split]
    assert all((load_pair(SPEC, pair).label == i).all() for i, pair in enumerate(pairs))


def test_images_may_be_jpegs_and_hidden_files_are_none(root):
    save(root / "val" / "0016E5_00007.JPG", picture(), format="JPEG")
    (root / "val" / "._0016E5_00000.png").write_bytes(b"Mac OS X")
    pairs = SPEC.find_pairs(root, "val")
    assert [pair.image.name for pair in pairs] == ["0016E5_00000.png", "0016E5_00001.png", "0016E5_00007.JPG"]
    assert [pair.label is None for pair in pairs] == [False, False, True]


def test_the_pairs_of_the_original_release_are_found_by_split(original):
    found = {split: [pair.id for pair in SPEC.find_pairs(original, split)] for split in SPEC.splits}
    assert found == {
        "train": ["0001TP_008520", "0006R0_f00930", "0016E5_08161"],
        "val": ["0016E5_07959"],
        "test": ["0001TP_008550", "Seq05VD_f00000"],
    }


def test_labels_of_the_original_release_are_read_by_their_colours(original):
    label = load_pair(SPEC, SPEC.find_pairs(original, "val")[0]).label
    assert (label[0] == CLASSES.index("pedestrian")).all()
    assert (label[1:] == CLASSES.index("road")).all()


def test_the_original_frames_as_kaggle_splits_them_are_found_and_read_by_their_colours(tmp_path):
    for split, frames in (("train", ("0001TP_009210", "0016E5_07959")), ("val", ("Seq05VD_f00000",)), ("test", ("b",))):
        for frame in frames:
            save(tmp_path / split / f"{frame}.png", picture())
            label = np.full((6, 8, 3), (192, 192, 0), np.uint8)
            save(tmp_path / f"{split}_labels" / f"{frame}_L.png", label)
    save(tmp_path / "train" / "0016E5_08161.png", picture())
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nAnimal,64,128,64\n")
    found = {split: SPEC.find_pairs(tmp_path, split) for split in SPEC.splits}
    assert {split: [pair.id for pair in pairs] for split, pairs in found.items()} == {
        "train": ["0001TP_009210", "0016E5_07959", "0016E5_08161"],
        "val": ["Seq05VD_f00000"],
        "test": ["b"],
    }
    assert [pair.label is None for pair in found["train"]] == [False, False, True]
    assert (load_pair(SPEC, found["val"][0]).label == CLASSES.index("tree")).all()


def test_a_frame_of_the_original_release_without_label_has_none(original):
    (original / "LabeledApproved_full" / "0016E5_07959_L.png").unlink()
    assert SPEC.find_pairs(original, "val")[0].label is None


def test_files_that_are_no_frames_are_left_out_of_the_original_release(original):
    for name in ("cover.png", "0016E5_x.png", "contact_sheet_1.png", "._0016E5_07959.png"):
        save(original / "701_StillsRaw_full" / name, picture())
    assert sum(len(SPEC.find_pairs(original, split)) for split in SPEC.splits) == 6


@pytest.mark.parametrize(
    ("frames", "split", "count"),
    [
        ([f"0001TP_{n:06d}" for n in range(6690, 10381, 30)], "train", 62),
        ([f"0001TP_{n:06d}" for n in range(6690, 10381, 30)], "test", 62),
        ([f"0016E5_{n:05d}" for n in range(7959, 8160, 2)], "val", 101),
        (["0016E5_00390", "0016E5_08640", "0006R0_f00930", "0006R0_f03930"], "train", 4),
        ([f"Seq05VD_f{n:05d}" for n in range(0, 5101, 30)], "test", 171),
    ],
)
def test_the_original_frames_are_split_as_is_customary(frames, split, count):
    assert sum(original_split(frame) == split for frame in frames) == count


@pytest.mark.parametrize(("colour", "name", "train_id"), list(original_colours()), ids=str)
def test_every_original_colour_has_its_class(colour, name, train_id):
    assert SPEC.to_train_ids(np.full((1, 2, 3), colour, np.uint8)).tolist() == [[train_id, train_id]]


def test_there_are_no_other_original_colours():
    assert set(ORIGINAL_COLOURS) == {colour for colour, _, _ in original_colours()}
    assert len(ORIGINAL_COLOURS) == 32


def test_the_colours_for_pictures_are_those_of_the_original_release():
    assert [ORIGINAL_COLOURS[colour] for colour in PALETTE] == list(range(11))


@pytest.mark.parametrize("grey", [0, 128])
def test_an_original_label_of_only_grey_colours_is_not_mistaken_for_ids(tmp_path, grey):
    save(tmp_path / "701_StillsRaw_full" / "0016E5_07959.png", picture())
    save(tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png", np.full((6, 8, 3), grey, np.uint8))
    label = load_pair(SPEC, SPEC.find_pairs(tmp_path, "val")[0]).label
    assert (label == (255 if grey == 0 else CLASSES.index("sky"))).all()


def test_a_colour_that_does_not_exist_names_the_file_and_the_colour(tmp_path):
    image = save(tmp_path / "a.png", picture())
    label = save(tmp_path / "a_L.png", np.full((6, 8, 3), (60, 40, 222), np.uint8))
    with pytest.raises(BadPairError) as error:
        load_pair(SPEC, Pair("a", image, label))
    assert str(error.value) == f"{label}: colour #3c28de (48 pixels) is not among the 32 label colours of CamVid."


def test_palette_labels_are_read_as_grey_ones_are(tmp_path):
    label = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    image = save(tmp_path / "a.png", picture())
    grey = save(tmp_path / "grey.png", label)
    palette = save(tmp_path / "palette.png", with_palette(label, [*PALETTE, (0, 0, 0)]))
    found = [load_pair(SPEC, Pair("a", image, path)).label for path in (grey, palette)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("folder", "make", "found"),
    [
        ("val", False, "does not exist"),
        ("val", True, "exists, but holds no images"),
        ("701_StillsRaw_full", True, "exists, but holds no images"),
    ],
)
def test_a_missing_or_empty_folder_is_named_with_what_belongs_there(tmp_path, folder, make, found):
    if make:
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="found no pairs") as error:
        SPEC.find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"camvid: found no pairs of split 'val': {tmp_path / folder} {found}. Expected val/*.png (or .jpg) and "
        "valannot/*.png or val_labels/*_L.png, or the original 701_StillsRaw_full/*.png and "
        "LabeledApproved_full/*_L.png. "
        'How to get the data is in the README under "Datasets"; --dataset mini-camvid needs none.'
    )
