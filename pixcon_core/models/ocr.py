"""Object-contextual representations: each pixel's features beside those of the classes it looks like."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixcon_core.models.heads import HeadOutput, concatenate
from pixcon_core.models.layers import classifier, conv_bn_relu


def object_regions(
    features: Float[Tensor, "batch channel height width"], logits: Float[Tensor, "batch class height width"]
) -> Float[Tensor, "batch channel class 1"]:
    """Return one feature per class: the mean over pixels, weighted by the class's softmax over the whole map.

    That softmax runs over pixels and not over classes, so each class's weights add up to 1.
    """
    weights = logits.flatten(2).softmax(dim=2)  # (B, K, H*W)
    return (features.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


def attend(
    queries: Float[Tensor, "batch key height width"],
    keys: Float[Tensor, "batch key class 1"],
    values: Float[Tensor, "batch value class 1"],
) -> Float[Tensor, "batch value height width"]:
    """Return for each pixel the mean of the classes' values, weighted by scaled dot-product attention."""
    batch, dim, height, width = queries.shape
    similarity = queries.flatten(2).transpose(1, 2) @ keys.flatten(2) / math.sqrt(dim)  # (B, H*W, K)
    context = values.flatten(2) @ similarity.softmax(dim=2).transpose(1, 2)
    return context.reshape(batch, -1, height, width)


class ObjectContext(nn.Module):
    """Attention of pixels to class regions, with what comes before and after it.

    Args:
        width: Channels of the pixel features, in and out.
        key_width: Channels of queries, keys and values.
    """

    def __init__(self, width: int, key_width: int) -> None:
        super().__init__()
        self.query = nn.Sequential(conv_bn_relu(width, key_width), conv_bn_relu(key_width, key_width))
        self.key = nn.Sequential(conv_bn_relu(width, key_width), conv_bn_relu(key_width, key_width))
        self.value = conv_bn_relu(width, key_width)
        self.out = conv_bn_relu(key_width, width)
        self.join = conv_bn_relu(2 * width, width)

    def forward(
        self, pixels: Float[Tensor, "batch channel height width"], regions: Float[Tensor, "batch channel class 1"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the pixels' features with their object context worked in."""
        context = attend(self.query(pixels), self.key(regions), self.value(regions))
        return self.join(torch.cat([self.out(context), pixels], dim=1))  # type: ignore[no-any-return]


class OCRHead(nn.Module):
    """HRNet's head with object context. The auxiliary logits say which pixels make up a class's region.

    The projection head embeds the levels side by side (720 channels of HRNet-W48), before object context.

    Args:
        channels: Of the levels, the finest first.
        width: Channels of the pixel features (paper: 512); queries, keys and values have half of it.
        num_classes: Channels of the logits.

    Source:
        Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, with the 3x3
        convolution of the contrast paper's code in the auxiliary classifier; the original has 1x1.
    """

    def __init__(self, channels: list[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.pixel_channels = sum(channels)
        self.aux = nn.Sequential(
            conv_bn_relu(self.pixel_channels, self.pixel_channels, 3), classifier(self.pixel_channels, num_classes)
        )
        self.reduce = conv_bn_relu(self.pixel_channels, width, 3)
        self.context = ObjectContext(width, width // 2)
        self.classifier = classifier(width, num_classes, dropout=0.05)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Return logits at the finest level's resolution, in training the auxiliary ones too."""
        concatenated = concatenate(features)
        aux_logits = self.aux(concatenated)
        pixels = self.reduce(concatenated)
        logits = self.classifier(self.context(pixels, object_regions(pixels, aux_logits)))
        return HeadOutput(logits, aux_logits if self.training else None, concatenated)
