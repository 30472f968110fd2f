"""Device memory of one training worker, by part: what stands all the time, and the most that a step adds.

The network's part is traced (`pipeline.estimating.trace`). The contrast term's sizes depend on the labels, so its part
is a formula out of its own code, for anchors in full number and a full memory.
"""

from typing import NamedTuple

import torch
from torch import nn

from pipeline.estimating.trace import PassMemory
from pixcon_core.config import RunConfig
from pixcon_core.contrast.blocks import block_elements
from pixcon_core.contrast.candidates import sample_size
from pixcon_core.contrast.sampling import pool_size

NUM_CANDIDATES = 24576
"""`PixelContrast`'s default, which runs leave as it is."""
PER_SIMILARITY = 12
"""Bytes for each element of a block: the similarity, its copy without other classes, its slope (float32 each)."""
PER_CHOICE = 12
"""Bytes for each key chosen: its similarity (float32) and its column (int64)."""


class Memory(NamedTuple):
    """Bytes on the device of one worker."""

    weights: int
    """With buffers; twice where a moving average is kept."""
    gradients: int
    """Twice where several workers exchange them."""
    optimizer: int
    activations: int
    """Kept for the backward pass, the images themselves included."""
    bank: int
    """The stored keys of the contrast term."""
    contrast: int
    """What the contrast term works in."""
    passing: int
    """Beside activations at the fullest moment of a step: logits at full size, gradients so far, or contrast's work."""
    peak: int
    """At that moment: weights, optimiser, stored keys, activations and what is passing; with several workers or parts
    the gradients that they add to as well."""


def worker_memory(
    config: RunConfig,
    num_classes: int,
    model: nn.Module,
    traced: PassMemory,
    device: torch.device,
) -> Memory:
    """Return the memory of one worker.

    Args:
        config: Of the run.
        num_classes: Of the data set.
        model: The segmentor, with or without content.
        traced: Of one pass of the images that a worker takes at once.
        device: Decides how large the blocks of the contrast term are.
    """
    learned = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    exchanged = learned if config.train.num_workers > 1 else 0
    weights = state_bytes(model) * (1 if config.train.ema_decay is None else 2)
    optimizer = learned * (1 if config.train.optimizer == "sgd" else 2)
    bank = bank_bytes(config, num_classes)
    contrast = contrast_bytes(config, num_classes, device, traced.pixels)
    # The sum of the gradients of earlier parts, and what is exchanged with other workers, stand all the time.
    standing = weights + optimizer + bank + exchanged + (learned if config.train.accumulate > 1 else 0)
    passing = max(traced.peak_forward, traced.kept + contrast, traced.peak_backward)
    return Memory(
        weights=weights,
        gradients=learned + exchanged,
        optimizer=optimizer,
        activations=traced.kept,
        bank=bank,
        contrast=contrast,
        passing=passing - traced.kept,
        peak=standing + passing,
    )


def state_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def bank_bytes(config: RunConfig, num_classes: int) -> int:
    """Return the bytes of the stored keys: classes x kinds x memory_size x dim x 4."""
    if config.contrast.weight == 0 or config.contrast.keys == "batch":
        return 0
    kinds = len(config.contrast.keys.split("+"))
    return num_classes * kinds * config.contrast.memory_size * config.model.projection_dim * 4


def contrast_bytes(config: RunConfig, num_classes: int, device: torch.device, pixels: int) -> int:
    """Return about what the contrast term works in: 0.96 to 1.44 times that of real ones, when it was written.

    Args:
        config: Of the run.
        num_classes: Of the data set.
        device: Decides how large a block of similarities may be.
        pixels: Of the embeddings of one pass.
    """
    settings, dim = config.contrast, config.model.projection_dim
    if settings.weight == 0:
        return 0
    anchors = min(settings.max_anchors, pixels)
    keys = anchors * config.train.num_workers
    slots = bank_bytes(config, num_classes) // (4 * dim)
    negatives, positives = (
        sample_size(num, settings.key_sampling, NUM_CANDIDATES)
        for num in (settings.num_negatives, settings.num_positives)
    )
    is_sampled = negatives is not None and slots + keys > negatives
    columns = negatives if is_sampled and negatives is not None else slots
    of_class = slots // num_classes if positives is None else min(slots // num_classes, positives)
    limit = block_elements(device)
    width = keys + columns
    chosen = pool_size(width) if settings.key_sampling == "semi_hard" else min(settings.num_negatives or 0, width)
    # Positives: the stored keys of each tile of 16 anchors or more, and their gather's input.
    block = max(
        min(max(1, limit // width), anchors) * (PER_SIMILARITY * width + PER_CHOICE * chosen),
        2 * 4 * min(limit, (anchors // 16 + num_classes) * of_class * dim),
    )
    sampled_keys = columns * dim * 4 if is_sampled else 0
    of_anchors = anchors * (4 * keys + 6 * dim) * 4  # similarities and slopes in the batch; sums over the memory
    of_slots = slots * (5 * 8 + 1)  # draws and labels in 64 bits, and whether it is filled
    of_pixels = pixels * (6 * 8 + 4 * num_classes)  # order by class; share in each class's mean
    return max(of_pixels, block + sampled_keys + of_anchors + of_slots)
