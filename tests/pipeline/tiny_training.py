"""A few short steps of a small network on images made on the spot, for tests of the training loop."""

import shutil

import numpy as np

from pipeline.ingest import Batch
from pipeline.train import Worker, train
from pipeline.training.checkpoint import load_meta


def batches(first, last=8, images=2):
    """Images whose blocks of grey are their classes; the same for the same step."""
    for step in range(first, last):
        rng = np.random.default_rng(step)
        labels = rng.integers(0, 3, (images, 4, 4)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
        noise = rng.integers(0, 40, (images, 64, 64, 3), dtype=np.uint8)
        pixels = np.stack([labels * 80] * 3, axis=-1) + noise
        labels[:, :5] = 255
        yield Batch(pixels, labels)


class Run:
    """What one call of `train` reported; its checkpoints are below a folder."""

    def __init__(self, folder, worker=None):
        self.folder, self.worker, self.records, self.kept = folder, worker or Worker(), [], []

    def keep(self, checkpoint):
        step = load_meta(checkpoint).step
        self.kept.append(step)
        shutil.copytree(checkpoint, self.folder / str(step))

    def start(self, job, start=None, source=batches):
        train(job, self.worker, source, start=start, put=self.records.append, keep=self.keep)
        return self
