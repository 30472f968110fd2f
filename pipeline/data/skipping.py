"""Images that can no longer be read: named in the run folder, and held to a share of their split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from pipeline.data.rows import Unreadable
from pipeline.data.shard_file import Skipped
from pipeline.data.shards import Shards, check_bad_share
from pipeline.progress import append_record, load_records

SKIPPED_FILE = "skipped.jsonl"
"""In the run folder: images that could not be read while it went on."""


class TooManySkippedError(ValueError):
    """More images cannot be read than may be."""


def skip(
    one: Unreadable, mailbox: Any, shards: Shards, split: str, *, max_bad_share: float, num_images: int | None = None
) -> None:
    """Report an image of a split that cannot be read.

    Args:
        one: The image.
        mailbox: A `Mailbox` actor, which knows of all others.
        shards: The prepared data set.
        split: The image's.
        max_bad_share: `ingest.max_bad_share`.
        num_images: Images of the split that are used; None for all.

    Raises:
        TooManySkippedError: If there are more than the share allows.
    """
    found = ray.get(mailbox.skip.remote(Skipped(split, *one)))
    check_skipped(found, shards, split, max_bad_share=max_bad_share, num_images=num_images)


def check_skipped(
    found: Sequence[Skipped], shards: Shards, split: str, *, max_bad_share: float, num_images: int | None = None
) -> None:
    """Refuse to go on where too many images of a split cannot be read.

    Args:
        found: Those found since the shards were written.
        shards: The prepared data set; it names those that were left out then.
        split: Theirs.
        max_bad_share: `ingest.max_bad_share`.
        num_images: Images of the split that are used; None for all.

    Raises:
        TooManySkippedError: If there are more than the share allows.
    """
    before = [other for other in shards.skipped if other.split == split]
    total = (shards.splits[split].num_images if num_images is None else num_images) + len(before)
    try:
        check_bad_share(shards.dataset, split, [*before, *found], total, max_bad_share)
    except ValueError as error:
        raise TooManySkippedError(str(error)) from None


def load_skipped(folder: Path) -> list[Skipped]:
    """Return the images that a run folder names, of before a resume as well."""
    return [Skipped(**record) for record in load_records(folder / SKIPPED_FILE)]


def store_skipped(folder: Path, one: Skipped) -> None:
    """Name an image in a run folder."""
    append_record(folder / SKIPPED_FILE, one._asdict())


def skipped_line(one: Skipped) -> str:
    """Return what a person is told of it."""
    return f"Skipped {one.split}/{one.id}: {one.reason}"
