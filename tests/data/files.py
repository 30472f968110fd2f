"""Small pictures and labels, and the files that the tests read them from."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(height=6, width=8):
    """A picture of which no two pixels are alike, so that no turn of it looks like another."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 30 * y, 10 + 25 * x, 100 + 3 * y + 11 * x], axis=-1).astype(np.uint8)


def encoded(pixels, form="PNG", *, mode=None, **options):
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format=form, **options)
    return buffer.getvalue()


def save(path, pixels, **options):
    """Write an image file, and the folders that it lies in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    image.save(path, **options)
    return path


def ids(*rows):
    """A label of 8 bits, from its rows."""
    return np.array(rows, np.uint8)


def with_palette(indices, colours):
    """A palette image."""
    image = Image.fromarray(np.asarray(indices, np.uint8), mode="L").copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def with_orientation(number):
    """EXIF data that say how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif
