"""Two workers train as one does that has the whole batch: the loop itself, without Ray."""

import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gloo import in_workers

from pipeline.data.shards import RowGroup, Shards, Split
from pipeline.ingest import Batch
from pipeline.train import Job, Worker, train
from pipeline.training.checkpoint import load_segmentor, load_training
from pixcon_core.config import ContrastConfig, ModelConfig, RunConfig, TrainConfig

pytestmark = pytest.mark.slow

STEPS, IMAGES = 8, 4
SPLIT = Split((RowGroup("train-00000.parquet", 0, 8),), (400, 300, 20))
SHARDS = Shards("nowhere", "test", ("sky", "road", "car"), ((0, 0, 0),) * 3, {"train": SPLIT}, ())
CONFIG = RunConfig(
    model=ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16, projection_dim=16),
    # No more anchors than max_views allows, which is for each image: max_anchors is for each worker. And no choice that
    # the last digit of a similarity or a logit can turn: tests/contrast/test_workers.py has those.
    contrast=ContrastConfig(
        memory_size=20,
        max_views=8,
        max_anchors=96,
        warmup_steps=2,
        weight=0.5,
        hard_anchor_ratio=None,
        key_sampling="random",
    ),
    train=TrainConfig(
        steps=STEPS,
        batch_size=IMAGES,
        log_every=1,
        checkpoint_every=STEPS,
        precision="float32",
        optimizer="sgd",  # Adam turns the last digit of a gradient that is 0 into a whole step
        lr=0.01,
    ),
)


def work(rank, cut=IMAGES, world_size=2):
    """Train on this worker's part of each batch, cut in two; return metrics, weights and contrast memory."""
    records, mine = [], slice(None, cut) if rank == 0 else slice(cut, None)

    def batches(first):
        for step in range(first, STEPS):
            rng = np.random.default_rng(step)
            labels = rng.integers(0, 3, (IMAGES, 4, 4)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
            images = np.stack([labels * 80] * 3, axis=-1) + rng.integers(0, 40, (IMAGES, 64, 64, 3), dtype=np.uint8)
            labels[0, : 12 * step] = 255  # workers differ in how much void they have
            yield Batch(images[mine], labels[mine])

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept"

        def keep(checkpoint):
            if rank == 0:
                shutil.copytree(checkpoint, kept)

        # Each worker has dropout of its own.
        with patch.object(torch.nn.Dropout2d, "forward", lambda self, features: features):
            worker = Worker(rank, world_size)
            train(Job(CONFIG, SHARDS), worker, batches, start=None, put=records.append, keep=keep)
        if rank:
            return records, {}, {}
        return records, load_segmentor(kept).model.state_dict(), load_training(kept)["contrast"]


@pytest.fixture(scope="module", params=[2, 3], ids=["halves", "three images and one"])
def both(request):
    return in_workers(work, request.param)[0], work(0, world_size=1)


@pytest.mark.parametrize("name", ["loss", "cross_entropy", "contrast"])
def test_the_loss_curves_are_the_same(both, name):
    two, one = ([record[name] for record in result[0]] for result in both)
    assert len(one) == STEPS
    assert min(one[3:]) > 0
    assert two == pytest.approx(one, rel=2e-4)


def test_the_memory_is_the_same(both):
    two, one = (result[2] for result in both)
    assert two.keys() == one.keys()
    assert any(value.dtype == torch.float32 and value.abs().sum() > 0 for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_weights_are_the_same(both):
    two, one = (result[1] for result in both)
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-2, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
