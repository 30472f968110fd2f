"""Decoded images in Ray's object store: read and decoded once, for all epochs, workers and trials."""

import ray

from pipeline.rows import Row, Stored, Unreadable, read_rows
from pipeline.shards import RowGroup, Shards
from pixcon_core.config import RunConfig

Cache = dict[RowGroup, "ray.ObjectRef[list[Stored | Unreadable]]"]
"""The images of each row group, decoded or on their way to be."""

BYTES_PER_PIXEL = 4
"""Three of the image, one of its label."""


def keep_decoded(shards: Shards, split: str, config: RunConfig) -> Cache | None:
    """Begin to decode a split into the object store, if the configuration says so.

    Returns at once. The images stay as long as this process holds what it gets, and are decoded again if a node that
    has them is lost.

    Returns:
        The images; None where they are to be read and decoded each time they are seen.

    Raises:
        ValueError: If they are to be kept and do not fit.
    """
    wanted, part = config.ingest.cache, shards.splits[split]
    images_seen = config.train.steps * config.train.batch_size
    if wanted == "off" or (wanted == "auto" and images_seen <= part.num_images):
        return None
    size = BYTES_PER_PIXEL * part.num_pixels
    room = config.ingest.cache_share * ray.cluster_resources().get("object_store_memory", 0.0)
    if size > room:
        if wanted == "auto":
            return None
        raise ValueError(
            f"ingest.cache=on: the {part.num_images} images of split {split} take {size / 1e9:.1f} GB decoded, and"
            f" ingest.cache_share={config.ingest.cache_share} of Ray's object store is {room / 1e9:.1f} GB. Start Ray"
            " with a larger one (ray start --object-store-memory), or set ingest.cache=off."
        )
    # Half a CPU: what waits for images holds a whole one.
    decode = ray.remote(num_cpus=0.5)(_decode)
    return {group: decode.remote(shards.folder, group) for group in part.groups}


def fetch(cache: Cache, rows: list[Row]) -> list[Stored | Unreadable]:
    """Return the images of some rows, in their order, without copying them."""
    groups = list({row.group: None for row in rows})
    found = dict(zip(groups, ray.get([cache[group] for group in groups]), strict=True))
    return [found[row.group][row.place] for row in rows]


def _decode(folder: str, group: RowGroup) -> list[Stored | Unreadable]:
    return list(read_rows(folder, [Row(group, place) for place in range(group.rows)]))
