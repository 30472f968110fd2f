"""DeepLabV3's head: atrous spatial pyramid pooling on the deepest features, an auxiliary classifier a stage before."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixcon_core.contrast.workers import current_world
from pixcon_core.models.heads import HeadOutput
from pixcon_core.models.layers import classifier, conv_bn_relu

_RATES = (12, 24, 36)
"""Dilations at output stride 8: a coarser map takes proportionally smaller ones."""


class ImagePool(nn.Module):
    """The mean over the whole map, through 1x1 convolution, batch norm and ReLU, at every pixel again.

    Batch norm has no variance to learn from where the batch is one image, whose mean is one pixel. For such a batch
    the running statistics stand in, and stay as they are. With synchronised batch norm, which is another class on
    CPU and on GPU, the images of all workers count, and one for each is enough where there are several.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = conv_bn_relu(in_channels, out_channels)

    def forward(self, features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch out height width"]:
        """Return a map that is the same at every pixel."""
        convolution, norm, relu = self.layers
        pooled = convolution(features.mean(dim=(2, 3), keepdim=True))
        is_alone = isinstance(norm, nn.BatchNorm2d) or current_world().size == 1
        if self.training and len(features) == 1 and is_alone and isinstance(norm, _BatchNorm):
            pooled = F.batch_norm(
                pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )
        else:
            pooled = norm(pooled)
        return relu(pooled).expand(-1, -1, *features.shape[2:])  # type: ignore[no-any-return]


class DeepLabV3Head(nn.Module):
    """Pyramid pooling, a 3x3 convolution that joins its five branches, and one that refines.

    Args:
        aux_channels: Of the stage before the last.
        deep_channels: Of the last stage, which also is what the projection head embeds (2048 of a ResNet-101).
        width: Channels of each branch and of what follows (paper: 512); the auxiliary classifier has half of it.
        num_classes: Channels of the logits.
        output_stride: Of the last stage.
        with_aux: Whether there is an auxiliary classifier; one that no loss reaches would stall distributed training.

    Source:
        Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017; widths and the refining
        convolution from the contrast paper's code, where that convolution lacks its ReLU.
    """

    def __init__(
        self,
        aux_channels: int,
        deep_channels: int,
        width: int,
        num_classes: int,
        *,
        output_stride: int,
        with_aux: bool = True,
    ) -> None:
        super().__init__()
        self.pixel_channels = deep_channels
        rates = [rate * 8 // output_stride for rate in _RATES]
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(deep_channels, width),
                *[conv_bn_relu(deep_channels, width, 3, dilation=rate) for rate in rates],
                ImagePool(deep_channels, width),
            ]
        )
        self.join = conv_bn_relu(len(self.branches) * width, width, 3)
        self.refine = conv_bn_relu(width, width, 3)
        self.classifier = classifier(width, num_classes, dropout=0.1)
        self.aux = _aux_classifier(aux_channels, width // 2, num_classes) if with_aux else None

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Return logits at the deepest level's resolution, in training auxiliary ones too."""
        middle, deep = features
        context = self.join(torch.cat([branch(deep) for branch in self.branches], dim=1))
        logits = self.classifier(self.refine(context))
        aux_logits = self.aux(middle) if self.aux is not None and self.training else None
        return HeadOutput(logits, aux_logits, deep)


def _aux_classifier(in_channels: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_channels, width, 3), classifier(width, num_classes, dropout=0.1))
