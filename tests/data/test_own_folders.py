"""A user's own folders, described by a TOML or YAML file."""

import numpy as np
import pytest

from data.files import ids, picture, save, with_palette
from pixcon_core.data import BadPairError, load_folder_spec, load_pair
from pixcon_core.data import folder as folder_module
from pixcon_core.data.palette import bit_palette

TOML = """
classes = ["soil", "crop", "weed"]
ignore = [3]
colours = [[90, 60, 40], [0, 160, 0], [200, 0, 60]]

[splits.train]
images = "train/images"
masks = "train/masks"

[splits.val]
images = "val/images"
masks = "val/masks"
"""

YAML = """
classes: [soil, crop, weed]
ignore: [3]
colours: [[90, 60, 40], [0, 160, 0], [200, 0, 60]]
splits:
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
"""

SPLITS = TOML[TOML.index("[splits.train]") :]
SOIL, CROP, WEED = (90, 60, 40), (0, 160, 0), (200, 0, 60)


@pytest.fixture
def describe(tmp_path):
    """Write a description and read it."""

    def describe(text, name="fields.toml"):
        (tmp_path / name).write_text(text)
        return load_folder_spec(tmp_path / name)

    return describe


@pytest.fixture
def root(tmp_path):
    for split, names in (("train", ("a.jpg", "b.png")), ("val", ("c.tif",))):
        for name in names:
            save(tmp_path / split / "images" / name, picture())
            save(tmp_path / split / "masks" / f"{name[0]}.png", ids(*[[0, 1, 2, 3, 255, 0, 1, 2]] * 6))
    return tmp_path


def masked(describe, tmp_path, text, mask):
    """Train ids of one mask in a data set of that description."""
    spec = describe(text)
    save(tmp_path / "train" / "images" / "a.png", picture(*np.asarray(mask).shape[:2]))
    save(tmp_path / "train" / "masks" / "a.png", mask)
    return load_pair(spec, spec.find_pairs(tmp_path, "train")[0]).label.tolist()


@pytest.mark.parametrize(("text", "name"), [(TOML, "fields.toml"), (YAML, "fields.yaml"), (YAML, "fields.yml")])
def test_the_worked_example(root, describe, text, name):
    spec = describe(text, name)
    assert spec.name == "fields"
    assert spec.classes == ("soil", "crop", "weed")
    assert spec.palette == (SOIL, CROP, WEED)
    assert spec.splits == ("train", "val")
    train, val = (spec.find_pairs(root, split) for split in spec.splits)
    assert [pair.id for pair in train] == ["a", "b"]
    assert [pair.image.name for pair in val] == ["c.tif"]
    assert load_pair(spec, train[0]).label[0].tolist() == [0, 1, 2, 255, 255, 0, 1, 2]


def test_the_example_in_the_modules_own_text_is_right(describe):
    text = folder_module.__doc__
    start, end = text.index("    classes ="), text.index("\nA mask has")
    spec = describe("\n".join(line.strip() for line in text[start:end].splitlines()))
    assert spec.classes == ("soil", "crop", "weed")
    assert spec.to_train_ids(ids([0, 1, 2, 3])).tolist() == [[0, 1, 2, 255]]


def test_colours_ignored_ids_and_other_splits_may_be_left_out_or_added(describe):
    spec = describe(f'name = "plants"\nclasses = ["a", "b"]\n{SPLITS}\n[splits.test]\nimages = "t"\nmasks = "tm"')
    assert spec.name == "plants"
    assert spec.palette == bit_palette(2)
    assert spec.splits == ("train", "val", "test")
    with pytest.raises(
        ValueError, match=r"^id 2 \(1 pixels\) is not among the ids of plants, which are 0, 1, 255 \(ignored\)$"
    ):
        spec.to_train_ids(ids([0, 1, 255, 2]))


def test_classes_may_have_ids_of_their_own(describe):
    spec = describe(f"ignore = [1, 200]\nclasses = {{ soil = 0, crop = 7, weed = 254 }}\n{SPLITS}")
    assert spec.classes == ("soil", "crop", "weed")
    assert spec.to_train_ids(ids([0, 7, 254, 1, 200, 255])).tolist() == [[0, 1, 2, 255, 255, 255]]


