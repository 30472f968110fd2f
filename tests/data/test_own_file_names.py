"""Suffixes and lists of names, which tell the files of one's own data apart."""

import re

import pytest

from data.files import ids, picture, save
from pixcon_core.data import folder as folder_module
from pixcon_core.data import load_folder_spec, load_pair

CLASSES = 'classes = ["soil", "crop", "weed"]\n'


@pytest.fixture
def spec(tmp_path):
    """Make a data set of which both splits are described by the same lines; `{split}` stands for the name."""

    def spec(lines):
        text = "".join(f"[splits.{split}]\n{lines.replace('{split}', split)}\n" for split in ("train", "val"))
        (tmp_path / "fields.toml").write_text(CLASSES + text)
        return load_folder_spec(tmp_path / "fields.toml")

    return spec


@pytest.fixture
def found(spec, tmp_path):
    """List id, image and mask of a split, after making such files."""

    def found(lines, files=(), split="train"):
        for file in files:
            save(tmp_path / file, picture())
        return [
            (pair.id, pair.image.name, pair.label and pair.label.name)
            for pair in spec(lines).find_pairs(tmp_path, split)
        ]

    return found


FOLDERS = 'images = "images"\nmasks = "labels"\n'
ONE_FOLDER = 'images = "data"\nmasks = "data"\n'
LISTED = FOLDERS + 'list = "{split}.txt"'


@pytest.mark.parametrize("endings", [("", ""), (".png", ".png")], ids=["before-the-ending", "with-it"])
def test_suffixes_are_what_names_of_images_and_masks_have_more(found, endings):
    files = ["images/a_1_leftImg8bit.png", "images/b_leftImg8bit.png", "images/c_rightImg8bit.png"]
    files += [f"labels/{name}_gtFine_{kind}.png" for name in ("a_1", "b") for kind in ("color", "labelIds")]
    lines = f'{FOLDERS}image_suffix = "_leftImg8bit{endings[0]}"\nmask_suffix = "_gtFine_labelIds{endings[1]}"'
    assert found(lines, files) == [
        ("a_1", "a_1_leftImg8bit.png", "a_1_gtFine_labelIds.png"),
        ("b", "b_leftImg8bit.png", "b_gtFine_labelIds.png"),
    ]


@pytest.mark.parametrize(
    ("suffixes", "image", "mask"),
    [
        ('mask_suffix = "_mask"', "{}.png", "{}_mask.png"),
        ('image_suffix = "_rgb"', "{}_rgb.png", "{}.png"),
        ('image_suffix = "_rgb"\nmask_suffix = "_L"', "{}_rgb.png", "{}_L.png"),
        ('image_suffix = "_of_L"\nmask_suffix = "_L"', "{}_of_L.png", "{}_L.png"),
        ('image_suffix = "_L"\nmask_suffix = "_mask_L"', "{}_L.png", "{}_mask_L.png"),
        ('mask_suffix = ".png"', "{}.jpg", "{}.png"),
        ('image_suffix = ".jpg"', "{}.jpg", "{}.png"),
        ('image_suffix = ".png"\nmask_suffix = "_L"', "{}.png", "{}_L.png"),
    ],
)
def test_in_one_folder_suffixes_tell_images_from_masks(found, suffixes, image, mask):
    files = [f"data/{file.format(name)}" for name in ("a", "b_2") for file in (image, mask)]
    expected = [(name, image.format(name), mask.format(name)) for name in ("a", "b_2")]
    assert found(ONE_FOLDER + suffixes, [*files, "data/._a.png"]) == expected


def test_in_folders_of_their_own_images_may_end_as_masks_do(found):
    files = ["images/a.png", "images/front_L.png", "labels/a_L.png", "labels/front_L_L.png"]
    assert found(f'{FOLDERS}mask_suffix = "_L"', files) == [
        ("a", "a.png", "a_L.png"),
        ("front_L", "front_L.png", "front_L_L.png"),
    ]


def test_a_file_that_is_only_a_suffix_is_none(found):
    assert found(f'{FOLDERS}mask_suffix = "_L"', ["images/a.png", "labels/a_L.png", "labels/_L.png"]) == [
        ("a", "a.png", "a_L.png")
    ]


def test_where_no_image_has_the_suffix_it_is_named(found):
    with pytest.raises(ValueError, match=r"/images exists, but holds no images\. Expected images \*_rgb with one of"):
        found(f'{FOLDERS}image_suffix = "_rgb"', ["images/a.png", "labels/a.png"])


