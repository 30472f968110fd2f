"""Parameters and operations against published figures, on tensors without content.

Differences that the contrast paper's code makes to the published models are worked out by hand and taken off, so
that what is left has to agree.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pixcon_core.config import ModelConfig
from pixcon_core.models import build_segmentor

HRNET_MIX = 720 * 720 * (9 - 1)
"""Weights of a 3x3 convolution of HRNet's 720 channels beyond those of the original's 1x1."""


def on_meta(num_classes, **settings):
    with torch.device("meta"):
        return build_segmentor(ModelConfig(pretrained="false", **settings), num_classes, projection=False)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model, height, width):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 2


@pytest.fixture(scope="module")
def deeplab():
    return on_meta(21, backbone="resnet101", head="deeplabv3", output_stride=8, head_channels=256)


@pytest.fixture(scope="module")
def hrnet():
    return on_meta(19, backbone="hrnet_w48", head="hrnet")


@pytest.fixture(scope="module")
def ocr():
    return on_meta(19, backbone="hrnet_w48", head="ocr", head_channels=512)


JOIN = 5 * 256 * 256 * (9 - 1)
"""Our 3x3 convolution after the pyramid has so many more weights than torchvision's 1x1."""
AUX_TORCHVISION = 1024 * 256 * 9 + 256 * 21
AUX_OURS = 1024 * 128 * 9 + 128 * 21
"""Weights of the auxiliary classifier; norms and biases apart."""


def test_deeplabv3_has_the_parameters_of_torchvisions(deeplab):
    # DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1.meta["num_params"], of width 256: exact.
    norm_and_bias = 2 * 128
    assert num_parameters(deeplab) == 60_996_202 + JOIN - (AUX_TORCHVISION - AUX_OURS) - norm_and_bias


def test_deeplabv3_has_the_operations_of_torchvisions(deeplab):
    # The same, "_ops": 258.743e9 multiply-adds at 520x520, to its last digit; the auxiliary classifier runs in theirs.
    pixels = 65 * 65
    ours = multiply_adds(deeplab, 520, 520) - pixels * JOIN + pixels * AUX_TORCHVISION
    assert ours / 1e9 == pytest.approx(258.743, abs=5e-4)


def test_deeplabv3_of_the_papers_width():
    # No published count: the paper's code (ASPP 512, a joining and a refining 3x3, auxiliary 256) worked out by hand.
    model = on_meta(19, backbone="resnet101", head="deeplabv3", output_stride=8, head_channels=512)
    pyramid = 2048 * 512 * (1 + 9 + 9 + 9 + 1) + 5 * 2 * 512
    after = (5 * 512 + 512) * 512 * 9 + 2 * 2 * 512 + 513 * 19
    aux = 1024 * 256 * 9 + 2 * 256 + 257 * 19
    resnet101 = 44_549_160 - 2049 * 1000  # torchvision's ResNet101_Weights num_params, without its classifier
    assert num_parameters(model) == resnet101 + pyramid + after + aux


def test_hrnet_has_the_published_parameters_and_operations(hrnet):
    # README of HRNet/HRNet-Semantic-Segmentation, branch pytorch-v1.1: HRNetV2-W48, 19 classes, 65.8M, "696.2 GFLOPs"
    # at 1024x2048. The former is cut off, not rounded (65.86), the latter multiply-adds in units of 2^30.
    assert (num_parameters(hrnet) - HRNET_MIX) / 1e6 == pytest.approx(65.85, abs=0.05)
    assert (multiply_adds(hrnet, 1024, 2048) - HRNET_MIX * 256 * 512) / 2**30 == pytest.approx(696.2, abs=0.05)


def test_ocr_has_the_published_parameters(ocr):
    # openvinotoolkit/open_model_zoo, ocrnet-hrnet-w48-paddle, 19 classes: 70.47M. That is PaddleSeg's, with a 1x1
    # convolution in the auxiliary classifier; 0.2 % covers its biases before norms.
    assert (num_parameters(ocr) - HRNET_MIX) / 1e6 == pytest.approx(70.47, rel=2e-3)


def test_the_projection_head_is_two_1x1_convolutions_on_the_papers_channels(hrnet, ocr, deeplab):
    for plain, channels in ((hrnet, 720), (ocr, 720), (deeplab, 2048)):
        assert plain.head.pixel_channels == channels
    with torch.device("meta"):
        config = ModelConfig(backbone="hrnet_w48", head="hrnet", pretrained="false")
        model = build_segmentor(config, 19)
    assert num_parameters(model.projection) == 720 * 720 + 2 * 720 + 721 * 256