def test_a_text_that_windows_wrote_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "fields.toml").write_bytes(b"\xef\xbb\xbf" + TOML.replace("\n", "\r\n").encode())
    assert load_folder_spec(tmp_path / "fields.toml").name == "fields"


def test_folders_are_relative_to_the_root_that_is_given(root, describe, tmp_path, monkeypatch):
    spec = describe(TOML)
    root = root.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    with pytest.raises(ValueError, match="does not exist"):
        spec.find_pairs(tmp_path, "train")
    monkeypatch.chdir(root.parent)
    for given in (root, root.relative_to(root.parent)):
        assert [pair.image for pair in spec.find_pairs(given, "val")] == [given / "val" / "images" / "c.tif"]


def test_absolute_folders_are_taken_as_they_are(root, describe, tmp_path):
    spec = describe(TOML.replace('"val/', f'"{root}/val/'))
    assert len(spec.find_pairs(tmp_path / "elsewhere", "val")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ignore =", "ignored ="), "there is no field 'ignored'; there are name, classes, ignore, colours, splits"),
        (
            ('["soil", "crop", "weed"]', '["soil"]'),
            "classes must be two names or more, or a table of name = id, but is ['soil']",
        ),
        (
            ('["soil", "crop", "weed"]', '"soil"'),
            "classes must be two names or more, or a table of name = id, but is 'soil'",
        ),
        (
            ('["soil", "crop", "weed"]', '["soil", "crop", "soil"]'),
            "classes has a name twice: ['soil', 'crop', 'soil']",
        ),
        (
            ('["soil", "crop", "weed"]', '["soil", 1, ["x"]]'),
            "names of classes must be texts, but are ['soil', 1, ['x']]",
        ),
        (
            ('"crop"', '"sugar\u00a0beet"'),
            "names of classes must be of printable characters, without tabs, line breaks and special spaces, but"
            " 'sugar\\xa0beet' is not",
        ),
        (('["soil", "crop", "weed"]', '{"a\\tb" = 0, crop = 1, weed = 2}'), "special spaces, but 'a\\tb' is not"),
        (
            ('["soil", "crop", "weed"]', "{soil = 0, crop = 1, weed = 1}"),
            "two classes have the same id: {'soil': 0, 'crop': 1, 'weed': 1}",
        ),
        (
            ('["soil", "crop", "weed"]', "{soil = 0, crop = 1, weed = 255}"),
            "ids of classes must be numbers in 0..254, but are [0, 1, 255]; for black and white",
        ),
        (
            ('["soil", "crop", "weed"]', "{soil = -1, crop = 1, weed = 2}"),
            "ids of classes must be numbers in 0..254, but are [-1, 1, 2]",
        ),
        (
            ('["soil", "crop", "weed"]', "{soil = 0, crop = 1, weed = 1.5}"),
            "ids of classes must be numbers in 0..254, but are [0, 1, 1.5]",
        ),
        (
            ('["soil", "crop", "weed"]', "{soil = false, crop = true, weed = 2}"),
            "ids of classes must be numbers in 0..254, but are [False, True, 2]",
        ),
        (("[3]", "[2, 3]"), "ids [2] are both ignored and of a class"),
        (("[3]", "3"), "ignore must be a list of ids in 0..255, but is 3"),
        (("[3]", "[256]"), "ignore must be a list of ids in 0..255, but is [256]"),
        (("[3]", "[true]"), "ignore must be a list of ids in 0..255, but is [True]"),
        ((", [200, 0, 60]]", "]"), "there must be one colour for each class, but there are 2 for 3 classes"),
        (("[200, 0, 60]", "[0, 160, 0]"), "two classes have the same colour"),
        (("[200, 0, 60]", "[200, 0, 256]"), "colours must be a list of [red, green, blue], each in 0..255, but is "),
        (("[200, 0, 60]", '"red"'), "colours must be a list of [red, green, blue], each in 0..255, but is "),
        (
            ("[splits.val]", "[splits.test]"),
            "there must be sections splits.train and splits.val, but splits is {'train'",
        ),
        (("[splits.val]", "[folders.val]"), "there is no field 'folders'"),
        (
            ('masks = "val/masks"', 'labels = "val/masks"'),
            "splits.val must name the folders images and masks, but is {'images'",
        ),
        (('masks = "val/masks"', "masks = 3"), "splits.val must name the folders images and masks, but is {'images'"),
        (
            ("ignore =", 'mask_suffix = "_L"\nignore ='),
            "there is no field 'mask_suffix'; there are name, classes, ignore, colours, splits; it is given below each"
            " split",
        ),
        (
            ("[splits.val]", 'suffix = "_L"\n[splits.val]'),
            "there is no field splits.train.suffix; there are images, masks, image_suffix, mask_suffix, list",
        ),
        *(
            (("[splits.val]", f"[splits.val]\n{field} = {value}"), f"splits.val.{field} must be a text, but is {value}")
            for field, value in (("image_suffix", 3), ("mask_suffix", ["_L"]), ("list", ["a", "b"]))
        ),
        (
            ('masks = "val/masks"', 'masks = "val/images/"'),
            "splits.val has images and masks in one folder, 'val/images', so that image_suffix or mask_suffix must",
        ),
        (("ignore =", "name = 3\nignore ="), "name must be a text, but is 3"),
        *(
            (
                ("ignore =", f"name = {written}\nignore ="),
                f"name must be printable, without / and \\, and not begin with a dot, but is {name!r}.",
            )
            for written, name in (
                ("''", ""),
                ("'fields/2024'", "fields/2024"),
                ("'../escaped'", "../escaped"),
                ("'.hidden'", ".hidden"),
                (r"'a\b'", r"a\b"),
                (r'"a\nb"', "a\nb"),
            )
        ),
        (
            ("[splits.val]", '[splits."a/b"]\nimages = "i"\nmasks = "m"\n[splits.val]'),
            "splits must have names that are printable, without / and \\, and not begin with a dot, but one is 'a/b'.",
        ),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:45],
)
def test_a_description_that_does_not_fit_is_refused_with_the_reason(describe, tmp_path, change, message):
    assert change[0] in TOML
    with pytest.raises(ValueError, match="README") as error:
        describe(TOML.replace(*change))
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'fields.toml'}: ")
    assert message in text
    assert text.endswith('An example is in the README under "Datasets".')


