"""The two halves of the loss, block by block: what an anchor's negatives come to, and then its positives.

They need different keys. Negatives are shared by all anchors, so they are columns of one matrix product.
Positives belong to a class, so anchors are put into tiles of one class each, and a tile is multiplied with
its own class only.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pixcon_core.config import KeySampling
from pixcon_core.contrast.blocks import blocks_of, class_tiles, products, weighted_sums
from pixcon_core.contrast.candidates import (
    StoredKeys,
    as_draws,
    class_block,
    class_slots,
    sample_size,
    shared_columns,
)
from pixcon_core.contrast.objective import negative_term, positive_term
from pixcon_core.contrast.sampling import Choice, choose_keys, needs_draws


class Sampling(NamedTuple):
    """How many keys an anchor takes, and which."""

    key_sampling: KeySampling
    num_positives: int | None
    num_negatives: int | None
    num_candidates: int | None


class Pairs(NamedTuple):
    """Anchors and the keys of their batch, without their embeddings."""

    anchor_labels: Int64[Tensor, " anchor"]
    """Class of each; -1 in the padding."""
    key_labels: Int64[Tensor, " key"]
    """Class of each; -1 where there is none."""
    key_draws: Int64[Tensor, " key"]
    """Random number of each; 2^32 where there is none."""
    first_own: int
    """The key that is the first anchor itself; the others follow."""


class Half(NamedTuple):
    """What the negatives, or the positives, of each anchor come to."""

    value: Float[Tensor, " anchor"]
    """Negatives: log-sum-exp of s/tau. Positives: the loss."""
    batch_weights: Float[Tensor, "anchor key"]
    """Slope of the value with respect to s/tau of each key of the batch (its negative, for positives)."""
    stored_sum: Float[Tensor, "anchor dim"]
    """Sum of the stored keys, each times its slope."""
    total: Float[Tensor, " anchor"]
    """Sum of all slopes."""
    num_keys: Int64[Tensor, " anchor"]
    """How many keys were chosen."""
    similarity: Float[Tensor, " anchor"]
    """Mean similarity of these; 0 where there is none."""


def negative_half(
    anchors: Float[Tensor, "anchor dim"],
    batch_similarities: Float[Tensor, "anchor key"],
    temperature: Float[Tensor, ""],
    pairs: Pairs,
    stored: StoredKeys | None,
    sampling: Sampling,
) -> Half:
    """Return what the negatives of each anchor come to."""
    num, num_batch = sampling.num_negatives, batch_similarities.shape[1]
    labels, draws, columns = pairs.key_labels, as_draws(pairs.key_draws), None
    if stored is not None:
        size = sample_size(num, sampling.key_sampling, sampling.num_candidates)
        columns, is_sampled = shared_columns(stored, pairs.key_draws, size)
        labels = torch.cat([torch.where(is_sampled, labels, -1), columns.labels])
        draws = torch.cat([draws, columns.draws])
    need_draws = needs_draws(len(labels), num, sampling.key_sampling)
    parts = []
    for rows in blocks_of(len(anchors), len(labels), anchors.device):
        similarities = batch_similarities[rows]
        if columns is not None:
            similarities = torch.cat([similarities, products(anchors[rows], columns.keys)], dim=1)
        own = pairs.anchor_labels[rows, None]
        choice = choose_keys(
            similarities,
            (own != labels) & (labels >= 0) & (own >= 0),
            draws[None] if need_draws else None,
            num=num,
            key_sampling=sampling.key_sampling,
            hard_is_similar=True,
        )
        term = negative_term(choice.similarities, choice.is_chosen, temperature)
        weights = _in_place(term.weights, choice, similarities)
        stored_sum = (
            torch.zeros_like(anchors[rows]) if columns is None else weighted_sums(weights[:, num_batch:], columns.keys)
        )
        count, mean = _summary(choice)
        # A clone, for a view would keep the whole block alive.
        batch_weights = weights[:, :num_batch].clone()
        parts.append(Half(term.logsumexp, batch_weights, stored_sum, term.weights.sum(dim=1), count, mean))
    return _joined(parts)


def positive_half(
    anchors: Float[Tensor, "anchor dim"],
    batch_similarities: Float[Tensor, "anchor key"],
    temperature: Float[Tensor, ""],
    logsumexp: Float[Tensor, " anchor"],
    pairs: Pairs,
    stored: StoredKeys | None,
    sampling: Sampling,
) -> Half:
    """Return the loss of each anchor, given the log-sum-exp of its negatives."""
    if stored is not None:
        return _stored_positives(anchors, batch_similarities, temperature, logsumexp, pairs, stored, sampling)
    everyone = torch.arange(len(anchors), device=anchors.device)
    parts = []
    for rows in blocks_of(len(anchors), batch_similarities.shape[1], anchors.device):
        half, weights = _of_chosen(
            batch_similarities[rows],
            _is_batch_positive(pairs, everyone[rows]),
            as_draws(pairs.key_draws)[None],
            temperature,
            logsumexp[rows],
            sampling,
        )
        parts.append(half._replace(batch_weights=weights, stored_sum=torch.zeros_like(anchors[rows])))
    return _joined(parts)


def _stored_positives(
    anchors: Tensor,
    batch_similarities: Tensor,
    temperature: Tensor,
    logsumexp: Tensor,
    pairs: Pairs,
    stored: StoredKeys,
    sampling: Sampling,
) -> Half:
    num_batch, num = batch_similarities.shape[1], sampling.num_positives
    slots = class_slots(stored, sample_size(num, sampling.key_sampling, sampling.num_candidates))
    width = (stored.is_filled if slots is None else slots).shape[1]
    draws = as_draws(pairs.key_draws)
    tiles = class_tiles(pairs.anchor_labels, len(stored.keys))
    # Places that are empty ask for the last anchor; what they get goes to one row more, which is cut off.
    out = _empty_half(len(anchors) + 1, batch_similarities, anchors)
    for some in blocks_of(len(tiles.label), width * anchors.shape[1], anchors.device):
        place = tiles.anchor[some]
        row, tile_shape = place.clamp(max=len(anchors) - 1), (*place.shape, -1)
        block = class_block(stored, tiles.label[some], slots, anchors.dtype)
        of_stored = anchors[row] @ block.keys.mT  # (tile, place, dim) @ (tile, dim, slot)
        is_stored = block.is_filled[:, None] & (place < len(anchors))[..., None]
        is_of_batch = _is_batch_positive(pairs, row.flatten())
        all_draws = None
        if needs_draws(num_batch + width, num, sampling.key_sampling):
            of_batch, of_block = draws.expand(*place.shape, -1), block.draws[:, None].expand(of_stored.shape)
            all_draws = torch.cat([of_batch, of_block], dim=2).flatten(0, 1)
        half, weights = _of_chosen(
            torch.cat([batch_similarities[row], of_stored], dim=2).flatten(0, 1),
            torch.cat([is_of_batch.view(tile_shape), is_stored], dim=2).flatten(0, 1),
            all_draws,
            temperature,
            logsumexp[row.flatten()],
            sampling,
        )
        half = half._replace(
            batch_weights=weights[:, :num_batch],
            stored_sum=(weights[:, num_batch:].view(tile_shape) @ block.keys).flatten(0, 1),
        )
        for total, part in zip(out, half, strict=True):
            total.index_copy_(0, place.flatten(), part)
    return Half(*(total[:-1] for total in out))


def _of_chosen(
    similarities: Tensor,
    is_allowed: Tensor,
    draws: Tensor | None,
    temperature: Tensor,
    logsumexp: Tensor,
    sampling: Sampling,
) -> tuple[Half, Tensor]:
    """Return the positive half of some rows, its sums left out, and the slope at each key."""
    choice = choose_keys(
        similarities,
        is_allowed,
        draws,
        num=sampling.num_positives,
        key_sampling=sampling.key_sampling,
        hard_is_similar=False,
    )
    term = positive_term(choice.similarities, choice.is_chosen, logsumexp, temperature)
    none = similarities.new_empty(0)
    half = Half(term.losses, none, none, term.weights.sum(dim=1), *_summary(choice))
    return half, _in_place(term.weights, choice, similarities)


def _is_batch_positive(pairs: Pairs, row: Int64[Tensor, " row"]) -> Bool[Tensor, "row key"]:
    """Return which keys of the batch are of an anchor's class and not the anchor itself."""
    own, column = pairs.anchor_labels[row, None], torch.arange(len(pairs.key_labels), device=row.device)
    return (own == pairs.key_labels) & (own >= 0) & (column != row[:, None] + pairs.first_own)


