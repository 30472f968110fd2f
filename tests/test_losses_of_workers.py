"""Cross-entropy of two workers, whose parts have more and fewer void pixels, against one with the whole batch."""

import pytest
import torch
from gloo import in_workers
from test_losses import CLASSES, IGNORE, output
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pixcon_core.contrast.workers import current_world
from pixcon_core.losses import Ohem, segmentation_loss

pytestmark = pytest.mark.slow

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.1])
# Mining keeps what is below its threshold: more than so few pixels of any part.
CASES = {"plain": {}, "weighted": {"class_weights": WEIGHTS}, "ohem": {"ohem": Ohem(0.3, min_kept=1)}}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.main, self.aux = nn.Conv2d(3, CLASSES, 1), nn.Conv2d(3, CLASSES, 1)

    def forward(self, images, labels, settings):
        logits = output(self.main(images), self.aux(images))
        return segmentation_loss(logits, labels, aux_weight=0.4, world=current_world(), **settings)


def whole_batch():
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(CLASSES, (4, 8, 8), generator=generator)
    labels[0], labels[1, :6] = IGNORE, IGNORE
    return torch.randn(4, 3, 4, 4, generator=generator), labels


def step(parts, settings, wrap=lambda model: model):
    model = Model()
    images, labels = whole_batch()
    wrapped = wrap(model)
    loss = wrapped(images[parts], labels[parts], settings)
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


def in_worker(rank):
    return [step(slice(2 * rank, 2 * rank + 2), settings, DistributedDataParallel) for settings in CASES.values()]


@pytest.fixture(scope="module")
def results():
    return in_workers(in_worker)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_whole_batch(results, case):
    loss, grads = step(slice(None), CASES[case])
    both = [result[list(CASES).index(case)] for result in results]
    assert sum(part[0] for part in both) / 2 == pytest.approx(loss, rel=1e-6)
    for part in both:
        torch.testing.assert_close(part[1], grads)
