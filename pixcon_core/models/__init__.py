"""Segmentation models: a timm backbone, a head, and in training a projection head."""

from pixcon_core.models.backbone import Normalization, fetch_pretrained, normalization
from pixcon_core.models.segmentor import Segmentor, SegmentorOutput, build_segmentor, check_model
from pixcon_core.models.sync_batch_norm import synchronize_batch_norm
from pixcon_core.models.weights import pretrained_source

__all__ = [
    "Normalization",
    "Segmentor",
    "SegmentorOutput",
    "build_segmentor",
    "check_model",
    "fetch_pretrained",
    "normalization",
    "pretrained_source",
    "synchronize_batch_norm",
]
