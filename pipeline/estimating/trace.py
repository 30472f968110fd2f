"""What a training step holds and computes, from tensors without content: no memory is filled and no data needed.

The operations are PyTorch's own count on the meta device. The memory is found by a whole forward and backward pass on
fake tensors: these say they are on the CPU, so that autocast mixes its types as in a real run, but have shapes only.
Every storage is counted from when an operator makes it to when nothing refers to it any more.
"""

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pixcon_core.config import ModelConfig
from pixcon_core.losses import segmentation_loss
from pixcon_core.models import Segmentor, build_segmentor


class PassMemory(NamedTuple):
    """Bytes that one forward and backward pass makes, beside weights and buffers."""

    kept: int
    """At the end of the forward pass: what the backward pass will need, and the images themselves."""
    peak_forward: int
    """Most at any time of the forward pass."""
    peak_backward: int
    """Most at any time of the backward pass, in which gradients grow as activations go."""
    pixels: int
    """Of all embeddings together; 0 without these."""


class Operations(NamedTuple):
    """Multiply-adds for one image."""

    inference: int
    """Of the forward pass, as after training."""
    with_projection: int
    """The same with the projection head."""
    forward: int
    """Of training's forward pass: with the auxiliary head, and the projection head if there is contrast."""

    @property
    def training(self) -> int:
        """Of a training step: the backward pass has one such product for the input and one for the weights."""
        return 3 * self.forward


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operators make while it is entered, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count what is new in its result; a view or an in-place result is not."""
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key in given or key in self._sizes:
                continue
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._let_go, key)
        return result

    def _let_go(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def on_meta(config: ModelConfig, num_classes: int, *, projection: bool) -> Segmentor:
    """Return the segmentor without content; no weights are read or fetched for it."""
    with torch.device("meta"):
        return build_segmentor(dataclasses.replace(config, pretrained="false"), num_classes, projection=projection)


def count_operations(model: Segmentor, size: tuple[int, int], *, with_contrast: bool) -> Operations:
    """Return the operations of a segmentor that has a projection head.

    Args:
        model: From `on_meta`.
        size: Height and width of the image.
        with_contrast: Whether training makes embeddings.
    """
    model.eval()
    plain, projecting = (multiply_adds(model, size, with_embeddings=given) for given in (False, True))
    model.train()
    return Operations(plain, projecting, multiply_adds(model, size, with_embeddings=with_contrast))


def multiply_adds(model: Segmentor, size: tuple[int, int], *, with_embeddings: bool) -> int:
    """Return the multiply-adds of a forward pass's convolutions and matrix products, for one image.

    Args:
        model: From `on_meta`. In training mode the auxiliary logits are made too, where there are any.
        size: Height and width of the image.
        with_embeddings: Whether the projection head runs.
    """
    images = torch.empty(2, 3, *size, device="meta")  # two: batch norm in training refuses one value per channel
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images, with_embeddings=with_embeddings)
    return int(counter.get_total_flops()) // 2 // len(images)


def trace_pass(
    model: Segmentor, num_classes: int, size: tuple[int, int], images: int, *, half: bool, aux_weight: float
) -> PassMemory:
    """Return the memory of one forward and backward pass in training.

    Args:
        model: From `on_meta`, in training mode; with the projection head if the run has one.
        num_classes: Of its logits.
        size: Height and width of the images.
        images: How many go through at once.
        half: Whether autocast computes in a type of 16 bits.
        aux_weight: Factor of the auxiliary loss.
    """
    with FakeTensorMode(), LiveBytes() as live:
        tensors = _fake_tensors(model)
        class_weights = torch.empty(num_classes)
        standing = live.now
        raw = torch.empty(images, *size, 3, dtype=torch.uint8)
        labels = torch.empty(images, *size, dtype=torch.uint8).long()
        pixels = raw.permute(0, 3, 1, 2) / torch.empty(3, 1, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            given = {"with_embeddings": model.projection is not None}
            output = torch.func.functional_call(model, tensors, (pixels,), given)
            loss = segmentation_loss(output, labels, class_weights=class_weights, aux_weight=aux_weight)
        kept, peak_forward = live.now - standing, live.peak - standing
        live.peak = live.now
        embeddings = output.embeddings
        pixels_embedded = 0 if embeddings is None else embeddings[:, 0].numel()
        del output, pixels
        # Contrast sends a whole map of gradients back, most of them zero.
        ends = [loss] if embeddings is None else [loss, embeddings]
        slopes = [None] if embeddings is None else [None, torch.empty_like(embeddings)]
        torch.autograd.backward(ends, slopes)
        return PassMemory(kept, peak_forward, live.peak - standing, pixels_embedded)


def _fake_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return stand-ins for all weights and buffers; call within a FakeTensorMode."""
    tensors = {n: torch.empty(p.shape, dtype=p.dtype, requires_grad=True) for n, p in model.named_parameters()}
    return tensors | {n: torch.empty(b.shape, dtype=b.dtype) for n, b in model.named_buffers()}
