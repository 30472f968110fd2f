"""Which keys an anchor is compared with: all, random ones, the hardest, or some of the hardest tenth."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from pixcon_core.config import KeySampling


class Choice(NamedTuple):
    """The keys chosen for each anchor."""

    similarities: Float[Tensor, "row chosen"]
    """Of the chosen keys; +-inf or anything else where `is_chosen` is false."""
    columns: Int64[Tensor, "row chosen"] | None
    """Column of each in the similarities chosen from; None if these are all columns, in place."""
    is_chosen: Bool[Tensor, "row chosen"]
    """False in the padding."""


def pool_size(num_keys: int) -> int:
    """Return how many keys are the hardest tenth: at least one where there is any."""
    return -(-num_keys // 10)


def needs_draws(num_keys: int, num: int | None, key_sampling: KeySampling) -> bool:
    """Return whether `choose_keys` will draw, so that callers need not prepare random numbers otherwise."""
    if num is None or key_sampling == "hardest":
        return False
    return key_sampling == "random" or pool_size(num_keys) > num


def choose_keys(
    similarities: Float[Tensor, "row key"],
    is_allowed: Bool[Tensor, "row key"],
    draws: Float32[Tensor, "#row key"] | None,
    *,
    num: int | None,
    key_sampling: KeySampling,
    hard_is_similar: bool,
) -> Choice:
    """Choose at most `num` allowed keys for each row.

    - `num=None`: all.
    - `random`: those of smallest draw.
    - `hardest`: the most similar (negatives) or least similar (positives).
    - `semi_hard`: of the hardest tenth of the row's allowed keys (rounded up), those of smallest draw. A
      tenth smaller than `num` is taken whole.

    Args:
        similarities: Of each anchor with each key.
        is_allowed: Which pairs count.
        draws: A random number for each key, the same for all rows or one each. May be None where
            `needs_draws` says so.
        num: Keys for each anchor, at most.
        key_sampling: See above.
        hard_is_similar: True for negatives, false for positives.

    Source:
        Wang et al., ICCV 2021, "semi-hard example sampling": top 10 % first, then at random within.
    """
    keys = similarities.shape[1]
    if num is None:
        return Choice(similarities, None, is_allowed)
    if key_sampling == "random":
        assert draws is not None
        drawn, index = _smallest(torch.where(is_allowed, draws, torch.inf), min(num, keys))
        return Choice(similarities.gather(1, index), index, drawn < torch.inf)

    never = -torch.inf if hard_is_similar else torch.inf
    ranked = similarities.masked_fill(~is_allowed, never)
    if key_sampling == "hardest":
        values, index = ranked.topk(min(num, keys), dim=1, largest=hard_is_similar, sorted=False)
        return Choice(values, index, values != never)

    # The tenth differs from row to row; sorting the largest it can be shows every row's own.
    values, index = ranked.topk(pool_size(keys), dim=1, largest=hard_is_similar)
    own_pool = (is_allowed.sum(dim=1, keepdim=True) + 9) // 10
    is_chosen = torch.arange(values.shape[1], device=values.device) < own_pool
    if values.shape[1] > num:
        assert draws is not None
        pool_draws = draws.expand(len(index), -1).gather(1, index)
        drawn, place = _smallest(pool_draws.masked_fill(~is_chosen, torch.inf), num)
        values, index, is_chosen = values.gather(1, place), index.gather(1, place), drawn < torch.inf
    return Choice(values, index, is_chosen)


def _smallest(values: Float[Tensor, "row key"], num: int) -> tuple[Tensor, Tensor]:
    smallest, index = values.topk(num, dim=1, largest=False, sorted=False)
    return smallest, index
