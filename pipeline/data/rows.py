"""Reads rows of shards, wherever they lie; what has gone bad since they were written is named and does no harm."""

import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from pipeline.data.shards import RowGroup, Shards
from pipeline.data.storage import Folder, is_url, locate
from pixcon_core.data import decode_image, decode_label

COLUMNS = ["id", "image", "label", "crc32"]
PATIENCE_SECONDS = 120.0
"""So long storage that cannot be reached is tried again."""
BLOCK_COLUMNS = ("number", "id", "image", "label", "reason")
"""What `read_blocks` returns."""


class Row(NamedTuple):
    """Where an image lies."""

    group: RowGroup
    place: int
    """Row within the group."""


class Stored(NamedTuple):
    """An image and its label, decoded."""

    id: str
    image: UInt8[np.ndarray, "height width 3"]
    label: UInt8[np.ndarray, "height width"]
    """Train ids."""


class Unreadable(NamedTuple):
    """An image that a shard no longer holds as it was written."""

    id: str
    """Where not even that can be read: shard and place in it."""
    reason: str


def read_rows(place: str, rows: list[Row]) -> Iterator[Stored | Unreadable]:
    """Yield the images of some rows, in their order; each row group is read once.

    Raises:
        OSError: If a shard is gone or its storage cannot be reached for `PATIENCE_SECONDS`, as against holding
            something else than was written.
    """
    folder = locate(place)
    wanted: dict[str, set[RowGroup]] = defaultdict(set)
    for row in rows:
        wanted[row.group.file].add(row.group)
    stored: dict[RowGroup, pa.Table | list[Unreadable]] = {}
    for name, groups in wanted.items():
        stored |= _read_patiently(folder, name, groups)
    for row in rows:
        table = stored[row.group]
        yield table[row.place] if isinstance(table, list) else _decode(folder, row, table)


def split_rows(shards: Shards, split: str) -> list[Row]:
    """Return all rows of a split, in the order of the shards."""
    return [Row(group, i) for group in shards.splits[split].groups for i in range(group.rows)]


def read_blocks(numbers: dict[str, Any], *, folder: str, rows: list[Row], size: int) -> dict[str, Any]:
    """Read the rows of some blocks of `size` rows, whole and as they are, for `map_batches`.

    Returns:
        Columns `number` (place in `rows`), `id`, `image` and `label`; and `reason`, which says of an image why it
        cannot be read, and is empty for the others.
    """
    nothing = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8)
    out: dict[str, list[Any]] = {name: [] for name in BLOCK_COLUMNS}
    for block in numbers["id"]:
        first = int(block) * size
        for place, found in enumerate(read_rows(folder, rows[first : first + size]), start=first):
            sample = (found.id, *nothing, found.reason) if isinstance(found, Unreadable) else (*found, "")
            for column, value in zip(out.values(), (place, *sample), strict=True):
                column.append(value)
    return out


def _read_patiently(folder: Folder, name: str, groups: set[RowGroup]) -> dict[RowGroup, pa.Table | list[Unreadable]]:
    """Read row groups of a shard, again and again where its storage cannot be reached: networks come back."""
    give_up, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
    while True:
        try:
            return _read_groups(folder, name, groups)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if time.monotonic() + pause > give_up:
                raise
            print(f"{folder.shown(name)}: {error}; trying again in {pause:g} s", file=sys.stderr)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)


def _read_groups(folder: Folder, name: str, groups: set[RowGroup]) -> dict[RowGroup, pa.Table | list[Unreadable]]:
    """Return the row groups of a shard; of those that are damaged, what is wrong."""
    found: dict[RowGroup, pa.Table | list[Unreadable]] = {}
    with folder.open(name) as source:
        try:
            # One request for a row group, where each costs a round trip; a local file needs no buffer.
            file = pq.ParquetFile(source, pre_buffer=is_url(folder.name))
        except (pa.ArrowException, OSError) as error:
            _check_storage(folder, name)
            return {group: [_unreadable(folder, Row(group, i), error) for i in range(group.rows)] for group in groups}
        for group in groups:
            try:
                found[group] = file.read_row_group(group.group, columns=COLUMNS)
            except (pa.ArrowException, OSError) as error:
                _check_storage(folder, name)
                ids = _ids(file, group)
                found[group] = [_unreadable(folder, Row(group, i), error, ids[i]) for i in range(group.rows)]
    return found


def _ids(file: pq.ParquetFile, group: RowGroup) -> list[str | None]:
    """Return the ids of a row group whose other columns are damaged."""
    try:
        ids = file.read_row_group(group.group, columns=["id"])["id"].to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        ids = []
    return ids if len(ids) == group.rows else [None] * group.rows


def _check_storage(folder: Folder, name: str) -> None:
    """Raise what reading a file raises: Arrow has one kind of error for bad bytes and for bytes that do not come."""
    folder.read(name)


def _decode(folder: Folder, row: Row, table: pa.Table) -> Stored | Unreadable:
    try:
        id_, image, label, crc32 = (table[name][row.place].as_py() for name in COLUMNS)
    except (ValueError, IndexError) as error:  # an id that is no text; or fewer rows than there were
        return _unreadable(folder, row, error)
    try:
        # The checksum comes last: what decoding says of damage tells more.
        ids = decode_label(label)
        pixels = decode_image(image, size=ids.shape)
        if zlib.crc32(label, zlib.crc32(image)) != crc32:
            raise ValueError("its bytes are not those that were written (checksum)")
    except ValueError as error:
        return _unreadable(folder, row, error, id_)
    return Stored(id_, pixels, ids)


def _unreadable(folder: Folder, row: Row, error: Exception, id_: str | None = None) -> Unreadable:
    group = row.group
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return Unreadable(
        id_ or f"row {group.group}/{row.place} of {group.file}",
        f"{folder.shown(group.file)}: damaged since it was written: {text}.",
    )
