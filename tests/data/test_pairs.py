"""One image with its label: what is kept of it, and what is refused with which words."""

import numpy as np
import pytest

from data.files import encoded, ids, picture, save, with_orientation
from pixcon_core.data import DATASETS, BadPairError, Pair, load_pair

SPEC = DATASETS["camvid"]


@pytest.fixture
def write(tmp_path):
    """Write an image and its label and return them as a pair."""

    def write(image=None, label=None):
        image = picture() if image is None else image
        image = image if isinstance(image, bytes) else encoded(image)
        label = np.zeros((6, 8), np.uint8) if label is None else label
        label = label if isinstance(label, bytes) else encoded(label)
        (tmp_path / "a.png").write_bytes(image)
        (tmp_path / "a_label.png").write_bytes(label)
        return Pair("a", tmp_path / "a.png", tmp_path / "a_label.png")

    return write


def refusal(pair, spec=SPEC):
    with pytest.raises(BadPairError) as error:
        load_pair(spec, pair)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert not text.endswith("..")
    return text


def test_a_sample_holds_the_image_file_as_it_is_and_the_train_ids(write):
    label = np.arange(48, dtype=np.uint8).reshape(6, 8) % 12
    pair = write(label=label)
    sample = load_pair(SPEC, pair)
    assert sample.id == "a"
    assert sample.image == pair.image.read_bytes()
    assert (sample.height, sample.width) == (6, 8)
    assert sample.label.dtype == np.uint8
    np.testing.assert_array_equal(sample.label, np.where(label == 11, 255, label))


def test_an_image_without_a_label_is_refused(write):
    pair = write()._replace(label=None)
    assert refusal(pair) == f"{pair.image}: has no label file."


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_that_is_gone_is_named_once(write, which):
    pair = write()
    getattr(pair, which).unlink()
    assert refusal(pair) == f"{getattr(pair, which)}: No such file or directory."


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is not an image, or of an unknown format"),
        (b"<html>moved</html>", "it is not an image, or of an unknown format"),
        (encoded(picture())[:-20], "it cannot be decoded: "),
    ],
    ids=["empty", "text", "cut-short"],
)
def test_a_damaged_file_is_named_with_the_reason(write, which, data, reason):
    pair = write(**{which: data})
    assert refusal(pair).startswith(f"{getattr(pair, which)}: {reason}")


def test_stray_ids_are_refused_with_the_labels_name(write):
    pair = write(label=np.full((6, 8), 200, np.uint8))
    expected = "id 200 (48 pixels) is not among the ids of CamVid, which are 0..10 and 11 for void."
    assert refusal(pair) == f"{pair.label}: {expected}"


def test_sizes_that_differ_are_refused_with_both(write):
    pair = write(label=np.zeros((8, 6), np.uint8))
    assert refusal(pair) == f"{pair.image}: is 8x6 pixels, but its label {pair.label} is 6x8."


@pytest.mark.parametrize("shape", [(1, 1), (6, 7), (5, 8), (60, 80)])
def test_a_label_of_any_other_size_is_refused(write, shape):
    assert "pixels, but its label" in refusal(write(label=np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_turned_image_fits_a_label_drawn_upright_or_as_stored(write, orientation):
    image = encoded(picture(height=6, width=8), "JPEG", exif=with_orientation(orientation))
    sizes = [(6, 8), (8, 6)] if orientation > 4 else [(6, 8)]
    for size in sizes:
        sample = load_pair(SPEC, write(image, np.zeros(size, np.uint8)))
        assert (sample.height, sample.width) == size == sample.label.shape


def test_a_turned_image_that_fits_neither_way_is_refused_with_its_upright_size(write):
    image = encoded(picture(height=6, width=8), "JPEG", exif=with_orientation(6))
    pair = write(image, np.zeros((7, 8), np.uint8))
    assert refusal(pair) == f"{pair.image}: is 6x8 pixels, but its label {pair.label} is 8x7."


def test_a_label_that_is_all_ignored_is_no_error(write):
    sample = load_pair(SPEC, write(label=np.full((6, 8), 255, np.uint8)))
    assert (sample.label == 255).all()


def test_a_deep_label_is_refused_only_for_stray_ids(write):
    assert load_pair(SPEC, write(label=np.full((6, 8), 3, np.uint16))).label.dtype == np.uint8
    assert "id 300 (48 pixels)" in refusal(write(label=np.full((6, 8), 300, np.uint16)))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "a.png").mkdir()
    label = save(tmp_path / "label.png", ids([0]))
    assert refusal(Pair("a", tmp_path / "a.png", label)) == f"{tmp_path / 'a.png'}: Is a directory."
