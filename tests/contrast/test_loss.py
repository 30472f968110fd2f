"""The loss against the formula in Python floats, and its gradient against finite differences."""

import math

import pytest
import torch

from contrast.reference import dot, normalised, reference


def stored_in(module):
    """The keys in a module's memory and their labels, as lists."""
    filled = module.memory.is_filled()
    labels = torch.arange(module.num_classes)[:, None, None].expand(filled.shape)[filled]
    return module.memory.keys[filled].double().tolist(), labels.tolist()


@pytest.mark.parametrize("tau", [0.07, 0.5])
@pytest.mark.parametrize("keys", ["batch", "pixel", "region", "pixel+region"])
@pytest.mark.parametrize(
    ("key_sampling", "positives", "negatives"),
    [("random", None, None), ("hardest", 3, 5), ("semi_hard", 30, 40), ("semi_hard", 20, None)],
)
def test_the_loss_is_that_of_the_formula(everyone, batch, flat, tau, keys, key_sampling, positives, negatives):
    module = everyone(
        keys=keys,
        temperature=tau,
        key_sampling=key_sampling,
        num_positives=positives,
        num_negatives=negatives,
        memory_dtype=torch.float64,
    )
    for _ in range(2):
        module(*batch())
    stored, stored_labels = ([], []) if module.memory is None else stored_in(module)

    embeddings, labels = batch()
    loss, stats = module(embeddings, labels)

    rows, names = flat(embeddings, labels)
    expected = reference(
        rows,
        names,
        stored,
        stored_labels,
        tau,
        positives=positives,
        negatives=negatives,
        key_sampling=key_sampling,
    )
    assert loss.item() == pytest.approx(expected.loss, rel=1e-6)
    assert stats.anchors.item() == expected.num_anchors
    assert stats.positives.item() == pytest.approx(sum(expected.positives) / expected.num_anchors)
    assert stats.negatives.item() == pytest.approx(sum(expected.negatives) / expected.num_anchors)


def test_the_statistics_are_means_over_anchors(everyone, batch, flat):
    embeddings, labels = batch(ignored=0)
    stats = everyone()(embeddings, labels).stats

    rows, names = flat(embeddings, labels)
    rows = [normalised(row) for row in rows]
    means = {True: [], False: []}
    for same in means:
        for i, (row, name) in enumerate(zip(rows, names, strict=True)):
            scores = [
                dot(row, other)
                for j, (other, label) in enumerate(zip(rows, names, strict=True))
                if j != i and (label == name) == same
            ]
            means[same].append(sum(scores) / len(scores))
    assert stats.positive_similarity.item() == pytest.approx(sum(means[True]) / len(rows), abs=1e-6)
    assert stats.negative_similarity.item() == pytest.approx(sum(means[False]) / len(rows), abs=1e-6)


@pytest.mark.parametrize("keys", ["batch", "pixel+region"])
@pytest.mark.parametrize(("key_sampling", "num"), [("random", None), ("random", 4), ("hardest", 4), ("semi_hard", 1)])
def test_the_gradient_is_that_of_finite_differences(everyone, batch, keys, key_sampling, num):
    module = everyone(
        keys=keys, key_sampling=key_sampling, num_positives=num, num_negatives=num, memory_dtype=torch.float64
    )
    module(*batch())
    module.eval()
    embeddings, labels = batch(size=(2, 3))
    assert torch.autograd.gradcheck(lambda x: module(x, labels).loss, (embeddings,))


def test_the_gradient_of_a_trained_temperature_is_that_of_finite_differences(everyone, batch):
    module = everyone(learnable_temperature=True, temperature=0.3, keys="pixel").double()
    module(*batch())
    module.eval()
    embeddings, labels = batch()

    def loss(log_temperature):
        swapped = {"log_temperature": log_temperature}
        return torch.func.functional_call(module, swapped, (embeddings, labels)).loss

    assert torch.autograd.gradcheck(loss, (module.log_temperature.detach().requires_grad_(),))
    assert module.temperature.item() == pytest.approx(0.3)


@pytest.mark.parametrize("keys", ["batch", "pixel+region"])
def test_a_second_derivative_is_refused(everyone, batch, keys):
    module = everyone(keys=keys)
    module(*batch())
    embeddings, labels = batch()
    loss = module(embeddings, labels).loss
    for asked in (loss, loss.square() + embeddings.sum()):
        with pytest.raises(RuntimeError, match=r"contrast loss has no second derivatives.*create_graph=True"):
            torch.autograd.grad(asked, embeddings, create_graph=True)


def test_the_memory_gets_no_gradient_and_may_change_before_the_backward_pass(everyone, batch):
    module = everyone(keys="pixel+region", memory_dtype=torch.float64)
    module(*batch())
    embeddings, labels = batch()
    module.eval()
    (expected,) = torch.autograd.grad(module(embeddings, labels).loss, embeddings)
    module.train()
    loss = module(embeddings, labels).loss
    module(*batch())
    (grad,) = torch.autograd.grad(loss, embeddings)
    torch.testing.assert_close(grad, expected)
    assert not module.memory.keys.requires_grad


def test_blocks_and_tiles_of_any_size_give_the_same(everyone, batch, monkeypatch):
    module = everyone(keys="pixel+region", key_sampling="semi_hard", num_positives=2, num_negatives=3)
    module(*batch(dtype=torch.float32))
    module.eval()
    embeddings, labels = batch(dtype=torch.float32)
    expected = module(embeddings, labels)
    expected_grad = torch.autograd.grad(expected.loss, embeddings)
    monkeypatch.setattr("pixcon_core.contrast.blocks._CPU_BLOCK", 150)
    monkeypatch.setattr("pixcon_core.contrast.blocks._CPU_TILE", 3)
    got = module(embeddings, labels)
    torch.testing.assert_close(torch.autograd.grad(got.loss, embeddings), expected_grad)
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(got.stats, expected.stats)


@pytest.mark.parametrize("tau", [1e-3, 1e-4, 100.0])
def test_extreme_temperatures_stay_finite(everyone, batch, tau):
    embeddings, labels = batch(dtype=torch.float32)
    loss = everyone(temperature=tau)(embeddings, labels).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert embeddings.grad.isfinite().all()


def test_bfloat16_memory_gives_nearly_the_same_loss(everyone, batch):
    modules = [everyone(keys="pixel+region", memory_dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    first, second = batch(dtype=torch.float32), batch(dtype=torch.float32)
    for module in modules:
        module(*first)
    losses = [module(*second).loss.item() for module in modules]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] != losses[1]


def test_an_embedding_of_zeros_is_no_anchor_and_gets_no_gradient(everyone, batch):
    module = everyone()
    embeddings, labels = batch(ignored=0)
    kept = embeddings.detach().clone()
    kept[0, :, 1, 2] = 0
    kept.requires_grad_()
    loss, stats = module(kept, labels)
    loss.backward()
    assert stats.anchors.item() == labels.numel() - 1
    assert kept.grad[0, :, 1, 2].tolist() == [0, 0, 0, 0]
    assert kept.grad.abs().max() < 1e3
    labels[0, 1, 2] = 255
    torch.testing.assert_close(everyone()(kept, labels).loss, loss)
