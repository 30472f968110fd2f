"""Image and label files -> arrays. Refuses what is not whole."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
"""Pillow would try more, some of which start another program (EPS)."""

MAX_16_BIT = 65535
EXIF_ORIENTATION = 0x0112
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of an EXIF orientation upright. Pillow's own function also rewrites the EXIF data, and
fails where they are odd."""


def decode_image(
    data: bytes, size: tuple[int, int] | None = None, *, max_pixels: int | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image file of any colour mode to RGB.

    The orientation that a camera noted in EXIF is applied, except where the label was drawn on the picture as
    it is stored.

    Args:
        data: The file's bytes, in one of `FORMATS`.
        size: Height and width of the label, if there is one.
        max_pixels: Larger images are refused before they are decoded; None is Pillow's bound, 179 million.

    Returns:
        Colours in 0..255, read-only. 16-bit images are scaled down, alpha is dropped.

    Raises:
        ValueError: If the data is no image, is cut short, or cannot be turned into RGB. Damage in the middle of a
            JPEG goes unnoticed where it decodes to something: JPEG has no checksums, and Pillow does not pass on
            what its decoder warns of.
    """
    image = open_whole(data, max_pixels)
    turn = TO_UPRIGHT.get(_orientation(image))
    if turn is not None:
        upright = image.transpose(turn)
        only_stored_fits = size is not None and image.size == size[::-1] != upright.size
        image = image if only_stored_fits else upright
    return np.asarray(to_rgb(image))


def decode_label(data: bytes) -> UInt8[np.ndarray, "height width"]:
    """Decode a label PNG of train ids, as `encode_label` wrote it."""
    return np.asarray(open_whole(data))


def encode_label(ids: UInt8[np.ndarray, "height width"]) -> bytes:
    """Encode train ids as a grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, format="PNG")
    return buffer.getvalue()


def read_label_png(path: Path) -> Shaped[np.ndarray, "height width *colour"]:
    """Read a label image as it is: ids, palette indices, or (H, W, 3) colours.

    Raises:
        ValueError: If the file is no image, is damaged or cut short.
    """
    return as_stored(open_whole(path.read_bytes()))


def as_stored(image: Image.Image) -> Shaped[np.ndarray, "height width *colour"]:
    """Return the numbers of an image's pixels, without alpha; black and white are 0 and 1."""
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1])
    raw = np.asarray(image)
    return raw.astype(np.uint8) if raw.dtype == bool else raw


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an image file as it is stored; its pixels are not read.

    Raises:
        ValueError: If the file is no image.
    """
    try:
        with _bound(2**62), Image.open(file, formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:  # of many kinds, as below
        raise _undecodable(error) from None


def open_whole(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Open and decode the whole image, so that damage shows here and not later.

    Raises:
        ValueError: If the data is no image, is damaged or cut short.
    """
    try:
        with _bound(max_pixels):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.format == "PNG":
                image.verify()  # decoding skips the checksums; after this the file must be opened anew
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.load()
    except Exception as error:  # for damaged files Pillow raises what it meets: SyntaxError, struct.error, ...
        raise _undecodable(error) from None
    return image


@contextlib.contextmanager
def _bound(max_pixels: int | None) -> Iterator[None]:
    """Let Pillow refuse images of more pixels than this, unless None changes what it does, and not warn of others."""
    kept = Image.MAX_IMAGE_PIXELS
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = max_pixels // 2  # it warns of this many, and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def _undecodable(error: Exception) -> ValueError:
    if isinstance(error, UnidentifiedImageError):
        return ValueError("it is not an image, or of an unknown format")
    return ValueError(f"it cannot be decoded: {str(error) or type(error).__name__}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # whatever Pillow meets in damaged EXIF data; the picture itself is whole
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn an image of any mode into RGB: 16 bits are scaled down, alpha is dropped.

    Raises:
        ValueError: If its mode is not one of colours, or its values are floats or of more than 16 bits: what range
            they are of is not known.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floats, of which no range is known; save it as 8 or 16 bits")
    if image.mode.startswith("I"):  # "I;16", "I;16B", and "I" of 32 bit, which holds 16-bit values
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > MAX_16_BIT:
            raise ValueError(
                f"its pixels are of 32 bits, from {wide.min()} to {wide.max()}, where 0 to {MAX_16_BIT} are"
                " expected; save it as 8 or 16 bits"
            )
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB warns where the palette has transparency
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"its colour mode {image.mode} cannot be turned into RGB: {error}") from None
