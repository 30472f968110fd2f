"""What must not matter, does not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixcon_core.contrast import PixelContrast

NUM_CLASSES, DIM = 4, 3


@st.composite
def batches(draw):
    """Two batches of the same size, as (embeddings, labels), with 1 to 16 pixels each; a quarter ignored."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    images, height, width = draw(st.tuples(*[st.integers(1, m) for m in (2, 2, 4)]))
    made = []
    for _ in range(2):
        labels = torch.randint(draw(st.integers(1, NUM_CLASSES)), (images, height, width))
        labels[torch.rand(labels.shape) < draw(st.sampled_from([0.0, 0.25, 1.0]))] = 255
        made.append((torch.randn(images, DIM, height, width, dtype=torch.float64), labels))
    return made


def run(first, second, *, key_sampling="hardest", num=None, keys="pixel+region"):
    """Loss, anchors and gradient of the second batch, after the first was stored; nothing left to chance."""
    module = PixelContrast(
        NUM_CLASSES,
        DIM,
        keys=keys,
        key_sampling=key_sampling,
        num_positives=num,
        num_negatives=num,
        max_views=1000,
        hard_anchor_ratio=None,
        pixels_per_class=1000,
        memory_size=1000,
        memory_dtype=torch.float64,
        warmup_steps=0,
    )
    module(*first)
    embeddings = second[0].clone().requires_grad_()
    loss, stats = module(embeddings, second[1])
    loss.backward()
    return loss.detach(), stats.anchors, embeddings.grad


def same(a, b):
    torch.testing.assert_close(a[:2], b[:2], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(a[2], b[2], rtol=1e-5, atol=1e-8)


sampled = pytest.mark.parametrize(("key_sampling", "num"), [("hardest", None), ("hardest", 2), ("semi_hard", 100)])


@sampled
@settings(max_examples=15, deadline=None)
@given(made=batches(), seed=st.integers(0, 2**31))
def test_permuting_pixels_changes_nothing(key_sampling, num, made, seed):
    (embeddings, labels), first = made[1], made[0]
    torch.manual_seed(seed)
    order = torch.randperm(labels[0].numel())
    moved = (
        embeddings.flatten(2)[..., order].view_as(embeddings),
        labels.flatten(1)[:, order].view_as(labels),
    )
    loss, anchors, grad = run(first, (embeddings, labels), key_sampling=key_sampling, num=num)
    expected = loss, anchors, grad.flatten(2)[..., order].view_as(grad)
    same(run(first, moved, key_sampling=key_sampling, num=num), expected)


@sampled
@settings(max_examples=15, deadline=None)
@given(made=batches(), order=st.permutations(range(NUM_CLASSES)))
def test_relabelling_classes_changes_nothing(key_sampling, num, made, order):
    names = torch.tensor(order)
    renamed = [(x, torch.where(y == 255, 255, names[y.clamp(max=NUM_CLASSES - 1)])) for x, y in made]
    expected = run(*made, key_sampling=key_sampling, num=num)
    same(run(*renamed, key_sampling=key_sampling, num=num), expected)


@sampled
@settings(max_examples=15, deadline=None)
@given(made=batches(), more=st.integers(1, 3))
def test_adding_ignored_pixels_changes_nothing(key_sampling, num, made, more):
    padded = []
    for x, y in made:
        noise = 1e3 * torch.randn(*x.shape[:3], more, dtype=x.dtype)
        padded.append((torch.cat([x, noise], dim=3), torch.nn.functional.pad(y, (0, more), value=255)))
    loss, anchors, grad = run(*padded, key_sampling=key_sampling, num=num)
    same((loss, anchors, grad[..., :-more]), run(*made, key_sampling=key_sampling, num=num))
    assert not grad[..., -more:].any()


@settings(max_examples=30, deadline=None)
@given(
    made=batches(),
    key_sampling=st.sampled_from(["random", "hardest", "semi_hard"]),
    num=st.sampled_from([None, 1, 3]),
    keys=st.sampled_from(["batch", "pixel", "region", "pixel+region"]),
)
def test_the_loss_is_finite_and_zero_just_where_no_anchor_is_valid(made, key_sampling, num, keys):
    loss, anchors, grad = run(*made, key_sampling=key_sampling, num=num, keys=keys)
    assert loss.isfinite()
    assert grad.isfinite().all()
    assert (loss > 0) == (anchors > 0)


@settings(max_examples=15, deadline=None)
@given(made=batches(), scale=st.floats(0.01, 100))
def test_the_length_of_embeddings_changes_nothing(made, scale):
    (x, y), first = made[1], made[0]
    loss, anchors, grad = run(first, (x * scale, y))
    same((loss, anchors, grad * scale), run(first, (x, y)))
