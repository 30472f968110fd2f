"""What the ids and colours of a data set's labels mean, as text and as a hash: it decides what shards hold."""

import hashlib

import numpy as np

from pixcon_core.data import DATASETS, DatasetSpec


def meaning(spec: DatasetSpec) -> str:
    """Return name and classes of a data set, and the class of each id and of each colour of a user's own masks."""
    return f"{spec.name} {spec.classes} {_train_ids(spec)}\n{_own_colours(spec)}"


def meaning_hash(spec: DatasetSpec) -> str:
    """Return twelve digits of its hash."""
    return hashlib.sha256(meaning(spec).encode()).hexdigest()[:12]


def _train_ids(spec: DatasetSpec) -> list[int | None]:
    """Return the train id of every raw id of a byte, None where the data set has no such id."""
    ids: list[int | None] = []
    for raw in range(256):
        try:
            ids.append(int(spec.to_train_ids(np.full((1, 1), raw, np.uint8))[0, 0]))
        except ValueError:
            ids.append(None)
    return ids


def _own_colours(spec: DatasetSpec) -> str:
    """Return what the colours of a user's own masks mean; nothing where there are none."""
    if spec is DATASETS.get(spec.name):  # its colours are in the code; shards that are there stay what they are
        return ""
    try:
        found = spec.to_train_ids(np.array([spec.palette], np.uint8))
    except ValueError:
        return ""
    return f"{spec.palette} {found.tolist()}\n"
