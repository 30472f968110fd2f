"""Raw label pixels -> train ids, by tables that know which raw ids there are."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

IGNORE_INDEX = 255
"""Train id of pixels that neither teach nor count; as a raw id it means the same unless a data set says otherwise."""

MOST_NAMED = 8
Colour = tuple[int, int, int]


class IdTable:
    """Train id of every raw id; 255 is ignored where nothing else is said."""

    def __init__(self, name: str, train_ids: Mapping[int, int], expected: str) -> None:
        """Build the table.

        Args:
            name: The data set, for messages.
            train_ids: Train id, or 255, by raw id.
            expected: What raw ids there are, for messages.
        """
        self.name, self.expected = name, expected
        size = max(*train_ids, IGNORE_INDEX) + 1
        self.table = np.full(size, IGNORE_INDEX, np.uint8)
        self.known = np.zeros(size, bool)
        self.known[IGNORE_INDEX] = True
        for raw, train_id in train_ids.items():
            self.table[raw], self.known[raw] = train_id, True

    def __call__(self, raw: Shaped[np.ndarray, "height width *colour"]) -> UInt8[np.ndarray, "height width"]:
        """Translate raw ids, also those that a tool has written thrice, as red, green and blue.

        Raises:
            ValueError: If `raw` is no map of ids, or has ids that the data set does not have.
        """
        if raw.ndim == 3 and raw.shape[2] == 3 and (raw == raw[..., :1]).all():
            raw = raw[..., 0]
        if raw.ndim != 2 or raw.dtype.kind not in "ui":
            raise ValueError(
                f"it must have one integer id for each pixel, but has shape {raw.shape} and type {raw.dtype}"
            )
        ids = raw if raw.dtype == np.uint8 else raw.astype(np.int64).clip(-1, len(self.table))
        inside = ids if raw.dtype == np.uint8 else ids.clip(0, len(self.table) - 1)
        known = self.known.take(inside)
        if raw.dtype != np.uint8:
            known &= ids == inside
        if not known.all():
            stray = _counts(raw[~known], "id ")
            raise ValueError(f"{stray} not among the ids of {self.name}, which are {self.expected}")
        train_ids: UInt8[np.ndarray, "height width"] = self.table.take(inside)
        return train_ids


def colours_to_ids(
    raw: Shaped[np.ndarray, "height width channel"], colours: Mapping[Colour, int], name: str
) -> UInt8[np.ndarray, "height width"]:
    """Translate a label painted in colours.

    Args:
        raw: Colours.
        colours: Id by colour, 255 for ignored.
        name: The data set, for messages.

    Raises:
        ValueError: If there are other colours, or none.
    """
    if raw.shape[2] != 3 or raw.dtype != np.uint8:
        raise ValueError(f"it must have a colour for each pixel, but has shape {raw.shape} and type {raw.dtype}")
    known = _pack(np.array(list(colours)))
    order = known.argsort()
    packed = _pack(raw)
    place = np.searchsorted(known[order], packed).clip(max=len(known) - 1)
    is_known = known[order][place] == packed
    if not is_known.all():
        stray = _counts(packed[~is_known], "colour #", "{:06x}")
        raise ValueError(f"{stray} not among the {len(known)} label colours of {name}")
    ids: UInt8[np.ndarray, "height width"] = np.array(list(colours.values()), np.uint8)[order][place]
    return ids


def _pack(colours: Integer[np.ndarray, "*pixels 3"]) -> Integer[np.ndarray, "*pixels"]:
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    packed: Integer[np.ndarray, "*pixels"] = red << 16 | green << 8 | blue
    return packed


def _counts(values: Integer[np.ndarray, " pixels"], kind: str, form: str = "{}") -> str:
    """Say which values there are and how often, the most frequent first."""
    ids, counts = np.unique(values, return_counts=True)
    order = (-counts).argsort()
    named = [f"{kind}{form.format(ids[i])} ({counts[i]} pixels)" for i in order[:MOST_NAMED]]
    if len(ids) > MOST_NAMED:
        named.append(f"{len(ids) - MOST_NAMED} more")
    return ", ".join(named) + (" is" if len(ids) == 1 else " are")
