"""One test for each fault of the method's public research code; see the recipes' list."""

import math

import pytest
import torch

from contrast.reference import reference
from contrast.test_loss import stored_in
from pixcon_core.contrast import PixelContrast


def class_map(images=2, num_classes=3, size=6):
    """Labels in vertical bands, and embeddings that point along their own class's axis."""
    labels = (torch.arange(size) * num_classes // size).expand(images, size, size).clone()
    embeddings = torch.nn.functional.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()
    return embeddings.requires_grad_(), labels


def test_pixel_memory_holds_only_pixels_of_its_class(everyone):
    module = everyone(dim=3, keys="pixel", pixels_per_class=2)
    module(*class_map())
    keys, labels = stored_in(module)
    assert len(keys) == 2 * 3 * 2
    assert all(key[label] == 1 for key, label in zip(keys, labels, strict=True))


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_labels_meet_the_features_of_their_place_at_any_stride(everyone, stride):
    module = everyone(dim=3, keys="pixel+region")
    embeddings, labels = class_map()
    labels = labels.repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2)
    module(embeddings, labels)
    keys, names = stored_in(module)
    assert all(key[label] == pytest.approx(1) for key, label in zip(keys, names, strict=True))


def test_the_write_position_advances_by_as_many_keys_as_were_written(everyone):
    module = everyone(dim=3, keys="pixel", pixels_per_class=7)
    for step in range(1, 4):
        module(*class_map())
        assert module.memory.written[:, 0].tolist() == [min(7, 12) * 2 * step] * 3


def test_an_overflow_overwrites_the_oldest_keys_not_the_newest(everyone):
    module = everyone(num_classes=2, dim=2, keys="region", memory_size=3)
    for angle in range(8):
        embeddings = torch.tensor([math.cos(angle / 10), math.sin(angle / 10)]).view(1, 2, 1, 1)
        module(embeddings, torch.zeros(1, 1, 1, dtype=torch.int64))
    angles = torch.atan2(module.memory.keys[0, 0, :, 1], module.memory.keys[0, 0, :, 0]) * 10
    assert sorted(angles.round().int().tolist()) == [5, 6, 7]


def test_class_0_is_stored_like_any_other(everyone):
    module = everyone(dim=3, keys="pixel+region")
    module(*class_map())
    assert module.memory.written[0].tolist() == module.memory.written[1].tolist()
    assert (module.memory.written[0] > 0).all()


@pytest.mark.parametrize("key_sampling", ["random", "hardest", "semi_hard"])
def test_empty_slots_are_never_keys(everyone, batch, flat, key_sampling):
    module = everyone(keys="pixel+region", memory_size=500, key_sampling=key_sampling, memory_dtype=torch.float64)
    module(*batch())
    filled = module.memory.is_filled()
    module.memory.keys[~filled] = torch.nan
    stored, stored_labels = stored_in(module)
    embeddings, labels = batch()
    loss = module(embeddings, labels).loss
    expected = reference(*flat(embeddings, labels), stored, stored_labels, 0.1)
    # NaN times a weight of 0 shows that the sums read empty slots; the loss itself must not depend on them.
    assert loss.item() == pytest.approx(expected.loss, rel=1e-6)


def test_nothing_is_a_key_before_something_was_stored(everyone, batch, flat):
    module = everyone(keys="pixel+region")
    embeddings, labels = batch()
    expected = reference(*flat(embeddings, labels), [], [], 0.1)
    assert module(embeddings, labels).loss.item() == pytest.approx(expected.loss, rel=1e-6)


def test_an_anchor_is_excluded_from_its_own_positives_but_no_stored_key_is(everyone, batch):
    """One pixel a class: the only positives are stored ones, at any position."""
    module = everyone(keys="pixel")
    labels = torch.tensor([[[0, 1, 2]]])
    first = torch.randn(1, 4, 1, 3)
    assert module(first, labels).stats.anchors.item() == 0
    stats = module(torch.randn(1, 4, 1, 3), labels).stats
    assert stats.anchors.item() == 3
    assert stats.positives.item() == 1
    assert stats.negatives.item() == 4


def test_more_anchors_than_stored_keys_are_no_error(everyone):
    module = everyone(dim=3, keys="pixel", memory_size=1)
    for _ in range(2):
        out = module(*class_map())
    assert out.loss.isfinite()
    assert out.stats.anchors.item() == 72


def test_an_anchor_without_positives_adds_nothing(everyone, batch, flat):
    embeddings = torch.randn(1, 4, 1, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[0, 0, 1, 1, 2]]])
    loss, stats = everyone()(embeddings, labels)
    loss.backward()
    assert stats.anchors.item() == 4
    assert embeddings.grad.isfinite().all()
    assert loss.item() == pytest.approx(reference(*flat(embeddings, labels), [], [], 0.1).loss)


