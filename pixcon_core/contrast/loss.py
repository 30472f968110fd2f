"""The contrast loss of anchors against the keys of their batch and of a memory, and its gradient.

Gradients with respect to anchors, batch keys and temperature are formed in the forward pass, while a block of
similarities is at hand. So no similarity outlives its block, the backward pass is a scaling and one small
product, and the memory can be written between the two. Second derivatives there are none.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pixcon_core.contrast.candidates import StoredKeys
from pixcon_core.contrast.halves import Pairs, Sampling, negative_half, positive_half


class AnchorLosses(NamedTuple):
    """What the contrast of each anchor comes to. All but the losses are detached."""

    losses: Float[Tensor, " anchor"]
    """In nats; 0 for anchors without a positive or without a negative."""
    num_positives: Int64[Tensor, " anchor"]
    num_negatives: Int64[Tensor, " anchor"]
    positive_similarity: Float[Tensor, " anchor"]
    """Mean cosine of the chosen positives; 0 where there is none."""
    negative_similarity: Float[Tensor, " anchor"]


def contrast_losses(
    anchors: Float[Tensor, "anchor dim"],
    batch_keys: Float[Tensor, "key dim"],
    temperature: Float[Tensor, ""],
    pairs: Pairs,
    stored: StoredKeys | None,
    sampling: Sampling,
) -> AnchorLosses:
    """Return the loss of each anchor; gradients flow to anchors, batch keys and temperature.

    Args:
        anchors: Unit length; zero in the padding.
        batch_keys: Unit length; zero where there is none. The anchors themselves, those of all workers.
        temperature: > 0, no unit.
        pairs: Labels and draws of both.
        stored: The memory, if there is one.
        sampling: Which keys each anchor takes.
    """
    # One tensor given twice would break a compiled graph.
    others = None if batch_keys is anchors else batch_keys
    return AnchorLosses(*_Contrast.apply(anchors, others, temperature, pairs, stored, sampling))


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        others: Tensor | None,
        temperature: Tensor,
        pairs: Pairs,
        stored: StoredKeys | None,
        sampling: Sampling,
    ) -> tuple[Tensor, ...]:
        batch_keys = anchors if others is None else others
        similarities = anchors @ batch_keys.T
        negatives = negative_half(anchors, similarities, temperature, pairs, stored, sampling)
        positives = positive_half(anchors, similarities, temperature, negatives.value, pairs, stored, sampling)
        # The loss rises with the log-sum-exp as it falls with all the positives together: by the same total.
        share = positives.total[:, None]
        slope = share * negatives.batch_weights - positives.batch_weights
        direction = slope @ batch_keys + share * negatives.stored_sum - positives.stored_sum
        ctx.keys_are_anchors = others is None
        ctx.save_for_backward(anchors, direction, slope, temperature)
        rest = (positives.num_keys, negatives.num_keys, positives.similarity, negatives.similarity)
        ctx.mark_non_differentiable(*rest)
        return (positives.value, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # The slopes are constants here. `once_differentiable` would let them pass as such: it fails where `grad` needs
        # a gradient itself, and then only for who asks its own error node.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The contrast loss has no second derivatives, which create_graph=True asks for. Take them of the other"
                " losses, without this one in the sum."
            )
        anchors, direction, slope, temperature = ctx.saved_tensors
        scaled = (grad / temperature)[:, None]
        grad_anchors = direction * scaled
        grad_others = slope.T @ (anchors * scaled)
        # d(s/tau)/dtau = -s/tau^2, and the slopes' sum of s is the direction's product with the anchor.
        grad_temperature = -(grad_anchors * anchors).sum() / temperature
        if ctx.keys_are_anchors:
            return grad_anchors + grad_others, None, grad_temperature, None, None, None
        return grad_anchors, grad_others, grad_temperature, None, None, None
