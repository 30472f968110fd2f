"""The plain heads, of small models and of HRNet: from a backbone's feature maps to logits."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixcon_core.models.layers import classifier, conv_bn_relu, upsample


class HeadOutput(NamedTuple):
    """What a head makes of one batch."""

    logits: Float[Tensor, "batch class height width"]
    aux_logits: Float[Tensor, "batch class aux_height aux_width"] | None
    """Only in training, and only of heads that have an auxiliary loss."""
    pixels: Float[Tensor, "batch channel pixel_height pixel_width"]
    """The features that the projection head embeds."""


class FCNHead(nn.Module):
    """The deepest features beside one finer level, for small models and small crops."""

    def __init__(self, fine_channels: int, deep_channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.pixel_channels = width
        fine_width = max(width // 4, 8)
        self.deep = conv_bn_relu(deep_channels, width)
        self.fine = conv_bn_relu(fine_channels, fine_width)
        self.fuse = conv_bn_relu(width + fine_width, width, 3)
        self.classifier = classifier(width, num_classes, dropout=0.1)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Return logits at the finer level's resolution."""
        fine, deep = features
        pixels = self.fuse(torch.cat([upsample(self.deep(deep), fine), self.fine(fine)], dim=1))
        return HeadOutput(self.classifier(pixels), None, pixels)


class HRNetHead(nn.Module):
    """All levels at the finest one's resolution, side by side: 720 channels of HRNet-W48.

    Source:
        Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020 (HRNetV2),
        with the 3x3 convolution and the dropout of the contrast paper's code; the original has 1x1 and none.
    """

    def __init__(self, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.pixel_channels = sum(channels)
        self.mix = conv_bn_relu(self.pixel_channels, self.pixel_channels, 3)
        self.classifier = classifier(self.pixel_channels, num_classes, dropout=0.1)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Return logits at the finest level's resolution."""
        pixels = concatenate(features)
        return HeadOutput(self.classifier(self.mix(pixels)), None, pixels)


def concatenate(features: list[Tensor]) -> Tensor:
    """Bring all maps to the first one's resolution, channels side by side."""
    return torch.cat([upsample(feature, features[0]) for feature in features], dim=1)