@pytest.mark.parametrize("tau", [0.01, 0.001])
def test_small_temperatures_do_not_overflow(everyone, tau):
    embeddings, labels = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randint(3, (2, 6, 6))
    loss = everyone(dim=8, temperature=tau)(embeddings, labels).loss
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("labels", [255, 0], ids=["all ignored", "one class"])
def test_a_batch_without_valid_anchors_gives_zero_with_a_graph(everyone, labels):
    module = everyone(keys="pixel+region", learnable_temperature=True)
    embeddings = torch.randn(2, 4, 3, 3, requires_grad=True)
    loss = module(embeddings, torch.full((2, 3, 3), labels)).loss
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))
    assert module.log_temperature.grad.item() == 0


def test_more_classes_than_anchors_are_no_error():
    module = PixelContrast(50, 4, keys="batch", max_anchors=10, hard_anchor_ratio=None, warmup_steps=0)
    labels = torch.arange(50).repeat(4).view(1, 10, 20)
    out = module(torch.randn(1, 4, 10, 20), labels)
    assert out.loss.isfinite()


def test_hard_anchors_are_taken_at_one_view_of_a_class():
    module = PixelContrast(2, 4, keys="batch", max_views=1, hard_anchor_ratio=0.5, warmup_steps=0)
    labels = torch.arange(2).repeat(50).expand(200, 1, 100)
    predictions = torch.where(torch.rand(200, 1, 100) < 0.9, 1 - labels, labels)
    share = module(torch.randn(200, 4, 1, 100), labels, predictions).stats.hard_share.item()
    assert share == pytest.approx(0.5, abs=0.1)
    module = PixelContrast(2, 4, keys="batch", max_views=1, hard_anchor_ratio=1.0, warmup_steps=0)
    assert module(torch.randn(200, 4, 1, 100), labels, predictions).stats.hard_share.item() == 1


def test_classes_with_fewer_than_max_views_pixels_are_used():
    module = PixelContrast(
        2,
        4,
        keys="batch",
        max_views=100,
        hard_anchor_ratio=None,
        num_positives=None,
        num_negatives=None,
        warmup_steps=0,
    )
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[0, 0, :3] = 1
    stats = module(torch.randn(1, 4, 10, 10), labels).stats
    assert stats.anchors.item() == 100
    assert stats.positives.item() == pytest.approx((97 * 96 + 3 * 2) / 100)


def test_semi_hard_sampling_is_there_and_is_the_default():
    module = PixelContrast(2, 4, warmup_steps=0, hard_anchor_ratio=None)
    assert module.sampling.key_sampling == "semi_hard"
    labels = torch.arange(2).repeat(100).view(1, 10, 20)
    stats = module(torch.randn(1, 4, 10, 20), labels).stats
    assert stats.anchors.item() == 200
    assert stats.positives.item() == 10
    assert stats.negatives.item() == 10
    assert stats.positive_similarity < -0.5
    assert stats.negative_similarity > 0.5


def test_the_loss_is_not_zero_in_a_single_process(everyone, batch):
    assert not torch.distributed.is_initialized()
    embeddings, labels = batch()
    loss = everyone()(embeddings, labels).loss
    loss.backward()
    assert loss.item() > 0
    assert embeddings.grad.abs().sum() > 0


def test_warm_up_computes_no_similarity_and_passes_on_no_nan(everyone, batch, monkeypatch):
    module = everyone(keys="pixel+region", warmup_steps=2, learnable_temperature=True)

    def fail(*_):
        raise AssertionError("computed in warm-up")

    with monkeypatch.context() as patched:
        patched.setattr("pixcon_core.contrast.module.contrast_losses", fail)
        for step in range(2):
            embeddings, labels = batch(dtype=torch.float32)
            with torch.no_grad():
                embeddings[0, :, 0, 0] = torch.nan
            loss = module(embeddings, labels).loss
            loss.backward()
            assert loss.item() == 0
            assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))
            assert module.log_temperature.grad.item() == 0
            assert module.step.item() == step + 1
            assert (module.memory.written > 0).all()
    assert module.memory.keys.isfinite().all()
    assert module(*batch(dtype=torch.float32)).loss.item() > 0


@pytest.mark.parametrize("keys", ["batch", "pixel+region"])
def test_a_resumed_module_goes_on_bit_for_bit(keys):
    def make(seed):
        return PixelContrast(
            4, 4, keys=keys, max_anchors=20, num_positives=2, num_negatives=3, pixels_per_class=2,
            memory_size=7, warmup_steps=1, hard_anchor_ratio=None, key_sampling="random", seed=seed,
        )  # fmt: skip

    batches = [(torch.randn(2, 4, 6, 6), torch.randint(4, (2, 6, 6))) for _ in range(6)]
    module = make(seed=5)
    for batch in batches[:3]:
        module(*batch)
    resumed = make(seed=0)
    resumed.load_state_dict({name: value.clone() for name, value in module.state_dict().items()})
    for batch in batches[3:]:
        assert module(*batch).loss.item() == resumed(*batch).loss.item()
    for name, value in module.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_resuming_inside_warm_up_stays_in_warm_up(everyone, batch):
    early = everyone(warmup_steps=5)
    early(*batch())
    module = everyone(warmup_steps=5)
    for _ in range(8):
        module(*batch())
    module.load_state_dict(early.state_dict())
    assert module(*batch()).loss.item() == 0