def test_a_file_whose_name_will_not_do_is_told_of_the_field(describe):
    assert describe(f"name = 'a b-ç.1'\n{TOML}", ".toml.toml").name == "a b-ç.1"
    with pytest.raises(ValueError, match=r"dot, but is '\.toml', after the file; give another one: name = \.\.\."):
        describe(TOML, ".toml.toml")


def test_everything_that_is_wrong_is_said_at_once(describe):
    with pytest.raises(ValueError, match="README") as error:
        describe(TOML.replace("[splits.", "image_suffix = 3\nmask_sufix = 4\n[splits.") + "list = 5")
    parts = ("no field 'image_suffix'", "'mask_sufix'", "train.image_suffix", "train.mask_sufix", "splits.val.list")
    assert all(part in str(error.value) for part in parts)
    with pytest.raises(ValueError, match="README") as error:
        describe('classes = ["soil"]\nignore = "no"\nclases = 3\ncolours = 4')
    text = str(error.value)
    for part in ("'clases'", "classes must be", "ignore must be", "colours must be", "splits.train and splits.val"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("fields.json", "{}", "a description of data ends in .toml, .yaml or .yml."),
        ("fields.toml", "classes = [", "is not valid TOML: "),
        ("fields.yaml", "classes: [", "is not valid YAML: "),
        ("fields.yaml", "name: 2020-13-45", "is not valid YAML: month must be in 1..12"),
        (
            "fields.yaml",
            "- soil\n- crop",
            "must have fields name, classes, ignore, colours, splits, but holds ['soil', 'crop'].",
        ),
        ("fields.yaml", "", "must have fields name, classes, ignore, colours, splits, but holds None."),
        (
            "fields.yaml",
            YAML.replace("soil, crop", "yes, no"),
            "names of classes must be texts, but are [True, False, 'weed']",
        ),
        ("fields.yaml", YAML.replace("  val", "  3: {images: i, masks: m}\n  val"), "splits.3 must name the folders"),
    ],
    ids=["json", "toml", "yaml", "date", "list", "empty", "yes-and-no", "number-as-split"],
)
def test_a_file_that_is_no_description_is_refused(describe, tmp_path, name, text, message):
    with pytest.raises(ValueError, match=r"fields\.") as error:
        describe(text, name)
    assert str(error.value).startswith(f"{tmp_path / name}: {message}")


