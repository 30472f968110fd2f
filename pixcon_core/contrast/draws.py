"""Random numbers that are a function of what they are for, not of the order in which they are asked.

A draw is a hash of (seed, step, what it is for, which image, which pixel). So the same pixel of the same step
gets the same number on a CPU and on a GPU, in one process and in many, before and after a resume, and no
generator's state has to be kept, passed to compiled code or synchronised between workers.
"""

from typing import Final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

PIXEL_ORDER: Final = 1
HARD_PHASE: Final = 2
ANCHOR_TIES: Final = 3
BATCH_KEY_ORDER: Final = 4
MEMORY_KEY_ORDER: Final = 5

_LOW_32: Final = 0xFFFFFFFF
_ODD: Final = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive counters over the word


def step_seed(seed: Int64[Tensor, ""], step: Int64[Tensor, ""]) -> Int64[Tensor, ""]:
    """Return the seed of one step, in [0, 2^32)."""
    return random_bits(seed, seed >> 32, step)


def random_bits(seed: Int64[Tensor, ""], *counters: Int64[Tensor, "..."] | int) -> Int64[Tensor, "..."]:
    """Return independent uniform integers in [0, 2^32), one for each combination of counters.

    Args:
        seed: Of all draws together.
        counters: What the number is for, which image, which pixel, ...; broadcast against each other.

    Source:
        The finaliser is Wellons' "lowbias32" (hash-prospector, public domain), its 32-bit arithmetic done in
        the low half of int64, the widest integer in which torch multiplies on every device.
    """
    state = _mix(seed)
    for counter in counters:
        state = _mix(state * 31 + counter * _ODD)
    return state


def random_unit(seed: Int64[Tensor, ""], *counters: Int64[Tensor, "..."] | int) -> Float32[Tensor, "..."]:
    """Return independent uniform numbers in [0, 1); see `random_bits`."""
    return (random_bits(seed, *counters) >> 8).to(torch.float32) * 2.0**-24


def _mix(word: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    word = word & _LOW_32
    word = word ^ (word >> 16)
    word = (word * 0x7FEB352D) & _LOW_32
    word = word ^ (word >> 15)
    word = (word * 0x846CA68B) & _LOW_32
    return word ^ (word >> 16)
