"""One shard: pairs of image and label, checked, as the rows of a Parquet file that says of itself what it holds.

A row is one image: the file's bytes as they are, and its label as a PNG of train ids.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.storage import Folder, locate
from pixcon_core.data import BadPairError, DatasetSpec, Pair, Sample, encode_label, load_pair

FORMAT = 2
ROWS_PER_GROUP = 8
METADATA = "pixcon"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("label", pa.binary()),
        ("crc32", pa.uint32()),  # of image and label: damage to a JPEG may go unnoticed when it is decoded
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("classes", pa.list_(pa.uint8())),  # train ids that occur, for sampling by class
        ("split", pa.string()),
    ]
)


class Skipped(NamedTuple):
    """An image left out, and why."""

    split: str
    id: str
    reason: str


class Chunk(NamedTuple):
    """The pairs that become one shard."""

    split: str
    file: str
    pairs: list[Pair]


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself, in its own metadata."""

    fingerprint: str
    """Of the raw files."""
    split: str
    file: str
    rows: int
    class_pixels: tuple[int, ...]
    pixels: int
    """Of all images, labelled or not."""
    skipped: tuple[Skipped, ...]
    sha256: str
    """Of ids, images and labels."""

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps({"format": FORMAT} | asdict(self) | {"skipped": [one._asdict() for one in self.skipped]})

    @classmethod
    def from_json(cls, text: str | bytes) -> "ShardInfo | None":
        """Return what `to_json` wrote; None if that was of another format."""
        fields = json.loads(text)
        if fields.pop("format", None) != FORMAT:
            return None
        skipped = tuple(Skipped(**one) for one in fields.pop("skipped"))
        return cls(**fields | {"class_pixels": tuple(fields["class_pixels"])}, skipped=skipped)


def read_info(folder: Folder, name: str) -> "ShardInfo | str | None":
    """Return what a shard says of itself; "foreign", "old" (of another format), or None where it cannot be read."""
    try:
        with folder.open(name) as file:
            text = (pq.read_metadata(file).metadata or {}).get(METADATA.encode())
    except (pa.ArrowException, OSError):
        return None
    if text is None:
        return "foreign"
    return ShardInfo.from_json(text) or "old"


def write_shard(row: dict[str, Any], spec: DatasetSpec, chunks: list[Chunk], place: str, mark: str) -> dict[str, Any]:
    """Check the pairs of one shard and write it; a failure to write comes back as text."""
    info, data = _make_shard(spec, chunks[int(row["id"])], mark)
    try:
        locate(place).write(info.file, data)
    except OSError as error:
        return {"info": "", "failure": str(error)}
    return {"info": info.to_json(), "failure": ""}


def _make_shard(spec: DatasetSpec, chunk: Chunk, mark: str) -> tuple[ShardInfo, pa.Buffer]:
    """Return a shard as bytes; what a later, resumed call needs to know of it is in its own metadata."""
    skipped: list[Skipped] = []
    num_pixels = 0
    class_pixels = np.zeros(len(spec.classes), dtype=np.int64)
    digest = hashlib.sha256()
    sink, num_rows, group = pa.BufferOutputStream(), 0, list[dict[str, Any]]()
    with pq.ParquetWriter(sink, SCHEMA, compression="none") as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA), row_group_size=ROWS_PER_GROUP)
            group.clear()

        for pair in chunk.pairs:
            try:
                sample = load_pair(spec, pair)
            except BadPairError as error:
                skipped.append(Skipped(chunk.split, pair.id, str(error)))
                continue
            counts = np.bincount(sample.label.ravel(), minlength=256)[: len(spec.classes)]
            class_pixels += counts
            num_pixels += sample.label.size
            made = _row(sample, counts, chunk.split)
            for part in (made["id"].encode(), made["image"], made["label"]):
                digest.update(f"{len(part)} ".encode())
                digest.update(part)
            group.append(made)
            num_rows += 1
            if len(group) == ROWS_PER_GROUP:
                flush()
        if group:
            flush()
        info = ShardInfo(
            mark,
            chunk.split,
            chunk.file,
            num_rows,
            tuple(class_pixels.tolist()),
            num_pixels,
            tuple(skipped),
            digest.hexdigest(),
        )
        writer.add_key_value_metadata({METADATA: info.to_json()})
    return info, sink.getvalue()


def _row(sample: Sample, counts: np.ndarray, split: str) -> dict[str, Any]:
    label = encode_label(sample.label)
    return {
        "id": sample.id,
        "image": sample.image,
        "label": label,
        "crc32": zlib.crc32(label, zlib.crc32(sample.image)),
        "height": sample.height,
        "width": sample.width,
        "classes": np.flatnonzero(counts).tolist(),
        "split": split,
    }
