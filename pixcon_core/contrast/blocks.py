"""Work cut to size: blocks of rows, tiles of anchors of one class, products with keys of another type."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Elements of one block of similarities or of gathered keys. On a CPU some tens of MiB stay near the caches
# and small beside the embeddings; a GPU is kept busy by larger ones.
_CPU_BLOCK = 2**23
_GPU_BLOCK = 2**26
# Anchors in a tile: large enough for the matrix product, small enough that few places stay empty.
_CPU_TILE = 32
_GPU_TILE = 16


class Tiles(NamedTuple):
    """Anchors put together by class; a tile holds one class only."""

    anchor: Int64[Tensor, "tile place"]
    """Index of the anchor, or the number of anchors where the place is empty."""
    label: Int64[Tensor, " tile"]
    """Class of the tile; 0 in tiles that are empty."""


def block_elements(device: torch.device) -> int:
    """Return how many elements a block may have."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


def blocks_of(rows: int, width: int, device: torch.device) -> list[slice]:
    """Return slices that cut `rows` rows of `width` elements into equal blocks of bounded size."""
    number = max(1, -(-rows * width // block_elements(device)))
    height = max(1, -(-rows // number))
    return [slice(begin, min(begin + height, rows)) for begin in range(0, rows, height)]


def class_tiles(labels: Int64[Tensor, " anchor"], num_classes: int) -> Tiles:
    """Put anchors into tiles by class.

    Args:
        labels: Class ids; -1 is left out.
        num_classes: Ids run from 0 to num_classes - 1.
    """
    height = _CPU_TILE if labels.device.type == "cpu" else _GPU_TILE
    sorted_labels, anchor = torch.sort(torch.where(labels >= 0, labels, num_classes), stable=True)
    begin = torch.searchsorted(sorted_labels, torch.arange(num_classes + 1, device=labels.device))
    tiles_of_class = (begin.diff() + height - 1) // height
    last_tile = tiles_of_class.cumsum(0)
    # At most one tile of each class is not full, so this many are enough whatever the labels are.
    number = len(labels) // height + min(num_classes, len(labels))
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        number = int(last_tile[-1])  # known without a wait, so no work for empty tiles
    tile = torch.arange(number, device=labels.device)
    label = torch.searchsorted(last_tile, tile, right=True)
    is_used = label < num_classes
    label = torch.where(is_used, label, 0)
    first = begin[label] + (tile - last_tile[label] + tiles_of_class[label]) * height
    place = first[:, None] + torch.arange(height, device=labels.device)
    exists = is_used[:, None] & (place < begin[label + 1, None])
    return Tiles(torch.where(exists, anchor[place.clamp(0, len(labels) - 1)], len(labels)), label)


def products(rows: Float[Tensor, "row dim"], keys: Float[Tensor, "key dim"]) -> Float[Tensor, "row key"]:
    """Return rows @ keys.T in the rows' type; keys stored in another are converted in parts."""
    if keys.dtype == rows.dtype:
        return rows @ keys.T
    parts = torch.split(keys, max(1, block_elements(rows.device) // keys.shape[1]))
    return torch.cat([rows @ part.to(rows.dtype).T for part in parts], dim=1)


def weighted_sums(weights: Float[Tensor, "row key"], keys: Float[Tensor, "key dim"]) -> Float[Tensor, "row dim"]:
    """Return weights @ keys in the weights' type; keys stored in another are converted in parts."""
    if keys.dtype == weights.dtype:
        return weights @ keys
    size = max(1, block_elements(weights.device) // keys.shape[1])
    total = weights.new_zeros(len(weights), keys.shape[1])
    for some, part in zip(torch.split(weights, size, dim=1), torch.split(keys, size), strict=True):
        total += some @ part.to(weights.dtype)
    return total
