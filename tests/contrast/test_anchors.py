"""Which pixels become anchors."""

import pytest
import torch

from pixcon_core.contrast.anchors import sample_anchors, shuffle_by_class


def draw(labels, is_wrong=None, *, seed=0, num_classes=5, max_anchors=1000, max_views=100, ratio=0.5):
    labels = torch.as_tensor(labels)
    if labels.dim() == 1:
        labels = labels[None, None]
    seed = torch.tensor(seed)
    order = shuffle_by_class(labels, num_classes, seed)
    wrong = None if is_wrong is None else torch.as_tensor(is_wrong).flatten()
    anchors = sample_anchors(
        order,
        wrong,
        num_classes=num_classes,
        max_anchors=max_anchors,
        max_views=max_views,
        hard_anchor_ratio=ratio,
        seed=seed,
    )
    kept = anchors.label >= 0
    assert torch.equal(labels.flatten()[anchors.pixel[kept]], anchors.label[kept])
    assert len(set(anchors.pixel[kept].tolist())) == int(kept.sum())
    if wrong is not None:
        assert torch.equal(wrong[anchors.pixel[kept]], anchors.is_hard[kept])
    return anchors.pixel[kept], anchors.label[kept], anchors.is_hard[kept]


def test_every_class_of_every_image_gives_at_most_max_views():
    labels = torch.randint(-1, 4, (3, 20, 20))
    pixel, label, _ = draw(labels, max_views=7)
    groups = (pixel // 400) * 5 + label
    assert torch.bincount(groups).unique().tolist() == [0, 7]
    assert len(groups) == 3 * 4 * 7


def test_a_class_with_fewer_pixels_gives_what_it_has_and_the_others_the_rest():
    labels = [0] * 3 + [1] * 100 + [2] * 100
    _, label, _ = draw(labels, max_anchors=43, max_views=30)
    assert torch.bincount(label).tolist() == [3, 20, 20]


def test_where_groups_outnumber_anchors_a_random_choice_gets_one_each():
    labels = torch.arange(5).repeat(4)
    seen = set()
    for seed in range(40):
        _, label, _ = draw(labels, seed=seed, max_anchors=3)
        assert len(set(label.tolist())) == 3
        seen |= set(label.tolist())
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_the_share_of_hard_anchors_is_the_ratio(ratio):
    is_wrong = [True] * 300 + [False] * 300
    _, _, is_hard = draw([0] * 600, is_wrong, max_views=100, ratio=ratio)
    assert len(is_hard) == 100
    assert abs(int(is_hard.sum()) - 100 * ratio) <= 1e-3 * 100 + (ratio == 0.77)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_the_ratio_holds_in_the_mean_when_a_class_has_one_place(ratio):
    labels = torch.zeros(200, 1, 10, dtype=torch.int64)
    is_wrong = torch.arange(10).expand(200, 1, 10) < 3
    _, _, is_hard = draw(labels, is_wrong, max_views=1, ratio=ratio)
    assert len(is_hard) == 200
    assert is_hard.float().mean().item() == pytest.approx(ratio, abs=0.1)


@pytest.mark.parametrize(("hard", "easy"), [(3, 100), (100, 3), (0, 100), (100, 0), (4, 5)])
def test_where_one_kind_is_short_the_other_fills_up(hard, easy):
    _, _, is_hard = draw([0] * (hard + easy), [True] * hard + [False] * easy, max_views=20, ratio=0.5)
    assert len(is_hard) == min(20, hard + easy)
    assert int(is_hard.sum()) == min(hard, max(10, 20 - easy))


def test_without_a_ratio_hard_pixels_come_at_their_own_frequency():
    labels = torch.zeros(20, 1, 1000, dtype=torch.int64)
    is_wrong = torch.arange(1000).expand(20, 1, 1000) < 100
    _, _, is_hard = draw(labels, is_wrong, max_anchors=2000, max_views=100, ratio=None)
    assert is_hard.float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_every_pixel_is_equally_likely():
    counts = torch.zeros(40)
    for seed in range(500):
        pixel, _, _ = draw([0] * 40, [True] * 20 + [False] * 20, seed=seed, max_views=10)
        counts[pixel] += 1
    assert counts.sum() == 5000
    assert counts.min() > 125 - 50
    assert counts.max() < 125 + 50


def test_the_same_seed_gives_the_same_anchors_and_another_others():
    labels = torch.randint(0, 5, (2, 16, 16))
    first, again, other = (draw(labels, seed=seed, max_views=5)[0].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_ignored_pixels_are_never_anchors():
    assert len(draw([-1] * 50)[0]) == 0
    pixel, _, _ = draw([-1] * 50 + [3])
    assert pixel.tolist() == [50]


def test_an_image_has_the_same_draws_whichever_worker_has_it():
    labels = torch.randint(0, 5, (4, 6, 6))
    whole = shuffle_by_class(labels, 5, torch.tensor(3))
    half = shuffle_by_class(labels[2:], 5, torch.tensor(3), first_image=2)
    assert whole.pixel[whole.pixel >= 72].sub(72).tolist() == half.pixel.tolist()
