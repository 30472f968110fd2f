"""Features of pixels by class: figures against plain loops, and that they are those which the classifier sees."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.report.plots import scatter_map, thin
from pipeline.report.separation import features, labels_at, maps_of, separation
from pipeline.training.checkpoint import Loaded, Meta
from pixcon_core.config import ModelConfig, RunConfig
from pixcon_core.models import build_segmentor


def clusters(spread, sizes=(5, 3, 4), dim=6):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(len(sizes), dim))
    points = np.concatenate([c + spread * rng.normal(size=(n, dim)) for c, n in zip(centres, sizes, strict=True)])
    return points / np.linalg.norm(points, axis=1, keepdims=True), np.repeat([0, 4, 2], sizes)


def reference(points, labels):
    """The four figures from their definitions, pixel by pixel."""
    cosine = [[sum(float(a) * float(b) for a, b in zip(p, q, strict=True)) for q in points] for p in points]
    members = {c: [i for i, one in enumerate(labels) if one == c] for c in set(labels.tolist())}

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    within = mean(mean(cosine[i][j] for i in m for j in m if i != j) for m in members.values())
    between = mean(
        mean(cosine[i][j] for i in members[a] for j in members[b]) for a in members for b in members if a != b
    )
    coefficients = []
    for i, label in enumerate(labels.tolist()):
        near = mean(1 - cosine[i][j] for j in members[label] if j != i)
        far = min(mean(1 - cosine[i][j] for j in m) for c, m in members.items() if c != label)
        coefficients.append((far - near) / max(near, far))
    return within, between, (1 - between) / (1 - within), mean(coefficients)


@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_separation_is_what_its_definition_says(spread):
    points, labels = clusters(spread)
    assert separation(points, labels) == pytest.approx(reference(points, labels), abs=1e-12)


def test_classes_that_lie_apart_separate_better():
    tight, loose = separation(*clusters(0.05)), separation(*clusters(2.0))
    assert tight.ratio > 10 * loose.ratio
    assert tight.silhouette > 0.8 > loose.silhouette


def test_pixels_that_coincide_have_no_ratio():
    points = np.array([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2)
    found = separation(points, np.array([0, 0, 1, 1]))
    assert (found.within, found.between, found.silhouette) == (1, 0, 1)
    assert math.isnan(found.ratio)


@pytest.mark.parametrize("head", ["fcn", "deeplabv3"])
def test_features_are_those_that_the_classifier_sees(head):
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet10t", pretrained="false", head=head, head_channels=16)
    model = build_segmentor(config, 4, projection=False).eval()
    meta = Meta(RunConfig(model=config), tuple("abcd"), ((0, 0, 0),) * 4, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0)
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = features(Loaded(model, meta), image)

    normalised = (torch.tensor(image) / 255 - torch.tensor(meta.mean)) / torch.tensor(meta.std)
    canvas = torch.zeros(1, 3, 64, 96)
    canvas[0, :, :50, :70] = normalised.permute(2, 0, 1)
    model.head.classifier = nn.Identity()
    with torch.no_grad():
        wanted = F.normalize(model(canvas).logits[0], dim=0).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(found) == 16


def test_labels_are_those_at_the_middle_of_each_feature():
    label = np.random.default_rng(0).integers(0, 5, (50, 70), dtype=np.uint8)
    found = labels_at(label, (8, 12), (64, 96))
    for y in range(8):
        for x in range(12):
            row, column = 8 * y + 4, 8 * x + 4
            wanted = label[row, column] if row < 50 and column < 70 else 255
            assert found[y, x] == wanted


def test_a_map_is_the_same_again_and_keeps_classes_together():
    points, labels = clusters(0.05, sizes=(20, 20, 20))
    (first,), (second, beside) = maps_of([points]), maps_of([points, points])
    np.testing.assert_array_equal(second, beside)
    np.testing.assert_array_equal(first, second)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95


def test_charts_take_names_as_they_are_and_the_pages_colours():
    points, labels = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]]), np.array([0, 1, 1])
    svg = scatter_map('2 "classes"', points, labels, {0: "a$b^$<i>", 1: "x"}, {0: "#112233", 1: "#445566"})
    assert svg.startswith("<svg ")
    assert 'aria-label="2 &quot;classes&quot;"' in svg
    assert "a$b^$&lt;i&gt;" in svg
    assert "#112233" in svg
    assert "fill: var(--ink)" in svg
    assert "font-family" not in svg


def test_long_lines_become_means_of_neighbours():
    xs, ys = thin(range(450), [float(i % 3) for i in range(450)])
    assert len(xs) == len(ys) == 150
    np.testing.assert_array_equal(ys, np.ones(150))
    np.testing.assert_array_equal(xs, 3 * np.arange(150) + 1)
    assert len(thin(range(10), range(10))[0]) == 10