def _in_place(
    weights: Float[Tensor, "row chosen"], choice: Choice, similarities: Float[Tensor, "row key"]
) -> Float[Tensor, "row key"]:
    """Return the weights at the columns that they were chosen from, 0 elsewhere."""
    if choice.columns is None:
        return weights
    return torch.zeros_like(similarities).scatter_(1, choice.columns, weights)


def _summary(choice: Choice) -> tuple[Int64[Tensor, " row"], Float[Tensor, " row"]]:
    """Return the number of chosen keys and their mean similarity."""
    count = choice.is_chosen.sum(dim=1)
    sums = torch.where(choice.is_chosen, choice.similarities, 0).sum(dim=1)
    return count, sums / count.clamp(min=1)


def _empty_half(rows: int, batch_similarities: Tensor, anchors: Tensor) -> Half:
    scalars = anchors.new_zeros(rows)
    return Half(
        value=scalars,
        batch_weights=anchors.new_zeros(rows, batch_similarities.shape[1]),
        stored_sum=anchors.new_zeros(rows, anchors.shape[1]),
        total=scalars.clone(),
        num_keys=torch.zeros_like(scalars, dtype=torch.int64),
        similarity=scalars.clone(),
    )


def _joined(parts: list[Half]) -> Half:
    return Half(*(torch.cat(list(fields)) for fields in zip(*parts, strict=True)))
