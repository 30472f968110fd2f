"""The stored keys that a step looks at: all of them, or where they are many, one random sample of them.

The hardest tenth of some 10^5 to 10^6 negatives is all but the hardest tenth of a random 24 576 of them
(their own rank is known to 0.2 % of the whole), at a fraction of the matrix product. All keys of a step stand
in one random order; the sample is its beginning, so it is the same for all anchors, and a fresh one in each
step.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from pixcon_core.config import KeySampling
from pixcon_core.contrast.draws import MEMORY_KEY_ORDER, random_bits
from pixcon_core.contrast.memory import ClassMemory


class StoredKeys(NamedTuple):
    """A memory as one step sees it."""

    keys: Float[Tensor, "num_classes kind size dim"]
    """Unit length, detached."""
    is_filled: Bool[Tensor, "num_classes slot"]
    """Which of a class's slots, kinds one after the other, hold a key."""
    draws: Int64[Tensor, "num_classes slot"]
    """The random order of all keys: smallest first."""


class Columns(NamedTuple):
    """Stored keys that all anchors share as negatives."""

    keys: Float[Tensor, "key dim"]
    labels: Int64[Tensor, " key"]
    """Class of each; -1 where the slot is empty or the key is not in the sample."""
    draws: Float32[Tensor, " key"]
    """The random number of each."""


class ClassBlock(NamedTuple):
    """The stored keys of one class for each tile."""

    keys: Float[Tensor, "tile slot dim"]
    is_filled: Bool[Tensor, "tile slot"]
    draws: Float32[Tensor, "tile slot"]


def stored_keys(memory: ClassMemory, seed: Int64[Tensor, ""]) -> StoredKeys:
    """Return the memory's keys in this step's random order."""
    keys, is_filled = memory.keys, memory.is_filled()
    slots = torch.arange(is_filled.numel(), device=keys.device)
    draws = random_bits(seed, MEMORY_KEY_ORDER, slots).view(len(keys), -1)
    return StoredKeys(keys, is_filled.flatten(1), draws)


def sample_size(num: int | None, key_sampling: KeySampling, num_candidates: int | None) -> int | None:
    """Return how many keys to look at in order to choose `num`; None for all.

    Twelve for each one asked leave the hardest tenth larger than the draw; four leave a random draw full
    unless fewer than a quarter of the candidates turn out to be of the wanted sign.
    """
    if num is None or key_sampling == "hardest" or num_candidates is None:
        return None
    if key_sampling == "random":
        return max(min(num_candidates, 8192), 4 * num)
    return max(num_candidates, 12 * num)


def shared_columns(
    stored: StoredKeys, batch_draws: Int64[Tensor, " batch_key"], size: int | None
) -> tuple[Columns, Bool[Tensor, " batch_key"]]:
    """Return the stored keys among the first `size` of all keys, and which keys of the batch are among them.

    Args:
        stored: The memory.
        batch_draws: The random number of each key of the batch; 2^32 where there is none.
        size: Of the sample; None for all.
    """
    dim, slots = stored.keys.shape[-1], stored.is_filled.shape[1]
    flat = stored.keys.view(-1, dim)
    names = torch.arange(len(stored.keys), device=flat.device)[:, None]
    labels = torch.where(stored.is_filled, names, -1).flatten()
    everything = torch.cat([batch_draws, torch.where(labels >= 0, stored.draws.flatten(), 2**32)])
    if size is None or len(everything) <= size:
        return Columns(flat, labels, as_draws(stored.draws.flatten())), batch_draws < 2**32
    first, place = everything.to(torch.float64).topk(size, largest=False, sorted=False)
    num_batch = len(batch_draws)
    is_sampled = torch.zeros(len(everything), dtype=torch.bool, device=flat.device).scatter_(0, place, True)
    slot = (place - num_batch).clamp(min=0)
    is_stored = (place >= num_batch) & (first < 2**32)
    labels, draws = torch.where(is_stored, slot // slots, -1), as_draws(stored.draws.view(-1)[slot])
    return Columns(flat[slot], labels, draws), is_sampled[:num_batch] & (batch_draws < 2**32)


def class_slots(stored: StoredKeys, size: int | None) -> Int64[Tensor, "num_classes slot"] | None:
    """Return each class's first `size` slots in the random order; None if these are all, as they stand."""
    if size is None or stored.is_filled.shape[1] <= size:
        return None
    order = torch.where(stored.is_filled, stored.draws, 2**32).to(torch.float64)
    return order.topk(size, dim=1, largest=False, sorted=False).indices


def class_block(
    stored: StoredKeys,
    label: Int64[Tensor, " tile"],
    slots: Int64[Tensor, "num_classes slot"] | None,
    dtype: torch.dtype,
) -> ClassBlock:
    """Return the stored keys of each label, a copy; only those in `slots`, if given."""
    if slots is None:
        keys, is_filled = stored.keys.index_select(0, label).flatten(1, 2), stored.is_filled[label]
        return ClassBlock(keys.to(dtype), is_filled, as_draws(stored.draws[label]))
    own = slots[label]
    per_class = stored.is_filled.shape[1]
    keys = stored.keys.view(-1, stored.keys.shape[-1])[own + label[:, None] * per_class]
    is_filled = stored.is_filled[label].gather(1, own)
    return ClassBlock(keys.to(dtype), is_filled, as_draws(stored.draws[label].gather(1, own)))


def as_draws(bits: Int64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Return random integers in [0, 2^32) as floats; comparing these is several times faster."""
    return bits.to(torch.float32)
