import math

import pytest
import torch
import torch.nn.functional as F

from pixcon_core.losses import Ohem, balanced_class_weights, lovasz_softmax, segmentation_loss
from pixcon_core.models import SegmentorOutput

IGNORE = 255
CLASSES = 4


@pytest.fixture
def logits():
    return torch.randn(2, CLASSES, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def labels():
    labels = torch.randint(CLASSES, (2, 12, 20), generator=torch.Generator().manual_seed(1))
    labels[0, :5] = IGNORE
    return labels


def output(logits, aux_logits=None):
    return SegmentorOutput(logits, aux_logits, None)


def upsampled(logits, height, width):
    """Bilinear by its definition, half-pixel centres and clamped edges, in double precision."""
    logits = logits.detach().double()
    result = torch.zeros(*logits.shape[:2], height, width, dtype=torch.double)
    for y in range(height):
        for x in range(width):
            row = min(max((y + 0.5) * logits.shape[2] / height - 0.5, 0), logits.shape[2] - 1)
            column = min(max((x + 0.5) * logits.shape[3] / width - 0.5, 0), logits.shape[3] - 1)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, logits.shape[2] - 1), min(left + 1, logits.shape[3] - 1)
            down, across = row - top, column - left
            result[..., y, x] = (1 - down) * (
                (1 - across) * logits[..., top, left] + across * logits[..., top, right]
            ) + down * ((1 - across) * logits[..., bottom, left] + across * logits[..., bottom, right])
    return result


def pixel_losses(logits, labels):
    """The loss and the probability of its own class of each valid pixel, with the class."""
    big = upsampled(logits, *labels.shape[1:])
    found = []
    for image in range(len(labels)):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                own = int(labels[image, y, x])
                if own != IGNORE:
                    scores = [math.exp(value) for value in big[image, :, y, x].tolist()]
                    share = scores[own] / sum(scores)
                    found.append((-math.log(share), share, own))
    return found


def weighted_mean(found, weights):
    return sum(weights[own] * loss for loss, _, own in found) / sum(weights[own] for _, _, own in found)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.1]], ids=["plain", "weighted"])
def test_cross_entropy_matches_a_plain_loop(logits, labels, weights):
    given = None if weights is None else torch.tensor(weights)
    loss = segmentation_loss(output(logits), labels, class_weights=given, aux_weight=0.4)
    expected = weighted_mean(pixel_losses(logits, labels), weights or [1.0] * CLASSES)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_that_of_pytorchs_own_loss(logits, labels):
    weights = torch.rand(CLASSES)
    loss = segmentation_loss(output(logits), labels, class_weights=weights, aux_weight=0.0)
    (ours,) = torch.autograd.grad(loss, logits)
    big = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    (theirs,) = torch.autograd.grad(F.cross_entropy(big, labels, weights, ignore_index=IGNORE), logits)
    torch.testing.assert_close(ours, theirs)


def test_auxiliary_logits_of_another_size_add_their_share(logits, labels):
    aux = torch.randn(2, CLASSES, 3, 5, requires_grad=True)
    main = segmentation_loss(output(logits), labels, aux_weight=0.4)
    alone = segmentation_loss(output(aux), labels, aux_weight=0.4)
    both = segmentation_loss(output(logits, aux), labels, aux_weight=0.4)
    torch.testing.assert_close(both, main + 0.4 * alone)
    broken = output(logits, aux * torch.nan)
    torch.testing.assert_close(segmentation_loss(broken, labels, aux_weight=0.0), main)


@pytest.mark.parametrize("ohem", [None, Ohem()], ids=["all", "ohem"])
@pytest.mark.parametrize("weights", [None, torch.ones(CLASSES)], ids=["plain", "weighted"])
def test_a_batch_of_ignored_labels_gives_zero_with_a_graph(logits, weights, ohem):
    labels = torch.full((2, 12, 20), IGNORE, dtype=torch.uint8)
    aux = torch.randn(2, CLASSES, 4, 6, requires_grad=True)
    loss = segmentation_loss(output(logits, aux), labels, class_weights=weights, aux_weight=0.4, ohem=ohem)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()
    assert (aux.grad == 0).all()


def test_labels_of_other_types_and_another_ignore_index_are_the_same(logits, labels):
    expected = segmentation_loss(output(logits), labels, aux_weight=0.4)
    torch.testing.assert_close(segmentation_loss(output(logits), labels.to(torch.uint8), aux_weight=0.4), expected)
    other = labels.masked_fill(labels == IGNORE, -1)
    torch.testing.assert_close(segmentation_loss(output(logits), other, aux_weight=0.4, ignore_index=-1), expected)


