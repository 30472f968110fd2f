"""Small batches, and modules that take every pixel as an anchor."""

import pytest
import torch

from pixcon_core.contrast import PixelContrast


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def everyone():
    """Make a module for which no sampling is random unless asked."""

    def make(num_classes=3, dim=4, **settings):
        defaults = {
            "keys": "batch",
            "key_sampling": "hardest",
            "num_positives": None,
            "num_negatives": None,
            "max_anchors": 10_000,
            "max_views": 10_000,
            "hard_anchor_ratio": None,
            "memory_size": 50,
            "pixels_per_class": 100,
            "warmup_steps": 0,
        }
        return PixelContrast(num_classes, dim, **(defaults | settings))

    return make


@pytest.fixture
def batch():
    """Make embeddings with a gradient, and labels of the same size, some ignored."""

    def make(images=2, dim=4, size=(3, 4), num_classes=3, dtype=torch.float64, ignored=2):
        embeddings = torch.randn(images, dim, *size, dtype=dtype, requires_grad=True)
        labels = torch.randint(num_classes, (images, *size))
        labels.view(-1)[torch.randperm(labels.numel())[:ignored]] = 255
        return embeddings, labels

    return make


@pytest.fixture
def flat():
    """Turn a batch into lists of its labelled pixels' embeddings and labels."""

    def make(embeddings, labels):
        rows = embeddings.detach().permute(0, 2, 3, 1).flatten(0, 2)
        kept = labels.flatten() != 255
        return rows[kept].tolist(), labels.flatten()[kept].tolist()

    return make