def test_a_description_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"fields\.toml: cannot be read: No such file or directory\.$"):
        load_folder_spec(tmp_path / "fields.toml")


@pytest.mark.parametrize("data", [b"name = '\xff'", b"\x00\xff\xfe"])
@pytest.mark.parametrize("name", ["fields.toml", "fields.yaml"])
def test_a_description_that_is_no_text_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: (is not valid|must have)"):
        load_folder_spec(tmp_path / name)


def test_a_split_that_there_is_not_is_named_with_those_there_are(root, describe):
    with pytest.raises(ValueError, match=r"^fields has no split 'test'; there are train, val\.$"):
        describe(TOML).find_pairs(root, "test")


@pytest.mark.parametrize(("make", "found"), [(False, "does not exist"), (True, "exists, but holds no images")])
def test_a_missing_or_empty_folder_is_named_with_what_belongs_there(describe, tmp_path, make, found):
    if make:
        save(tmp_path / "val" / "images" / "._c.png", picture())
    with pytest.raises(ValueError, match="found no pairs") as error:
        describe(TOML).find_pairs(tmp_path, "val")
    assert str(error.value) == (
        f"fields: found no pairs of split 'val': {tmp_path / 'val' / 'images'} {found}. Expected images with "
        "one of the endings .jpg .jpeg .png .tif .tiff .bmp .webp. "
        'How to get the data is in the README under "Datasets"; --dataset mini-camvid needs none.'
    )


def test_an_image_without_mask_has_none(root, describe):
    save(root / "train" / "images" / "d.bmp", picture())
    save(root / "train" / "masks" / "e.png", picture())
    (root / "train" / "masks" / "a.png").unlink()
    labels = {pair.id: pair.label for pair in describe(TOML).find_pairs(root, "train")}
    assert labels == {"a": None, "b": root / "train" / "masks" / "b.png", "d": None}


@pytest.mark.parametrize(("kind", "name"), [("images", "a.png"), ("masks", "a.tif")])
def test_two_files_of_one_name_are_refused(root, describe, kind, name):
    folder = root / "train" / kind
    save(folder / name, picture())
    with pytest.raises(ValueError, match="two") as error:
        describe(TOML).find_pairs(root, "train")
    assert str(error.value) == f"fields: {folder} has two {kind} of the name 'a'. Rename one of them."


@pytest.mark.parametrize(
    ("names", "there"),
    [(["a_mask.png", "b_mask.png"], "holds a_mask.png"), (["a.txt"], "holds no masks"), ([], "does not exist")],
)
def test_where_no_image_has_a_mask_what_is_there_and_what_was_expected_are_named(describe, tmp_path, names, there):
    save(tmp_path / "train" / "images" / "a.jpg", picture())
    masks = tmp_path / "train" / "masks"
    for name in names:
        masks.mkdir(exist_ok=True)
        (masks / name).touch()
    with pytest.raises(ValueError, match="no image of split 'train' has a mask") as error:
        describe(TOML).find_pairs(tmp_path, "train")
    assert f"{masks} {there}, but the mask of a.jpg is a with one of the endings .png" in str(error.value)


def test_masks_of_colours_are_read_by_their_colours(describe, tmp_path):
    mask = np.array([[SOIL, WEED], [WEED, CROP]], np.uint8)
    assert masked(describe, tmp_path, TOML, mask) == [[0, 2], [2, 1]]


def test_a_colour_that_no_class_has_is_named(describe, tmp_path):
    with pytest.raises(
        BadPairError, match=r"colour #010203 \(1 pixels\) is not among the 3 label colours of fields\.$"
    ):
        masked(describe, tmp_path, TOML, np.array([[SOIL, (1, 2, 3)]], np.uint8))


