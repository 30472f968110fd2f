"""Batch norm over the images of all workers, on CPUs as on GPUs.

A worker sees few images, often one or two, and their mean and variance are too noisy to normalise with. PyTorch
has `nn.SyncBatchNorm` for this, which refuses CPUs, and whose converter loses the activation that timm's
`BatchNormAct2d` (EfficientNet, MobileNet and others) has inside.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from pixcon_core.contrast.workers import World, current_world


def synchronize_batch_norm(module: nn.Module, device_type: str) -> nn.Module:
    """Make every batch norm in a model take its statistics over all workers.

    Parameters, buffers and the names of both stay, so optimisers and checkpoints do not notice; in eval mode and with
    one process nothing changes. Frozen batch norms stay frozen. All workers must run the layers in the same order.

    One image whose map is 1x1 has one value per channel and no variance. Such a batch norm works if another worker
    has an image too. In a single process it is an error of PyTorch's; only `ImagePool` has an answer, its running
    statistics, because a pooled map is always 1x1.

    Args:
        module: Changed in place.
        device_type: Where it computes; "cpu" gets `SynchronizedBatchNorm`, all else PyTorch's own.

    Returns:
        The model; another object than `module` only if `module` itself is a batch norm.
    """
    if device_type != "cpu":
        converted: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for layer in module.modules():
        # Another class for the same object: hooks, and whoever else holds the layer, still have the right one.
        if type(layer) is BatchNormAct2d:
            layer.__class__ = SynchronizedBatchNormAct  # type: ignore[assignment]
        elif type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layer.__class__ = SynchronizedBatchNorm
    return module


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm that in training takes mean and variance over all processes; made by `synchronize_batch_norm`.

    As with `nn.SyncBatchNorm`, inputs get the gradient of the sum of all processes' losses, and weights that of their
    own process's, for DistributedDataParallel to average. Processes may hold different numbers of images, or none.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input normalised; running statistics are updated as PyTorch does."""
        world = current_world()
        if not self.training or world.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        moments = _gather_moments(input.detach(), world)
        self._track(moments)
        normalized: Tensor = _Normalize.apply(input, self.weight, self.bias, moments, self.eps)
        return normalized

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Batch norm takes (batch, channel, ...), but got an input of shape {tuple(input.shape)}.")

    def _track(self, moments: "_Moments") -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = moments.variance * (moments.number / (moments.number - 1))
        self.running_mean.lerp_(moments.mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class SynchronizedBatchNormAct(SynchronizedBatchNorm):
    """The same with what timm's `BatchNormAct2d` does after it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Return the input normalised and activated."""
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return]


class _Moments(NamedTuple):
    """Of the values of each channel, over all processes."""

    number: float
    mean: Tensor
    variance: Tensor
    """Biased: divided by the number."""


def _gather_moments(input: Tensor, world: World) -> _Moments:
    # float32 for half precision; float64 for what is combined, so that counts are exact.
    dtype = torch.promote_types(input.dtype, torch.float32)
    channels = input.shape[1]
    local = torch.zeros(1 + 2 * channels, dtype=torch.float64)
    if input.numel():
        mean, deviation = _mean_and_deviation(input.to(dtype))
        local = torch.cat([local.new_full((1,), input.numel() // channels), mean.double(), deviation.double()])
    parts = [torch.empty_like(local) for _ in range(world.size)]
    dist.all_gather(parts, local)
    counts, means, deviations = torch.split(torch.stack(parts), [1, channels, channels], dim=1)
    number = float(counts.sum())
    if number < 2:
        raise ValueError(
            f"Batch norm needs more than 1 value per channel over all workers, but got {number:.0f}; raise"
            " train.batch_size or ingest.crop."
        )
    mean = (counts * means).sum(dim=0) / number
    # Squared deviations about each process's own mean, moved to the common mean: no difference of large numbers.
    variance = (deviations + counts * (means - mean).square()).sum(dim=0) / number
    return _Moments(number, mean.to(dtype), variance.to(dtype))


def _mean_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and its sum of squared deviations, in two passes for accuracy."""
    others = [dim for dim in range(values.dim()) if dim != 1]
    mean = values.mean(dim=others, keepdim=True)
    return mean.flatten(), (values - mean).square_().sum(dim=others)


class _Normalize(torch.autograd.Function):
    """(input - mean) / deviation * weight + bias, where mean and deviation depend on all processes' inputs."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, moments: _Moments, eps: float
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.moments, ctx.eps = moments, eps
        return F.batch_norm(input, moments.mean, moments.variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        moments: _Moments = ctx.moments
        shape = (1, -1, *[1] * (input.dim() - 2))
        others = [dim for dim in range(input.dim()) if dim != 1]
        inverse = (moments.variance + ctx.eps).rsqrt()
        centred = input - moments.mean.view(shape)
        grad_bias = grad.sum(dim=others, dtype=centred.dtype)
        grad_weight = (grad * centred).sum(dim=others) * inverse

        grad_input = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([grad_bias, grad_weight])
            dist.all_reduce(sums)
            constant, slope = sums / moments.number
            scale = inverse if weight is None else inverse * weight
            common = centred.mul_((slope * inverse).view(shape)).add_(constant.view(shape))
            grad_input = (grad - common).mul_(scale.view(shape)).to(input.dtype)
        return (
            grad_input,
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
        )
