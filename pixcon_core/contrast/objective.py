"""How similarities become a loss, with its slopes.

For an anchor with negatives n and positives p at similarities s, and temperature tau::

    L = mean over p of  -log( exp(s_p/tau) / (exp(s_p/tau) + sum over n of exp(s_n/tau)) )
      = mean over p of  softplus( logsumexp over n of s_n/tau  -  s_p/tau )

One positive at a time stands in the denominator, beside all the negatives: the paper's form, not SupCon's. In
the second form no exponential overflows, however small the temperature. Slopes are written out because the
forward pass has all they need: keeping what autograd would keep, for some 10^8 pairs, costs more than the
loss itself.

Source: Wang et al., "Exploring Cross-Image Pixel Contrast for Semantic Segmentation", ICCV 2021, pixel-wise
    loss.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class NegativeTerm(NamedTuple):
    """What an anchor's negatives come to."""

    logsumexp: Float[Tensor, " row"]
    """Of s/tau over the negatives; -inf where there is none."""
    weights: Float[Tensor, "row key"]
    """Its slope with respect to s/tau: the softmax, 0 off the negatives."""


class PositiveTerm(NamedTuple):
    """The loss of each anchor."""

    losses: Float[Tensor, " row"]
    """In nats, mean over the positives; 0 where there is no positive or no negative."""
    weights: Float[Tensor, "row key"]
    """Minus its slope with respect to s/tau of the positives. Their sum is its slope w.r.t. the logsumexp."""


def negative_term(
    similarities: Float[Tensor, "row key"],
    is_negative: Bool[Tensor, "row key"],
    temperature: Float[Tensor, ""],
) -> NegativeTerm:
    """Return the log-sum-exp of each row's negatives."""
    scaled = (similarities / temperature).masked_fill_(~is_negative, -torch.inf)
    top = scaled.amax(dim=1, keepdim=True)
    top = torch.where(top > -torch.inf, top, 0)  # -inf - -inf would be NaN in a row without negatives
    scaled = scaled.sub_(top).exp_()
    total = scaled.sum(dim=1, keepdim=True)
    return NegativeTerm((total.log() + top).squeeze(1), scaled.div_(total.clamp(min=1e-30)))


def positive_term(
    similarities: Float[Tensor, "row key"],
    is_positive: Bool[Tensor, "row key"],
    logsumexp: Float[Tensor, " row"],
    temperature: Float[Tensor, ""],
) -> PositiveTerm:
    """Return each row's loss, given the log-sum-exp of its negatives."""
    # Rows without negatives have a margin of -inf: softplus and sigmoid make it 0.
    margin = (logsumexp[:, None] - similarities / temperature).masked_fill_(~is_positive, -torch.inf)
    count = is_positive.sum(dim=1).clamp(min=1)
    losses = F.softplus(margin).sum(dim=1) / count
    return PositiveTerm(losses, margin.sigmoid_().div_(count[:, None]))