@pytest.mark.parametrize(("given", "of_a"), [("", "a"), ('mask_suffix = "_mask"', "a_mask")])
def test_where_no_mask_has_the_suffix_what_is_there_and_what_was_expected_are_named(found, given, of_a):
    with pytest.raises(ValueError, match="no image of split 'train' has a mask") as error:
        found(FOLDERS + given, ["images/a.jpg", "labels/a_L.png"])
    assert f"labels holds a_L.png, but the mask of a.jpg is {of_a} with one of the endings .png" in str(error.value)
    assert str(error.value).endswith("or say what their names have more by splits.train.mask_suffix.")


IMAGES = [f"{folder}/{name}.png" for folder in ("images", "labels") for name in ("a", "b.1", "c d")]


def test_lists_divide_a_folder_among_splits(found, tmp_path):
    (tmp_path / "train.txt").write_text("c d\na\n")
    (tmp_path / "val.txt").write_text("b.1\n")
    assert [name for name, *_ in found(LISTED, IMAGES)] == ["a", "c d"]
    assert found(LISTED, split="val") == [("b.1", "b.1.png", "b.1.png")]


@pytest.mark.parametrize(
    "text",
    [
        "a\n\n  \nb.1",
        "\ufeffa\r\nb.1\r\n",
        "a.jpg\nb.1.PNG\n",
        "images/a.png\n/data/somewhere/b.1.png\n",
        "images\\a.png\n C:\\data\\b.1 \n",
        "a\nb.1\na\n",
    ],
    ids=["blank-lines", "windows", "endings", "folders", "windows-folders", "twice"],
)
def test_a_list_may_be_written_in_many_ways(found, tmp_path, text):
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert [name for name, *_ in found(LISTED, IMAGES)] == ["a", "b.1"]


@pytest.mark.parametrize("suffix", ["_rgb", "_rgb.jpg"])
def test_a_list_may_name_images_with_their_suffix_or_without(found, tmp_path, suffix):
    (tmp_path / "train.txt").write_text("a\nb_rgb\nc_rgb.jpg\n")
    files = [file for name in "abcd" for file in (f"data/{name}_rgb.jpg", f"data/{name}.png")]
    lines = f'{ONE_FOLDER}image_suffix = "{suffix}"\nlist = "train.txt"'
    assert found(lines, files) == [(name, f"{name}_rgb.jpg", f"{name}.png") for name in "abc"]


def test_listed_names_without_an_image_are_counted_and_the_first_are_named(found, tmp_path):
    (tmp_path / "train.txt").write_text("a\n" + "".join(f"n{i}.jpg\n" for i in range(7)))
    with pytest.raises(ValueError, match="have no image") as error:
        found(LISTED, IMAGES)
    assert str(error.value) == (
        f"fields: 7 of the 8 names in {tmp_path / 'train.txt'} have no image in {tmp_path / 'images'}, such as"
        " 'n0.jpg', 'n1.jpg', 'n2.jpg', 'n3.jpg', 'n4.jpg'. Correct the list, or splits.train."
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "train.txt does not exist. Expected a text file of the images' names, one a line."),
        (b"\n \r\n", "train.txt exists, but names no images. Expected a text file"),
        ("a\nb\n".encode("utf-16"), "train.txt is not text in UTF-8, which a list of names must be."),
    ],
    ids=["none", "empty", "utf-16"],
)
def test_a_list_that_is_none_is_named(found, tmp_path, data, message):
    if data is not None:
        (tmp_path / "train.txt").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        found(LISTED, IMAGES)


def test_an_unlisted_image_need_have_no_mask_and_a_listed_one_without_is_found(found, tmp_path):
    (tmp_path / "train.txt").write_text("a\nb\n")
    files = ["images/a.png", "images/b.png", "images/c.png", "labels/a.png"]
    assert found(LISTED, files) == [("a", "a.png", "a.png"), ("b", "b.png", None)]


def test_masks_with_a_suffix_are_read(spec, tmp_path):
    save(tmp_path / "images" / "a.jpg", picture(1, 3))
    save(tmp_path / "labels" / "a_P.png", ids([2, 1, 255]))
    made = spec(f'{FOLDERS}mask_suffix = "_P"')
    assert load_pair(made, made.find_pairs(tmp_path, "train")[0]).label.tolist() == [[2, 1, 255]]


