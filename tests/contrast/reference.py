"""The loss of the specification in Python floats, one anchor, positive and negative at a time."""

import math
from typing import NamedTuple


class Reference(NamedTuple):
    loss: float
    num_anchors: int
    positives: list[int]
    negatives: list[int]


def normalised(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def chosen(scores, num, key_sampling):
    """Scores of the keys that are taken, hardest first. `semi_hard` only where its tenth is taken whole."""
    scores = sorted(scores, reverse=True)
    if num is None:
        return scores
    if key_sampling == "hardest":
        return scores[:num]
    assert key_sampling == "semi_hard"
    pool = scores[: math.ceil(len(scores) / 10)]
    assert len(pool) <= num
    return pool


def reference(anchors, labels, stored, stored_labels, tau, *, positives=None, negatives=None, key_sampling="hardest"):
    """The mean loss of all anchors, each against the other anchors and the stored keys."""
    anchors = [normalised(anchor) for anchor in anchors]
    losses, num_positives, num_negatives = [], [], []
    for i, anchor in enumerate(anchors):
        keys = [(k, y) for j, (k, y) in enumerate(zip(anchors, labels, strict=True)) if j != i]
        keys += list(zip(stored, stored_labels, strict=True))
        near = chosen([-dot(anchor, k) for k, y in keys if y == labels[i]], positives, key_sampling)
        far = chosen([dot(anchor, k) for k, y in keys if y != labels[i]], negatives, key_sampling)
        if not near or not far:
            continue
        crowd = sum(math.exp(s / tau) for s in far)
        terms = [-math.log(math.exp(-s / tau) / (math.exp(-s / tau) + crowd)) for s in near]
        losses.append(sum(terms) / len(terms))
        num_positives.append(len(near))
        num_negatives.append(len(far))
    return Reference(sum(losses) / max(len(losses), 1), len(losses), num_positives, num_negatives)