def test_without_colours_a_coloured_mask_is_refused(describe, tmp_path):
    text = f'classes = ["soil", "crop", "weed"]\n{SPLITS}'
    with pytest.raises(BadPairError, match=r"it must have one integer id for each pixel, but has shape \(1, 2, 3\)"):
        masked(describe, tmp_path, text, np.array([[SOIL, WEED]], np.uint8))


@pytest.mark.parametrize("classes", ['["soil", "crop"]', "{soil = 0, crop = 1}"])
def test_without_colours_masks_written_as_rgb_hold_ids(describe, tmp_path, classes):
    mask = np.repeat(ids([0, 1, 255])[..., None], 3, axis=2)
    assert masked(describe, tmp_path, f"classes = {classes}\n{SPLITS}", mask) == [[0, 1, 255]]


BLACK_AND_WHITE = f'classes = ["ground", "plant"]\ncolours = [[0, 0, 0], [255, 255, 255]]\n{SPLITS}'
REVERSED = f'classes = ["plant", "ground"]\ncolours = [[255, 255, 255], [0, 0, 0]]\n{SPLITS}'


@pytest.mark.parametrize("form", ["grey", "RGB", "1-bit", "palette"])
@pytest.mark.parametrize(("text", "expected"), [(BLACK_AND_WHITE, [[0, 1, 1]]), (REVERSED, [[1, 0, 0]])])
def test_black_and_white_masks_are_read_by_their_colours(describe, tmp_path, form, text, expected):
    grey = ids([0, 255, 255])
    mask = {
        "grey": grey,
        "RGB": np.repeat(grey[..., None], 3, axis=2),
        "1-bit": grey > 0,
        "palette": with_palette(ids([7, 3, 3]), [(i, i, i) for i in (1, 2, 3, 255, 5, 6, 7, 0)]),
    }[form]
    assert masked(describe, tmp_path, text, mask) == expected


def test_a_grey_that_no_class_has_is_stray(describe, tmp_path):
    with pytest.raises(BadPairError, match=r"id 1 \(2 pixels\) is not among the ids of fields, which are 0, 255\."):
        masked(describe, tmp_path, BLACK_AND_WHITE, ids([0, 1, 1]))


def test_without_colours_white_is_ignored(describe, tmp_path):
    text = f'classes = ["ground", "plant"]\n{SPLITS}'
    assert masked(describe, tmp_path, text, ids([0, 1, 255])) == [[0, 1, 255]]


def test_three_greys_and_an_ignored_one(describe, tmp_path):
    text = f'classes = ["a", "b"]\ncolours = [[0, 0, 0], [128, 128, 128]]\nignore = [64]\n{SPLITS}'
    assert masked(describe, tmp_path, text, ids([0, 128, 64, 255])) == [[0, 1, 255, 255]]


def test_palette_masks_whose_numbers_are_ids_are_read_as_grey_ones_are(describe, tmp_path):
    label = ids([0, 1, 2, 3, 255])
    palette = with_palette(label, ((0, 0, 0), *bit_palette(255)))
    assert masked(describe, tmp_path, TOML, palette) == masked(describe, tmp_path, TOML, label)


def test_palette_masks_whose_numbers_and_colours_agree_are_read(describe, tmp_path):
    assert masked(describe, tmp_path, TOML, with_palette(ids([0, 2, 1]), [SOIL, CROP, WEED])) == [[0, 2, 1]]


def test_palette_masks_whose_numbers_mean_nothing_are_read_by_their_colours(describe, tmp_path):
    mask = with_palette(ids([9, 7, 8]), [(0, 0, 0)] * 7 + [CROP, WEED, SOIL])
    assert masked(describe, tmp_path, TOML, mask) == [[0, 1, 2]]


def test_palette_masks_whose_numbers_and_colours_disagree_are_refused(describe, tmp_path):
    with pytest.raises(
        BadPairError, match="the colours of its palette mean other classes than their numbers do; save it as"
    ):
        masked(describe, tmp_path, TOML, with_palette(ids([0, 1, 2]), [WEED, CROP, SOIL]))