def test_the_split_in_the_modules_own_text_is_right(tmp_path):
    lines = folder_module.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if "image_suffix" in line) - 3
    train = "\n".join(line.strip() for line in lines[start : start + 6])
    (tmp_path / "fields.toml").write_text(f"{CLASSES}{train}\n{train.replace('train', 'val')}")
    (tmp_path / "train.txt").write_text("a\n")
    for file in ("a_rgb.jpg", "a_mask.png", "b_rgb.jpg", "b_mask.png"):
        save(tmp_path / "data" / file, picture())
    pairs = load_folder_spec(tmp_path / "fields.toml").find_pairs(tmp_path, "train")
    assert [(pair.id, pair.image.name, pair.label.name) for pair in pairs] == [("a", "a_rgb.jpg", "a_mask.png")]


SCENES = 'images = "scenes/*/rgb"\nmasks = "scenes/*/mask"\n'
SCENE_FILES = [f"scenes/{scene}/{kind}/{name}.png" for scene in "ab" for kind in ("rgb", "mask") for name in ("0", "1")]


def test_a_star_stands_for_sub_folders_which_tell_images_apart(found):
    hidden = ["scenes/.thumbs/rgb/0.png", "scenes/rgb/0.png", "scenes/a/rgb/deep/0.png", "scenes/a/rgb/._0.png"]
    pairs = [(f"{scene}/{name}", f"{name}.png", f"{name}.png") for scene in "ab" for name in "01"]
    assert found(SCENES, SCENE_FILES + hidden) == pairs


def test_masks_may_lie_in_a_tree_of_their_own(found, spec, tmp_path):
    lines = 'images = "leftImg8bit/{split}/*"\nmasks = "gtFine/{split}/*"\nimage_suffix = "_rgb"\nmask_suffix = "_ids"'
    files = [
        f"{top}/train/{city}/x_{end}.png" for city in "ab" for top, end in (("leftImg8bit", "rgb"), ("gtFine", "ids"))
    ]
    assert found(lines, files) == [(f"{city}/x", "x_rgb.png", "x_ids.png") for city in "ab"]
    (tmp_path / "gtFine" / "train" / "b" / "x_ids.png").unlink()
    assert [pair.label for pair in spec(lines).find_pairs(tmp_path, "train")][1] is None


@pytest.mark.parametrize("top", ["set [1]", "a?b", "[!x]"])
def test_in_names_with_stars_nothing_else_stands_for_something_else(found, top):
    files = [f"{folder}/{name}.png" for folder in (f"{top}/s", "set 1/s", "axb/s", "y/s") for name in ("m", "n_ids")]
    lines = f'images = "{top}/*"\nmasks = "{top}/*"\nmask_suffix = "_ids"'
    assert [name for name, *_ in found(lines, [*files, f"{top}/s/m_ids.png"])] == ["s/m"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a/0\nb/1\n", ["a/0", "b/1"]),
        ("b/1.png\n", ["b/1"]),
        ("/data/scenes/a/1.png\nscenes\\b\\0.png\n", None),
        ("a/only\n", ["a/only"]),
        ("only.png\n", ["a/only"]),
    ],
)
def test_a_list_names_images_of_sub_folders(found, tmp_path, text, names):
    (tmp_path / "train.txt").write_text(text)
    files = [*SCENE_FILES, "scenes/a/rgb/only.png", "scenes/a/mask/only.png"]
    lines = 'images = "scenes/*/rgb"\nmasks = "scenes/*/mask"\nlist = "train.txt"'
    assert [name for name, *_ in found(lines, files)] == (names or ["a/1", "b/0"])


def test_a_listed_name_that_two_sub_folders_have_is_none(found, tmp_path):
    (tmp_path / "train.txt").write_text("a/0\n1\n")
    with pytest.raises(ValueError, match=r"1 of the 2 names in .*train.txt have no image in .*, such as '1'"):
        found(SCENES + 'list = "train.txt"', SCENE_FILES)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            'images = "scenes"\nmasks = "masks"',
            "have some, which splits.train.images = 'scenes/*/*' takes",
        ),
        ('images = "none/*/rgb"\nmasks = "masks"', "none/*/rgb does not exist"),
        ('images = "scenes/*/rgb"\nmasks = "masks/*"', "masks/* holds no masks, but the mask of 0.png is a/0 with"),
        ('images = "scenes/*/rgb"\nmasks = "scenes/*/rgb"\nmask_suffix = "_ids"', "rgb holds 0.png, but the mask of"),
        ('images = "scenes/**"\nmasks = "masks"', "splits.train.images must have one * for each level of folders"),
    ],
)
def test_what_stars_do_not_find_is_named(found, lines, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        found(lines, SCENE_FILES)
