"""Decoded images in Ray's object store: read and decoded once, for all epochs, workers and trials."""

import ray

from pipeline.data.rows import Row, Stored, Unreadable, read_rows
from pipeline.data.shards import RowGroup, Shards
from pixcon_core.config import RunConfig

Cache = dict[RowGroup, "ray.ObjectRef[list[Stored | Unreadable]]"]
"""The images of each row group, decoded or on their way to be."""

BYTES_PER_PIXEL = 4
"""Three of the image, one of its label."""


def decoded_size(shards: Shards, split: str) -> int:
    """Return the bytes that a split takes decoded."""
    return BYTES_PER_PIXEL * shards.splits[split].num_pixels


def keep_decoded(shards: Shards, split: str, config: RunConfig, *, taken: int = 0) -> Cache | None:
    """Begin to decode a split into the object store, if the configuration says so.

    Returns at once. The images stay as long as this process holds what it gets, and are decoded again if a node that
    has them is lost.

    Args:
        shards: The data set.
        split: Which of its splits.
        config: Of the run.
        taken: Bytes of `ingest.cache_share` that another split has already.

    Returns:
        The images; None where they are to be read and decoded each time they are seen.

    Raises:
        ValueError: If they are to be kept and do not fit.
    """
    wanted, part = config.ingest.cache, shards.splits[split]
    images_seen = config.train.steps * config.train.batch_size
    if wanted == "off" or (wanted == "auto" and images_seen <= part.num_images):
        return None
    size = decoded_size(shards, split)
    room = config.ingest.cache_share * ray.cluster_resources().get("object_store_memory", 0.0) - taken
    if size > room:
        if wanted == "auto":
            return None
        raise ValueError(
            f"ingest.cache=on: the {part.num_images} images of split {split} take {size / 1e9:.1f} GB decoded, and"
            f" ingest.cache_share={config.ingest.cache_share} of Ray's object store is {(room + taken) / 1e9:.1f} GB,"
            f" of which {taken / 1e9:.1f} GB are taken. Start Ray with a larger one (ray start --object-store-memory),"
            " or set ingest.cache=off."
        )
    # A whole CPU each: with parts of one, Ray starts so many processes at once that it warns of them.
    decode = ray.remote(num_cpus=1)(_decode)
    return {group: decode.remote(shards.folder, group) for group in part.groups}


def fetch(cache: Cache, rows: list[Row]) -> list[Stored | Unreadable]:
    """Return the images of some rows, in their order, without copying them."""
    groups = list({row.group: None for row in rows})
    found = dict(zip(groups, ray.get([cache[group] for group in groups]), strict=True))
    return [found[row.group][row.place] for row in rows]


def _decode(folder: str, group: RowGroup) -> list[Stored | Unreadable]:
    return list(read_rows(folder, [Row(group, place) for place in range(group.rows)]))
