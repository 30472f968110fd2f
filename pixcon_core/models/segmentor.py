"""`Segmentor`: backbone, head, and in training a projection head for the embeddings."""

import dataclasses
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pixcon_core.config import ModelConfig
from pixcon_core.models.backbone import Level, check_forward, create_backbone, feature_levels, is_hrnet
from pixcon_core.models.deeplabv3 import DeepLabV3Head
from pixcon_core.models.heads import FCNHead, HeadOutput, HRNetHead
from pixcon_core.models.layers import projection_head
from pixcon_core.models.ocr import OCRHead
from pixcon_core.models.weights import local_weights


class SegmentorOutput(NamedTuple):
    """What a segmentor says about a batch."""

    logits: Float[Tensor, "batch class height width"]
    """At the head's resolution, which is coarser than the images."""
    aux_logits: Float[Tensor, "batch class aux_height aux_width"] | None
    """Only in training, and only of heads that have an auxiliary loss."""
    embeddings: Float[Tensor, "batch dim pixel_height pixel_width"] | None
    """Unit length over `dim`, in float32; None where they were not asked for."""


class Segmentor(nn.Module):
    """A segmentation model, and the embeddings that pixel contrast works on.

    `backbone` is timm's module and `projection` the projection head or None; without it, the logits are made by the
    very same operations and weights.

    Args:
        backbone: Returns a list of feature maps.
        head: Turns these into a `HeadOutput`.
        projection: Turns its `pixels` into embeddings.
        multiple: Images are padded below and to the right to a multiple of so many pixels; 1 for none.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, projection: nn.Module | None, *, multiple: int = 1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.projection = projection
        self.multiple = multiple

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], *, with_embeddings: bool = False
    ) -> SegmentorOutput:
        """Return logits, and on request embeddings.

        Args:
            images: Normalised as `normalization` says.
            with_embeddings: Whether to run the projection head too.

        Raises:
            ValueError: If embeddings are asked of a model that has no projection head.
        """
        if with_embeddings and self.projection is None:
            raise ValueError("This segmentor has no projection head; build it with projection=True for embeddings.")
        output: HeadOutput = self.head(self._features(images))
        embeddings = None
        if with_embeddings and self.projection is not None:
            embeddings = F.normalize(self.projection(output.pixels).float(), dim=1)
        return SegmentorOutput(output.logits, output.aux_logits, embeddings)

    def _features(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if not below and not right:
            return cast(list[Tensor], self.backbone(images))
        features: list[Tensor] = self.backbone(F.pad(images, (0, right, 0, below)))
        strides = [(height + below) // feature.shape[2] for feature in features]
        return [
            feature[:, :, : -(-height // stride), : -(-width // stride)]
            for feature, stride in zip(features, strides, strict=True)
        ]


def build_segmentor(config: ModelConfig, num_classes: int, *, projection: bool = True) -> Segmentor:
    """Make a segmentor, with first weights.

    Args:
        config: Backbone, head and weights.
        num_classes: Channels of the logits.
        projection: Whether to add the projection head, which only contrast needs.

    Raises:
        ValueError: If the backbone is unknown or does not fit head or output stride, or its weights are missing or
            do not fit.
    """
    levels = _head_levels(config)
    backbone = create_backbone(config, [level.out_index for level in levels])
    head = _create_head(config, levels, num_classes)
    project = projection_head(cast(int, head.pixel_channels), config.projection_dim) if projection else None
    return Segmentor(backbone, head, project, multiple=_multiple(config))


def check_model(config: ModelConfig, crop: tuple[int, int], *, images_at_once: int = 2) -> None:
    """Raise ValueError if training could not begin: a look ahead that makes no model and needs no network.

    Args:
        config: What `build_segmentor` will get.
        crop: Height and width of training crops.
        images_at_once: What batch norm has its statistics from: the images of all workers that go through the
            network together.
    """
    levels = _head_levels(config)
    local_weights(config)  # reads the file, if there is one: of a wrong one, workers would only say so much later
    if any(side % config.output_stride for side in crop):
        raise ValueError(
            f"ingest.crop must be multiples of model.output_stride ({config.output_stride}), but got {crop}."
        )
    multiple = _multiple(config)
    height, width = (side + -side % multiple for side in crop)
    check_forward(config, [level.out_index for level in levels], (height, width))
    if images_at_once == 1:
        _check_one_image(config, crop)


def _check_one_image(config: ModelConfig, crop: tuple[int, int]) -> None:
    """Raise ValueError if a map is so small that one image gives a batch norm one value per channel, or none."""
    with torch.device("meta"):
        model = build_segmentor(dataclasses.replace(config, pretrained="false"), num_classes=2)
    try:
        model(torch.empty(1, 3, *crop, device="meta"), with_embeddings=True)
    except ValueError as error:  # two images have just gone through
        raise ValueError(
            f"train.batch_size: one image at a time with ingest.crop {crop} and model.output_stride"
            f" {config.output_stride} leaves a batch norm of {config.backbone} or of the {config.head} head one value"
            " per channel, and so no variance. Raise train.batch_size or ingest.crop (or lower train.accumulate)."
        ) from error


def _multiple(config: ModelConfig) -> int:
    """HRNet's branches are added after scaling by fixed factors: each side must be a multiple of the coarsest's."""
    return 32 if is_hrnet(config.backbone) else 1


def _head_levels(config: ModelConfig) -> list[Level]:
    """Choose the feature maps that the head works on, the finest first."""
    levels = feature_levels(config)
    if config.head in ("hrnet", "ocr"):
        return [level for level in levels if level.stride >= 4]
    if is_hrnet(config.backbone):
        raise ValueError(
            f"model.head={config.head} takes one deep map, but {config.backbone} keeps four side by side. "
            f"Use model.head=hrnet or model.head=ocr."
        )
    if config.head == "deeplabv3":
        return levels[-2:]
    fine_stride = 8 if config.output_stride > 8 else 4
    fine = [level for level in levels[:-1] if level.stride == fine_stride]
    if not fine:
        raise ValueError(
            f"model.head=fcn needs features of stride {fine_stride}, and {config.backbone} has none. "
            f"Use model.head=deeplabv3, or another model.backbone."
        )
    return [fine[-1], levels[-1]]


def _create_head(config: ModelConfig, levels: list[Level], num_classes: int) -> nn.Module:
    channels, width = [level.channels for level in levels], config.head_channels
    if config.head == "fcn":
        return FCNHead(channels[0], channels[1], width, num_classes)
    if config.head == "deeplabv3":
        return DeepLabV3Head(
            channels[0],
            channels[1],
            width,
            num_classes,
            output_stride=config.output_stride,
            with_aux=config.aux_weight > 0,
        )
    if config.head == "hrnet":
        return HRNetHead(channels, num_classes)
    return OCRHead(channels, width, num_classes)
