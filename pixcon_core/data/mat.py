"""Label maps in MATLAB files, as PASCAL-Context and COCO-Stuff 10k come.

Reads matrices of numbers from files of versions 5 to 7, which is all that these have. scipy's reader knows more, but on
some damaged files it takes the whole process down.

Source:
    MathWorks, "MAT-File Format": elements of type, size and data; a matrix is an element made of others.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

HEADER = 128
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How numbers are stored; a matrix of floats may be stored as smaller whole numbers."""
CLASSES = range(6, 16)
"""Matrices of numbers; those before are cells, structures, objects, texts and sparse matrices."""
COMPLEX = 0x800


class Element(NamedTuple):
    """A piece of a file."""

    kind: int
    data: bytes


def read_label_mat(path: Path, key: str) -> Shaped[np.ndarray, "height width"]:
    """Read one matrix of a .mat file.

    Raises:
        ValueError: If the file is damaged or has no such matrix of whole numbers.
    """
    data = path.read_bytes()
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(data[HEADER - 4 : HEADER])  # version and order of bytes
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5 to 7")
    try:
        for element in _elements(data[HEADER:], order):
            if element.kind == COMPRESSED:
                element = next(_elements(zlib.decompress(element.data), order))
            matrix = _matrix(element, order, key) if element.kind == MATRIX else None
            if matrix is not None:
                return matrix
    except (struct.error, zlib.error, StopIteration) as error:
        raise ValueError(f"it is damaged: {str(error) or 'it ends too soon'}") from None
    raise ValueError(f"it has no matrix {key!r}")


def _elements(data: bytes, order: str) -> Iterator[Element]:
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes share the eight of type and size
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        stop = start + size
        if stop > len(data) or (start == at + 4 and size > 4):
            raise ValueError("it is damaged: an element is longer than what holds it")
        yield Element(kind, data[start:stop])
        at = stop if kind == COMPRESSED else stop + -stop % 8


def _matrix(element: Element, order: str, key: str) -> Shaped[np.ndarray, "height width"] | None:
    """Return the matrix in an element, or None if it has another name."""
    parts = list(islice(_elements(element.data, order), 4))
    if len(parts) < 3 or parts[2].data != key.encode():
        return None
    flags, sizes, _, *values = parts
    (flag,) = struct.unpack_from(f"{order}I", flags.data)
    shape = tuple(np.frombuffer(sizes.data[: len(sizes.data) // 4 * 4], f"{order}i4").tolist())
    if flag & 0xFF not in CLASSES or flag & COMPLEX or len(shape) != 2:
        raise ValueError(
            f"its {key!r} must be a matrix of whole numbers, but is of class {flag & 0xFF} and size {shape}"
        )
    numbers = _numbers(values[0], order) if values else np.empty(0, np.uint8)
    if numbers.size != shape[0] * shape[1] or min(shape) < 0:
        raise ValueError(f"it is damaged: its {key!r} has {numbers.size} numbers for a matrix of {shape}")
    if numbers.dtype.kind == "f":
        whole = np.isfinite(numbers).all() and (numbers == numbers.round()).all() and (abs(numbers) < 2**53).all()
        if not whole:
            raise ValueError(f"its {key!r} must be a matrix of whole numbers, but has fractions")
        numbers = numbers.astype(np.int64)
    return numbers.reshape(shape, order="F")


def _numbers(values: Element, order: str) -> Shaped[np.ndarray, " number"]:
    if values.kind not in TYPES:
        raise ValueError(f"it is damaged: there are no numbers of type {values.kind}")
    kind = np.dtype(order + TYPES[values.kind])
    if len(values.data) % kind.itemsize:
        raise ValueError("it is damaged: its last number is cut short")
    return np.frombuffer(values.data, kind)
