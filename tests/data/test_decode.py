"""Image files of every colour mode, turned, damaged and oversized."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from data.files import encoded, picture, save, with_orientation, with_palette
from pixcon_core.data import decode_image, decode_label, encode_label
from pixcon_core.data.decode import read_label_png

RED_GREEN = ((255, 0, 0), (0, 255, 0))
INDICES = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
DEEP = np.array([[0, 128, 129, 257], [300, 32768, 65407, 65535]], np.uint16)


def thrice(grey):
    return np.stack([grey] * 3, axis=-1)


def see_through(mode):
    image = Image.fromarray(picture()).convert(mode)
    image.putalpha(Image.fromarray(picture()[..., 0]))
    return image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encoded(picture()), picture(), id="RGB"),
        pytest.param(encoded(GREY), thrice(GREY), id="L"),
        pytest.param(encoded(GREY > 50), thrice(np.uint8(255) * (GREY > 50)), id="1"),
        pytest.param(encoded(with_palette(INDICES, RED_GREEN)), np.array(RED_GREEN, np.uint8)[INDICES], id="P"),
        pytest.param(
            encoded(with_palette(INDICES, RED_GREEN), transparency=bytes([0, 128])),
            np.array(RED_GREEN, np.uint8)[INDICES],
            id="P-with-transparency",
        ),
        pytest.param(encoded(see_through("RGB")), picture(), id="RGBA"),
        pytest.param(encoded(see_through("L")), thrice(np.asarray(Image.fromarray(picture()).convert("L"))), id="LA"),
        pytest.param(encoded(DEEP), thrice(np.uint8(np.round(DEEP / 257))), id="16-bit-PNG"),
        pytest.param(encoded(DEEP, "TIFF"), thrice(np.uint8(np.round(DEEP / 257))), id="16-bit-TIFF"),
        pytest.param(
            encoded(DEEP.astype(np.int32), "TIFF"), thrice(np.uint8(np.round(DEEP / 257))), id="16-bit-values-in-32"
        ),
        pytest.param(encoded(picture(), "TIFF", mode="CMYK"), picture(), id="CMYK"),
        pytest.param(encoded(picture(), "WEBP", lossless=True), picture(), id="WebP"),
        pytest.param(encoded(picture(), "BMP"), picture(), id="BMP"),
    ],
)
def test_every_colour_mode_becomes_rgb(data, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_image(data)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.float32([[0, 0.5, 1]]), "its pixels are floats, of which no range is known; save it as 8 or 16 bits"),
        (np.int32([[0, 65536]]), "of 32 bits, from 0 to 65536, where 0 to 65535 are expected; save it as 8 or 16 bits"),
        (np.int32([[-1, 9]]), "of 32 bits, from -1 to 9, where 0 to 65535 are expected; save it as 8 or 16 bits"),
    ],
    ids=["floats", "too-large", "negative"],
)
def test_what_would_be_clipped_is_refused(pixels, reason):
    with pytest.raises(ValueError, match=reason):
        decode_image(encoded(pixels, "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_come_out_in_about_their_colours(mode):
    pixels = np.full((16, 16, 3), (200, 60, 90), np.uint8)
    image = decode_image(encoded(pixels, "JPEG", mode=mode, quality=95))
    expected = np.asarray(Image.fromarray(pixels).convert(mode).convert("RGB"))
    assert np.abs(image.astype(int) - expected).max() <= 4


def test_the_first_frame_stands_for_all(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    path = save(tmp_path / "two.tif", frames[0], save_all=True, append_images=frames[1:])
    assert (decode_image(path.read_bytes()) == 10).all()


# What a camera stores of an upright picture, by the EXIF orientation that it notes.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_a_picture_is_turned_as_its_exif_data_say(orientation):
    data = encoded(np.ascontiguousarray(STORED[orientation](picture())), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode_image(data), picture())


@pytest.mark.parametrize("orientation", STORED)
def test_turned_jpegs_come_out_as_pillow_itself_turns_them(tmp_path, orientation):
    path = save(tmp_path / "turned.jpg", picture(), exif=with_orientation(orientation))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(path.read_bytes()), expected)


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("size", [(6, 8), (8, 6), (8, 8), None], ids=str)
def test_a_label_drawn_on_the_stored_picture_keeps_it_as_stored(orientation, size):
    data = encoded(picture(height=6, width=8), exif=with_orientation(orientation))
    image = decode_image(data, size)
    if size == (6, 8):
        np.testing.assert_array_equal(image, picture())
    else:
        assert image.shape[:2] == (8, 6)


@pytest.mark.parametrize("orientation", STORED)
def test_where_a_label_fits_both_ways_the_picture_is_upright(orientation):
    upright = picture(height=6, width=6)
    data = encoded(np.ascontiguousarray(STORED[orientation](upright)), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode_image(data, (6, 6)), upright)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_pictures_that_keep_their_size_when_turned_are_upright(orientation):
    data = encoded(np.ascontiguousarray(STORED[orientation](picture())), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode_image(data, (6, 8)), picture())


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    data = encoded(picture(), exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode_image(data), picture())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger than file")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\xff\xff\xff\xff"]
)
def test_damaged_exif_data_do_not_spoil_the_picture(exif):
    assert decode_image(encoded(picture(), "JPEG", exif=exif)).shape == (6, 8, 3)


NO_IMAGE = "it is not an image, or of an unknown format"


@pytest.mark.parametrize("decode", [decode_image, decode_label])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", NO_IMAGE, id="empty"),
        pytest.param(b"404: Not Found\n", NO_IMAGE, id="text"),
        pytest.param(bytes(1000), NO_IMAGE, id="zeros"),
        pytest.param(encoded(picture(), "EPS"), NO_IMAGE, id="a-program-in-PostScript"),
    ],
)
def test_what_is_no_image_is_refused(decode, data, reason):
    with pytest.raises(ValueError, match=reason):
        decode(data)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {})],
    ids=str,
)
def test_files_cut_short_are_refused(form, options, share):
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    data = encoded(noise, form, **options)
    with pytest.raises(ValueError, match=r"it cannot be decoded: |it is not an image"):
        decode_image(data[: int(share * len(data))])


def test_nothing_in_the_package_makes_pillow_accept_truncated_files():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_flipped_bit_anywhere_in_a_png_is_refused_or_changes_nothing():
    label = np.random.default_rng(0).integers(19, size=(12, 16), dtype=np.uint8)
    data = encode_label(label)
    refused = 0
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        try:
            found = decode_label(bytes(damaged))
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(found, label)
    assert refused > 0.95 * 8 * len(data)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_damaged_in_the_middle_is_refused_or_keeps_its_size(progressive):
    """More cannot be asked: JPEG has no checksums, and most damage decodes to something."""
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(48, 64, 3), dtype=np.uint8)
    data = encoded(noise, "JPEG", progressive=progressive)
    refused = 0
    for _ in range(100):
        start = int(rng.integers(len(data) // 3, len(data) // 2))
        damaged = data[:start] + rng.bytes(500) + data[start + 500 :]
        try:
            assert decode_image(damaged).shape == (48, 64, 3)
        except ValueError:
            refused += 1
    assert refused > 30


def png_of_claimed_size(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of_claimed_size(width, height):
    data = encoded(picture(), "JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


@pytest.mark.parametrize("data", [png_of_claimed_size(60_000, 60_000), jpeg_of_claimed_size(65_000, 65_000)])
def test_images_of_absurd_size_are_refused_before_they_take_memory(data):
    with pytest.raises(ValueError, match=r"pixels\) exceeds limit"):
        decode_image(data)


def test_images_larger_than_pillow_likes_are_decoded_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(encoded(picture(height=10, width=20))).shape == (10, 20, 3)
    with pytest.raises(ValueError, match="exceeds limit of 200 pixels"):
        decode_image(encoded(picture(height=10, width=21)))


def test_labels_survive_encoding():
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    found = decode_label(encode_label(label))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_labels_of_one_row_or_column_survive_encoding(shape):
    label = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.testing.assert_array_equal(decode_label(encode_label(label)), label)


VOC_COLOURS = ((0, 0, 0), (128, 0, 0))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param(GREY, GREY, id="grey"),
        pytest.param(with_palette(INDICES, VOC_COLOURS), INDICES, id="palette-gives-indices"),
        pytest.param(with_palette(INDICES, ((9, 9, 9), (3, 3, 3))), INDICES, id="whatever-its-colours"),
        pytest.param(GREY > 50, np.uint8(GREY > 50), id="black-and-white-is-0-and-1"),
        pytest.param(DEEP, DEEP, id="16-bit"),
        pytest.param(picture(), picture(), id="colours"),
        pytest.param(see_through("RGB"), picture(), id="colours-with-alpha"),
        pytest.param(see_through("L"), np.asarray(Image.fromarray(picture()).convert("L")), id="grey-with-alpha"),
    ],
)
def test_label_files_are_read_as_they_are_stored(tmp_path, stored, expected):
    found = read_label_png(save(tmp_path / "label.png", stored))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
