"""Two workers against one with the whole batch, over gloo."""

import pytest
import torch
from gloo import in_workers
from torch.nn.parallel import DistributedDataParallel

from pixcon_core.contrast import PixelContrast, keep_out_of_ddp

pytestmark = pytest.mark.slow


def make(**settings):
    defaults = {
        "keys": "pixel+region",
        "max_anchors": 200,
        "max_views": 1000,
        "hard_anchor_ratio": None,
        "memory_size": 30,
        "pixels_per_class": 2,
        "warmup_steps": 1,
        "learnable_temperature": True,
    }
    return PixelContrast(3, 4, **(defaults | settings))


def whole_batch(step):
    """Four images; at step 2 the first half has nothing but ignored pixels, at step 3 both halves have."""
    generator = torch.Generator().manual_seed(step)
    embeddings = torch.randn(4, 4, 3, 4, generator=generator)
    labels = torch.randint(3, (4, 3, 4), generator=generator)
    labels[0, 0] = 255
    if step == 2:
        labels[:2] = 255
    if step == 3:
        labels[:] = 255
    return embeddings, labels


def run(parts, settings):
    """Losses, gradients and final state over the steps, of the given images of each batch."""
    torch.manual_seed(0)
    module = make(**settings)
    losses, grads = [], []
    for step in range(5):
        embeddings, labels = whole_batch(step)
        embeddings = embeddings[parts].clone().requires_grad_()
        loss = module(embeddings, labels[parts]).loss
        module.log_temperature.grad = None
        loss.backward()
        losses.append(loss.item())
        grads.append((embeddings.grad, module.log_temperature.grad))
    return losses, grads, module.state_dict()


def in_worker(rank, settings, cut):
    mine = slice(None, cut) if rank == 0 else slice(cut, None)
    return [*(run(mine, setting) for setting in settings), train(mine, DistributedDataParallel)]


class Segmentor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.project = torch.nn.Conv2d(4, 4, 1)
        self.contrast = make()

    def forward(self, images, labels):
        return self.contrast(self.project(images), labels).loss


def train(parts, wrap):
    torch.manual_seed(0)
    model = Segmentor()
    keep_out_of_ddp(model)
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(5):
        images, labels = whole_batch(step)
        optimizer.zero_grad()
        wrapped(images[parts], labels[parts]).backward()
        optimizer.step()
    return model.state_dict()


SETTINGS = [
    {"key_sampling": "hardest", "num_positives": 4, "num_negatives": 6},
    {"key_sampling": "semi_hard", "num_positives": None, "num_negatives": 1},
    {"key_sampling": "random", "num_positives": 2, "num_negatives": 3, "keys": "batch"},
    {"key_sampling": "random", "num_positives": 2, "num_negatives": 3, "memory_dtype": torch.bfloat16},
]


@pytest.fixture(scope="module", params=[2, 3], ids=["halves", "three images and one"])
def results(request):
    """What each of two workers got, for each of the settings and for DDP."""
    return in_workers(in_worker, SETTINGS, request.param)


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_all_workers_hold_the_memory_of_one_process_with_the_whole_batch(results, setting):
    _, _, expected = run(slice(None), SETTINGS[setting])
    for rank in range(2):
        state = results[rank][setting][2]
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_gradients_summed_over_workers_are_those_of_one_process(results, setting):
    """Each worker's loss is scaled so that DDP's mean, the sum over its two workers, is right."""
    losses, grads, _ = run(slice(None), SETTINGS[setting])
    assert losses[1] > 0
    assert losses[2] > 0
    assert losses[3] == 0
    for step in range(len(losses)):
        both = [results[rank][setting] for rank in range(2)]
        assert sum(part[0][step] for part in both) / 2 == pytest.approx(losses[step], rel=1e-5)
        joined = torch.cat([part[1][step][0] for part in both]) / 2
        torch.testing.assert_close(joined, grads[step][0], rtol=1e-4, atol=1e-6)
        temperature = sum(part[1][step][1] for part in both) / 2
        torch.testing.assert_close(temperature, grads[step][1], rtol=1e-4, atol=1e-6)


def test_ddp_trains_as_one_process_does(results):
    expected = train(slice(None), lambda model: model)
    for rank in range(2):
        for name, value in expected.items():
            torch.testing.assert_close(results[rank][-1][name], value, rtol=1e-4, atol=1e-5)


def test_ddp_leaves_the_memory_alone_and_not_the_parameters():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), make())
    keep_out_of_ddp(model)
    assert model._ddp_params_and_buffers_to_ignore == [
        "1.memory.keys",
        "1.memory.written",
        "1.seed",
        "1.step",
    ]
