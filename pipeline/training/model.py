"""What is trained: segmentor and contrast as one module."""

import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pixcon_core.config import RunConfig, TrainConfig
from pixcon_core.contrast import PixelContrast
from pixcon_core.contrast.output import ContrastStats
from pixcon_core.contrast.workers import current_world
from pixcon_core.losses import Ohem, balanced_class_weights, segmentation_loss
from pixcon_core.models import Segmentor, build_segmentor, normalization


class Losses(NamedTuple):
    """Losses of one step on one worker."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    """With the auxiliary one, where there is one."""
    contrast: Float[Tensor, ""]
    """Before its weight."""
    stats: ContrastStats | None


class TrainedModel(nn.Module):
    """Segmentor and contrast as one module: one forward pass for DDP, one state to save."""

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]
    class_weights: Float[Tensor, " class"] | None

    def __init__(self, config: RunConfig, class_pixels: tuple[int, ...]) -> None:
        super().__init__()
        num_classes, contrast = len(class_pixels), config.contrast
        self.weight, self.aux_weight = contrast.weight, config.model.aux_weight
        self.segmentor: Segmentor = build_segmentor(config.model, num_classes, projection=contrast.weight > 0)
        self.contrast = build_contrast(config, num_classes) if contrast.weight > 0 else None
        stated = normalization(config.model)
        self.register_buffer("mean", 255 * torch.tensor(stated.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(stated.std).view(3, 1, 1), persistent=False)
        self.register_buffer("class_weights", class_weights(config.train, class_pixels), persistent=False)
        self.lovasz_weight = config.train.lovasz_weight
        threshold = config.train.ohem_threshold
        self.ohem = None if threshold is None else Ohem(threshold, config.train.ohem_min_kept)

    def forward(
        self, images: UInt8[Tensor, "batch height width 3"], labels: UInt8[Tensor, "batch height width"]
    ) -> Losses:
        """Return the losses of a batch, and store its keys in the memory."""
        pixels = (images.permute(0, 3, 1, 2) - self.mean) / self.std  # (B, H, W, 3) -> (B, 3, H, W)
        output = self.segmentor(pixels, with_embeddings=self.contrast is not None)
        labels = labels.long()
        cross_entropy = segmentation_loss(
            output,
            labels,
            class_weights=self.class_weights,
            aux_weight=self.aux_weight,
            ohem=self.ohem,
            lovasz_weight=self.lovasz_weight,
            world=current_world(),
        )
        if self.contrast is None:
            return Losses(cross_entropy, cross_entropy, torch.zeros_like(cross_entropy), None)
        contrast = self.contrast(output.embeddings, labels, output.logits.detach())
        return Losses(cross_entropy + self.weight * contrast.loss, cross_entropy, contrast.loss, contrast.stats)


def build_contrast(config: RunConfig, num_classes: int) -> PixelContrast:
    """Return the contrast term of a configuration."""
    settings = {f.name: getattr(config.contrast, f.name) for f in dataclasses.fields(config.contrast)}
    del settings["weight"]
    settings["warmup_steps"] = config.warmup_steps * config.train.accumulate  # it counts what it is called with
    return PixelContrast(num_classes, config.model.projection_dim, **settings, seed=config.seed)


def class_weights(config: TrainConfig, class_pixels: tuple[int, ...]) -> Float[Tensor, " class"] | None:
    """Return the weights of classes in cross-entropy; None where all weigh the same."""
    if config.class_weights == "balanced":
        return balanced_class_weights(class_pixels)
    return None if isinstance(config.class_weights, str) else torch.tensor(config.class_weights)
