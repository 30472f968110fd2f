"""What a call of `PixelContrast` says: the loss, and numbers to log."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixcon_core.contrast.loss import AnchorLosses


class ContrastStats(NamedTuple):
    """What the contrast of one step was made of, on this worker.

    Detached scalar tensors: reading one as a number waits for the GPU, so read them when they are logged.
    """

    anchors: Float[Tensor, ""]
    """Anchors with at least one positive and one negative; the loss is their mean."""
    hard_share: Float[Tensor, ""]
    """Share of these that were wrongly predicted."""
    positives: Float[Tensor, ""]
    """Positive keys of an anchor, mean."""
    negatives: Float[Tensor, ""]
    """Negative keys of an anchor, mean."""
    positive_similarity: Float[Tensor, ""]
    """Cosine with the chosen positives, mean over anchors."""
    negative_similarity: Float[Tensor, ""]
    """Cosine with the chosen negatives, mean over anchors."""


class ContrastOutput(NamedTuple):
    """What one call of `PixelContrast` says."""

    loss: Float[Tensor, ""]
    """In nats, to be multiplied by its weight. 0 with a graph in warm-up and where no anchor is valid."""
    stats: ContrastStats
    """All 0 in warm-up."""


def stats_of(terms: AnchorLosses, is_valid: Bool[Tensor, " anchor"], is_hard: Bool[Tensor, " anchor"]) -> ContrastStats:
    """Return the means over valid anchors."""
    number = is_valid.sum().to(torch.float32)

    def mean(values: Tensor) -> Tensor:
        return torch.where(is_valid, values.detach().to(torch.float32), 0).sum() / number.clamp(min=1)

    return ContrastStats(
        anchors=number,
        hard_share=mean(is_hard),
        positives=mean(terms.num_positives),
        negatives=mean(terms.num_negatives),
        positive_similarity=mean(terms.positive_similarity),
        negative_similarity=mean(terms.negative_similarity),
    )


def nothing_of(embeddings: Float[Tensor, "batch dim h w"], log_temperature: Float[Tensor, ""] | None) -> ContrastOutput:
    """Return a loss of 0 whose gradient, also 0, reaches all that a real loss would have reached.

    Without reading any value: 0 times a NaN would be a NaN.
    """
    loss = embeddings.flatten()[:0].sum(dtype=torch.promote_types(embeddings.dtype, torch.float32))
    if log_temperature is not None:
        loss = loss + log_temperature.flatten()[:0].sum()
    zero = torch.zeros((), device=loss.device)
    return ContrastOutput(loss, ContrastStats(*[zero] * len(ContrastStats._fields)))
