"""Tables of raw ids and colours, against loops in plain Python."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.files import ids
from pixcon_core.data import DATASETS, IGNORE_INDEX
from pixcon_core.data.labels import IdTable, colours_to_ids
from pixcon_core.data.palette import bit_palette

TRAIN_IDS = {0: 2, 7: 0, 9: IGNORE_INDEX, 200: 1}
COLOURS = {(0, 0, 0): 1, (255, 0, 0): 0, (0, 128, 64): 2, (255, 255, 255): IGNORE_INDEX}


@pytest.fixture
def table():
    return IdTable("fields", TRAIN_IDS, "0, 7, 9 and 200")


def by_loop(raw, train_ids):
    """Train ids of a label, pixel by pixel; None if it has others."""
    rows = [[train_ids.get(int(value), 255 if value == 255 else None) for value in row] for row in raw]
    return None if any(value is None for row in rows for value in row) else rows


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int16", "int32", "int64", "uint64"])
def test_ids_of_any_whole_type_are_translated_as_by_a_loop(table, dtype):
    raw = np.array([[0, 7, 9], [200, 255, 0]], dtype)
    found = table(raw)
    assert found.dtype == np.uint8
    assert found.tolist() == by_loop(raw, TRAIN_IDS) == [[2, 0, 255], [1, 255, 2]]


@given(raw=arrays(st.sampled_from(["u1", "i2", "i8", "u8"]), (2, 3)))
def test_any_label_is_translated_as_by_a_loop_or_refused(raw):
    table = IdTable("fields", TRAIN_IDS, "0, 7, 9 and 200")
    expected = by_loop(raw, TRAIN_IDS)
    if expected is None:
        with pytest.raises(ValueError, match="among the ids of fields, which are 0, 7, 9 and 200"):
            table(raw)
    else:
        assert table(raw).tolist() == expected


@pytest.mark.parametrize(
    ("raw", "stray"),
    [
        (ids([0, 1, 7]), "id 1 (1 pixels) is not among"),
        (ids([3, 5, 5], [7, 5, 3]), "id 5 (3 pixels), id 3 (2 pixels) are not among"),
        (np.array([[-1, 0]], np.int16), "id -1 (1 pixels) is not among"),
        (np.array([[256, 0]], np.uint16), "id 256 (1 pixels) is not among"),
        (np.array([[2**40 + 7, 7]], np.int64), f"id {2**40 + 7} (1 pixels) is not among"),
        (np.array([[2**63 + 7, 7]], np.uint64), f"id {2**63 + 7} (1 pixels) is not among"),
    ],
)
def test_stray_ids_are_named_the_most_frequent_first(table, raw, stray):
    with pytest.raises(ValueError, match="not among") as error:
        table(raw)
    assert str(error.value).startswith(stray)


def test_of_many_stray_ids_eight_are_named(table):
    with pytest.raises(ValueError, match="id 108") as error:
        table(np.arange(101, 113, dtype=np.uint8)[None])
    assert "id 109" not in str(error.value)
    assert ", 4 more are not among the ids of fields" in str(error.value)


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), bool),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((2, 3, 1), np.uint8),
        np.zeros((2, 3, 0), np.uint8),
        np.arange(18, dtype=np.uint8).reshape(2, 3, 3),
    ],
    ids=lambda raw: f"{raw.dtype}{raw.shape}",
)
def test_what_is_no_map_of_ids_is_refused(table, raw):
    with pytest.raises(ValueError, match="it must have one integer id for each pixel, but has shape"):
        table(raw)


def test_ids_written_thrice_as_red_green_and_blue_are_ids(table):
    assert table(np.repeat(ids([0, 7], [9, 255])[..., None], 3, axis=2)).tolist() == [[2, 0], [255, 255]]


@pytest.mark.parametrize("name", DATASETS)
def test_255_is_ignored_in_every_data_set(name):
    assert (DATASETS[name].to_train_ids(np.full((2, 3), 255, np.uint8)) == IGNORE_INDEX).all()


@pytest.mark.parametrize("name", DATASETS)
def test_the_train_ids_of_every_data_set_are_its_classes_each_once(name):
    spec = DATASETS[name]
    found = []
    for raw in range(256):
        with contextlib.suppress(ValueError):
            found.append(int(spec.to_train_ids(ids([raw]))[0, 0]))
    assert sorted(i for i in found if i != IGNORE_INDEX) == list(range(len(spec.classes)))


@pytest.mark.parametrize("name", DATASETS)
def test_every_class_has_a_name_and_a_colour_of_its_own(name):
    spec = DATASETS[name]
    assert len(set(spec.classes)) == len(set(spec.palette)) == len(spec.classes)
    assert all(0 <= channel <= 255 for colour in spec.palette for channel in colour)


@given(label=arrays("u1", (3, 4), elements=st.integers(0, len(COLOURS) - 1)))
def test_colours_are_translated_as_by_a_loop(label):
    colours = list(COLOURS)
    raw = np.array(colours, np.uint8)[label]
    found = colours_to_ids(raw, COLOURS, "fields")
    assert found.dtype == np.uint8
    assert found.tolist() == [[COLOURS[colours[i]] for i in row] for row in label]


@pytest.mark.parametrize(
    ("colour", "name"), [((255, 0, 1), "ff0001"), ((1, 0, 0), "010000"), ((255, 255, 254), "fffffe")]
)
def test_a_colour_that_does_not_exist_is_named(colour, name):
    raw = np.zeros((2, 3, 3), np.uint8)
    raw[1, 1:] = colour
    with pytest.raises(ValueError, match=rf"^colour #{name} \(2 pixels\) is not among the 4 label colours of fields$"):
        colours_to_ids(raw, COLOURS, "fields")


@pytest.mark.parametrize("raw", [np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 3), np.uint16)], ids=["RGBA", "deep"])
def test_what_has_no_colours_of_8_bits_is_refused(raw):
    with pytest.raises(ValueError, match="it must have a colour for each pixel, but has shape"):
        colours_to_ids(raw, COLOURS, "fields")


def test_the_colours_dealt_out_are_those_of_pascal_voc():
    palette = bit_palette(255)
    assert palette[:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert palette[14] == (192, 128, 128)  # person
    assert palette[19] == (0, 64, 128)  # tv monitor
    assert len(set(palette) - {(0, 0, 0)}) == 255
