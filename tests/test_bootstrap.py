"""The paired bootstrap against a plain loop, and its coverage where the truth is known."""

import numpy as np
import pytest

from pixcon_core.metrics import confusion_matrix, counts_of, miou_of, paired_bootstrap, scores


def image_counts(rng, num_images, skill, num_classes=4, size=200):
    """Counts of images that differ in difficulty, of a method that is right this often on the average image."""
    found = []
    for difficulty in rng.normal(0, 0.1, num_images):
        labels = rng.choice(num_classes, size, p=[0.4, 0.3, 0.2, 0.1])
        right = rng.random(size) < np.clip(skill + difficulty, 0, 1)
        predicted = np.where(right, labels, rng.integers(0, num_classes, size))
        found.append(counts_of(confusion_matrix(predicted, labels, num_classes)))
    return np.stack(found)


def pairs(seed, num_images, skills=(0.7, 0.75), num_seeds=2):
    made = []
    for skill in skills:
        rng = np.random.default_rng(seed)  # the same images for both
        made.append([image_counts(rng, num_images, skill) for _ in range(num_seeds)])
    return made


def plain_miou(counts):
    values = []
    for right, in_truth, in_prediction in counts.sum(axis=0).T.tolist():
        union = in_truth + in_prediction - right
        if union:
            values.append(right / union)
    return sum(values) / len(values)


def test_it_is_what_a_plain_loop_over_draws_of_images_gives():
    baseline, treated = pairs(0, 30)
    found = paired_bootstrap(baseline, treated, resamples=1500, level=0.9, seed=1)
    rng, differences = np.random.default_rng(2), []
    for _ in range(1500):
        images = rng.integers(0, 30, 30)
        differences.append(
            np.mean([plain_miou(t[images]) - plain_miou(b[images]) for b, t in zip(baseline, treated, strict=True)])
        )
    exact = np.mean([plain_miou(t) - plain_miou(b) for b, t in zip(baseline, treated, strict=True)])
    assert found.mean == pytest.approx(exact, abs=1e-12)
    # Quantiles of 1500 draws: their own error is about a twentieth of the spread.
    np.testing.assert_allclose(found[1:], np.quantile(differences, [0.05, 0.95]), atol=0.2 * np.std(differences))


def test_the_same_seed_gives_the_same_interval_whatever_is_done_at_once(monkeypatch):
    baseline, treated = pairs(3, 20)
    found = paired_bootstrap(baseline, treated, resamples=150)
    assert found == paired_bootstrap(baseline, treated, resamples=150)
    assert found != paired_bootstrap(baseline, treated, resamples=150, seed=1)
    monkeypatch.setattr("pixcon_core.metrics.RESAMPLES_AT_ONCE", 7)
    assert found == paired_bootstrap(baseline, treated, resamples=150)


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    """One class that is always there: mIoU is a ratio of sums, whose expectation is known."""
    hits, trials, num_images = 0, 300, 200
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        hard = rng.normal(0, 8, num_images)
        counts = []
        for level in (60, 65):
            right = np.clip(np.rint(level + hard + rng.normal(0, 4, num_images)), 0, 100).astype(np.int64)
            full = np.full(num_images, 100)
            counts.append(np.stack([right, full, right], axis=1)[:, :, None])  # IoU is right / 100
        found = paired_bootstrap([counts[0]], [counts[1]], resamples=200, level=0.9, seed=1000 + trial)
        hits += found.low <= 0.05 <= found.high
    assert abs(hits / trials - 0.9) < 0.055, hits  # three standard errors


def test_pairing_narrows_the_interval():
    baseline, treated = pairs(5, 40)
    paired = paired_bootstrap(baseline, treated)
    order = np.random.default_rng(0).permutation(40)
    unpaired = paired_bootstrap(baseline, [one[order] for one in treated])
    assert unpaired.mean == paired.mean
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


def test_no_difference_is_an_interval_of_no_width():
    baseline, _ = pairs(6, 10)
    assert paired_bootstrap(baseline, baseline) == (0, 0, 0)


@pytest.mark.parametrize(
    ("baseline", "treated"),
    [((2, 10), (2, 11)), ((2, 10), (1, 10)), ((0, 10), (0, 10)), ((1, 0), (1, 0))],
    ids=["images", "seeds", "no-seeds", "no-images"],
)
def test_what_cannot_be_paired_is_refused(baseline, treated):
    made = [[np.ones((images, 3, 4), np.int64)] * seeds for seeds, images in (baseline, treated)]
    with pytest.raises(ValueError, match="of the same images, classes and seeds"):
        paired_bootstrap(*made)


def test_miou_of_images_is_that_of_their_confusion_matrix():
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (7, 5, 5))
    matrices[:, 2] = matrices[:, :, 2] = 0
    counts = np.stack([counts_of(matrix) for matrix in matrices])
    assert miou_of(counts) == scores(matrices.sum(axis=0)).miou
    assert miou_of(counts[0]) == scores(matrices[0]).miou
    assert np.isnan(miou_of(np.zeros((2, 3, 4), np.int64)))