def test_half_precision_logits_are_computed_in_float32(logits, labels):
    half = logits.detach().bfloat16()
    loss = segmentation_loss(output(half), labels, aux_weight=0.4)
    torch.testing.assert_close(loss, segmentation_loss(output(half.float()), labels, aux_weight=0.4), rtol=0, atol=0)


def hard_pixels(found, threshold, min_kept):
    """Sorted by probability, those below the greater of the threshold and the first that need not be kept."""
    shares = sorted(share for _, share, _ in found)
    if len(shares) <= min_kept:
        return found
    limit = max(shares[min_kept], threshold)
    return [pixel for pixel in found if pixel[1] < limit]


@pytest.mark.parametrize(
    ("threshold", "min_kept"),
    [
        pytest.param(0.3, 5, id="threshold-decides"),
        pytest.param(0.01, 50, id="min-kept-decides"),
        pytest.param(0.01, 400, id="all-but-void-are-kept"),
        pytest.param(0.3, 10_000, id="all-are-kept"),
    ],
)
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.1]], ids=["plain", "weighted"])
def test_ohem_matches_a_plain_loop(logits, labels, threshold, min_kept, weights):
    found = pixel_losses(logits, labels)
    kept = hard_pixels(found, threshold, min_kept)
    given = None if weights is None else torch.tensor(weights)
    loss = segmentation_loss(
        output(logits), labels, class_weights=given, aux_weight=0.4, ohem=Ohem(threshold, min_kept)
    )
    assert loss.item() == pytest.approx(weighted_mean(kept, weights or [1.0] * CLASSES), rel=1e-5)
    assert len(kept) == (min(min_kept, len(found)) if threshold < 0.1 else len(kept))


def test_ohem_leaves_the_auxiliary_term_alone(logits, labels):
    ohem = Ohem(0.3, 5)
    aux = torch.randn(2, CLASSES, 4, 6)
    main = segmentation_loss(output(logits), labels, aux_weight=1.0, ohem=ohem)
    both = segmentation_loss(output(logits, aux), labels, aux_weight=1.0, ohem=ohem)
    torch.testing.assert_close(both - main, segmentation_loss(output(aux), labels, aux_weight=1.0))


def test_balanced_class_weights_follow_the_formula():
    weights = balanced_class_weights([900, 100, 0])
    raw = [1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)]
    torch.testing.assert_close(weights, torch.tensor(raw) * 3 / sum(raw))
    assert weights.mean().item() == pytest.approx(1)


def test_balanced_class_weights_without_any_pixel_are_all_one():
    assert balanced_class_weights([0, 0, 0]).tolist() == pytest.approx([1, 1, 1])


def jaccard_extension(errors, is_class):
    """Lovász's extension of 1 - IoU: pixels go wrong one after the other, the worst first."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, before, wrong = 0.0, 0.0, set()
    for i in order:
        wrong.add(i)
        truth = {j for j in range(len(errors)) if is_class[j]}
        now = 1 - len(truth - wrong) / len(truth | wrong)
        total += errors[i] * (now - before)
        before = now
    return total


def test_lovasz_softmax_matches_a_plain_loop():
    pytest.importorskip("segmentation_models_pytorch")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator)
    labels = torch.randint(3, (2, 3, 5), generator=generator)  # class 3 does not occur
    labels[0, 0] = 255
    probabilities = logits.double().softmax(dim=1).permute(0, 2, 3, 1)[labels != 255]
    known = labels[labels != 255].tolist()
    expected = []
    for k in range(3):
        is_class = [label == k for label in known]
        errors = [abs(float(own) - p) for own, p in zip(is_class, probabilities[:, k].tolist(), strict=True)]
        expected.append(jaccard_extension(errors, is_class))
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_lovasz_softmax_is_added_with_its_weight_and_is_zero_where_all_is_void():
    pytest.importorskip("segmentation_models_pytorch")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, generator=generator).requires_grad_()
    labels = torch.randint(3, (1, 8, 8), generator=generator)
    output = SegmentorOutput(logits, None, None)
    plain = segmentation_loss(output, labels, aux_weight=0.0)
    added = segmentation_loss(output, labels, aux_weight=0.0, lovasz_weight=0.5)
    torch.testing.assert_close(added - plain, 0.5 * lovasz_softmax(logits, labels))
    void = lovasz_softmax(logits, torch.full_like(labels, 255))
    void.backward()
    assert float(void.detach()) == 0
    assert (logits.grad == 0).all()
