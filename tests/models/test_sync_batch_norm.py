"""Two workers with parts of a batch against one process with the whole, over gloo and in float64."""

import copy

import pytest
import timm
import torch
from gloo import in_workers
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SyncBatchNormAct
from torch import nn

from pixcon_core.models import synchronize_batch_norm
from pixcon_core.models.deeplabv3 import DeepLabV3Head, ImagePool
from pixcon_core.models.sync_batch_norm import SynchronizedBatchNorm, SynchronizedBatchNormAct

pytestmark = pytest.mark.slow


def plain():
    """Batch norm as it comes, and each of its options."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5, momentum=None),
        nn.BatchNorm2d(5, affine=False),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4),
    )


class Features(nn.Module):
    """Of an EfficientNet, whose batch norms have the activation inside, as one map."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 4))

    def forward(self, images):
        fine, deep = self.backbone(images)
        return torch.cat([fine.mean(dim=(2, 3)), deep.mean(dim=(2, 3))], dim=1)


class Pyramid(nn.Module):
    """DeepLabV3's head on the images themselves; it pools each to one pixel."""

    def __init__(self):
        super().__init__()
        self.head = DeepLabV3Head(3, 3, 8, 4, output_stride=8)

    def forward(self, images):
        output = self.head([images, images])
        return output.logits + output.aux_logits


CASES = {
    "plain": (plain, (3, 1)),
    "one-has-none": (plain, (4, 0)),
    "activation-inside": (Features, (2, 2)),
    "deeplabv3-one-image-each": (Pyramid, (1, 1)),
}


def make(build, dtype=torch.float64):
    torch.manual_seed(0)
    model = build().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # its draws are another process's own
    return model


def images_of(number):
    return torch.randn(number, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def steps(model, images):
    """Outputs and input gradients of two steps, and the sum of their weight gradients and the state after them."""
    results = []
    for step in range(2):
        pixels = (images * (step + 1) + step).requires_grad_()
        output = model(pixels)
        (output * output.sin()).sum().backward()
        results.append((output.detach(), pixels.grad))
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    return results, grads, model.state_dict()


def far_from_zero(parts):
    """Values whose mean is so large that float32 has no digits left for their mean square."""
    norm = nn.BatchNorm2d(3)
    synchronize_batch_norm(norm, "cpu")
    return norm(1e4 + images_of(4)[parts].float()), norm.running_var


def in_worker(rank):
    results = {}
    for name, (build, split) in CASES.items():
        first = split[0] if rank else 0
        model = synchronize_batch_norm(make(build), "cpu")
        results[name] = steps(model, images_of(sum(split))[first : first + split[rank]])
    results["far"] = far_from_zero(slice(3 * rank, 3 + rank))
    half = synchronize_batch_norm(nn.BatchNorm2d(3), "cpu")
    results["bfloat16"] = half(images_of(4)[2 * rank : 2 * rank + 2].bfloat16())
    try:
        synchronize_batch_norm(nn.BatchNorm2d(3), "cpu")(torch.zeros(1 - rank, 3, 1, 1))
    except ValueError as error:
        results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def results():
    return in_workers(in_worker)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_are_as_one_process_with_the_whole_batch(results, case):
    build, split = CASES[case]
    expected_steps, expected_grads, expected_state = steps(make(build), images_of(sum(split)))
    (steps_a, grads_a, state_a), (steps_b, grads_b, state_b) = (result[case] for result in results)
    for step, (output, input_grad) in enumerate(expected_steps):
        torch.testing.assert_close(torch.cat([steps_a[step][0], steps_b[step][0]]), output)
        torch.testing.assert_close(torch.cat([steps_a[step][1], steps_b[step][1]]), input_grad)
    assert expected_grads.keys() == grads_a.keys()
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads_a[name] + grads_b[name], grad, msg=lambda text: f"{name}: {text}")  # noqa: B023
    for state in (state_a, state_b):
        assert list(state) == list(expected_state)
        for name, value in expected_state.items():
            torch.testing.assert_close(state[name], value, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_a_mean_far_from_zero_costs_no_accuracy(results):
    values = (1e4 + images_of(4).float()).double()  # as float32 has them
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), keepdim=True)
    expected = (values - mean) / variance.sqrt()
    for rank, part in enumerate((slice(0, 3), slice(3, 4))):
        output, running_var = results[rank]["far"]
        torch.testing.assert_close(output.double(), expected[part], rtol=0, atol=2e-3)
        torch.testing.assert_close(running_var.double(), 0.9 + 0.1 * variance.flatten(), rtol=1e-5, atol=0)


def test_half_precision_has_statistics_in_full(results):
    expected = nn.BatchNorm2d(3)(images_of(4).bfloat16())
    output = torch.cat([result["bfloat16"] for result in results])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)


def test_one_value_over_all_workers_is_an_error_on_all(results):
    for result in results:
        assert result["error"].startswith("Batch norm needs more than 1 value per channel over all workers, but got 1;")


@pytest.mark.parametrize("build", [plain, Features, Pyramid])
def test_in_one_process_conversion_changes_nothing(build):
    model = make(build)
    converted = synchronize_batch_norm(copy.deepcopy(model), "cpu")
    assert list(converted.state_dict()) == list(model.state_dict())
    images = images_of(2)
    for (output, grad), (expected, expected_grad) in zip(
        steps(converted, images)[0], steps(model, images)[0], strict=True
    ):
        assert torch.equal(output, expected)
        assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("build", [plain, Features])
def test_in_eval_mode_conversion_changes_nothing(build):
    model = make(build).eval()
    expected = model(images_of(2))
    assert torch.equal(synchronize_batch_norm(model, "cpu")(images_of(2)), expected)


def test_parameters_and_hooks_stay_the_same_objects():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4))
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(output.min() >= 0))
    parameters = list(model.parameters())
    synchronize_batch_norm(model, "cpu")
    assert [type(layer) for layer in model[1:]] == [SynchronizedBatchNormAct, SynchronizedBatchNorm]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    model(torch.randn(2, 3, 4, 4))
    assert seen == [True]


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_frozen_batch_norms_stay_frozen(device_type):
    model = nn.Sequential(FrozenBatchNormAct2d(4), nn.BatchNorm2d(4))
    frozen = model[0]
    synchronized = synchronize_batch_norm(model, device_type)
    assert synchronized[0] is frozen
    assert type(synchronized[1]) is not nn.BatchNorm2d


def test_on_gpus_the_activation_inside_is_kept():
    """PyTorch's own converter loses it. In eval mode its layers compute on CPUs too."""
    model = make(Features).eval()
    expected = model(images_of(1))
    torchs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not torch.allclose(torchs(images_of(1)), expected)
    ours = synchronize_batch_norm(copy.deepcopy(model), "cuda")
    assert any(isinstance(module, SyncBatchNormAct) for module in ours.modules())
    assert list(ours.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(ours(images_of(1)), expected)


def test_image_pool_asks_synchronised_norms_for_their_statistics():
    """For one image in one process there are none, and plain and synchronised ones take the running statistics."""
    pool = ImagePool(3, 4)
    pool(torch.randn(1, 3, 5, 5))
    assert pool.layers[1].num_batches_tracked == 0
    synchronize_batch_norm(pool, "cpu")
    pool(torch.randn(1, 3, 5, 5))
    assert pool.layers[1].num_batches_tracked == 0
    pool(torch.randn(2, 3, 5, 5))
    assert pool.layers[1].num_batches_tracked == 1
