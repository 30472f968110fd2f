import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pixcon_core.config import ModelConfig
from pixcon_core.models import build_segmentor, check_model, normalization
from pixcon_core.models.backbone import _feature_info, feature_levels


def fresh(**settings):
    return ModelConfig(**{"pretrained": "false"} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"backbone": "resnet10"}, r"timm has no model resnet10\. Did you mean resnet1", id="unknown"),
        pytest.param({"backbone": "ResNet18"}, r"timm has no model ResNet18\. Did you mean resnet18\?", id="case"),
        pytest.param({"backbone": "resnet18.none"}, "resnet18 has no weights none in timm, but a1_in1k", id="tag"),
        pytest.param({"backbone": "resnetv2_50x1_bit.none"}, "has no weights none", id="tag-of-another"),
        pytest.param(
            {"backbone": "densenet121", "output_stride": 8},
            r"model\.output_stride: densenet121 has 32 and cannot be given 8\. Use model\.output_stride=32\.",
            id="output-stride",
        ),
        pytest.param({"backbone": "vit_tiny_patch16_224"}, "head=fcn needs features of stride 8", id="no-fine-level"),
        pytest.param({"backbone": "hrnet_w18_small"}, r"Use model\.head=hrnet or model\.head=ocr", id="hrnet-with-fcn"),
    ],
)
def test_what_does_not_fit_is_an_error_before_weights_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        build_segmentor(fresh(**settings), 5)
    with pytest.raises(ValueError, match=message):
        check_model(fresh(**settings), (64, 64))


def test_a_backbone_without_feature_maps_is_an_error(monkeypatch):
    import timm

    real = timm.create_model

    def create_model(name, features_only=False, **arguments):
        if features_only:
            raise RuntimeError("features_only not implemented")
        return real(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_model)
    _feature_info.cache_clear()
    with pytest.raises(ValueError, match="timm cannot take feature maps out of resnet18"):
        check_model(fresh(backbone="resnet18"), (64, 64))


def test_crops_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match=r"ingest\.crop must be multiples of model\.output_stride \(16\)"):
        check_model(fresh(), (64, 72))
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 does not take images of"):
        check_model(fresh(backbone="vit_tiny_patch16_224", head="deeplabv3"), (64, 64))
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 does not take images of \(256, 288\)"):
        check_model(fresh(backbone="vit_tiny_patch16_224", head="deeplabv3"), (224, 224))


@pytest.mark.parametrize(
    ("settings", "too_small", "large_enough"),
    [
        pytest.param({"output_stride": 32}, 32, 64, id="fcn"),
        pytest.param({"head": "deeplabv3"}, 16, 32, id="deeplabv3"),
        pytest.param({"backbone": "hrnet_w18_small", "head": "ocr"}, 32, 64, id="coarsest-of-hrnets-branches"),
        pytest.param({"backbone": "convnext_atto", "output_stride": 32}, 32, 64, id="only-the-head-has-batch-norm"),
    ],
)
def test_one_image_whose_map_is_one_pixel_is_an_error_before_training(settings, too_small, large_enough):
    config = fresh(head_channels=16, **settings)
    message = r"train\.batch_size: one image .* ingest\.crop \(\d+, \d+\) and model\.output_stride \d+ .*Raise"
    with pytest.raises(ValueError, match=message):
        check_model(config, (too_small, too_small), images_at_once=1)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        build_segmentor(config, 5)(torch.zeros(1, 3, too_small, too_small))

    check_model(config, (too_small, too_small), images_at_once=2)
    check_model(config, (large_enough, large_enough), images_at_once=1)
    build_segmentor(config, 5)(torch.zeros(1, 3, large_enough, large_enough))


def test_a_look_ahead_is_cheap_even_for_a_large_model():
    class Allocated(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, arguments=(), settings=None):
            output = function(*arguments, **(settings or {}))
            tensors = [value for value in tree_leaves(output) if isinstance(value, torch.Tensor)]
            self.numbers += sum(value.numel() for value in tensors if value.device.type != "meta")
            return output

    with Allocated() as allocated:
        check_model(fresh(backbone="hrnet_w48", head="ocr", head_channels=512, output_stride=8), (520, 520))
    assert allocated.numbers < 10_000  # of 70 million weights


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto"])
def test_the_deepest_level_has_the_output_stride(backbone, output_stride):
    levels = feature_levels(fresh(backbone=backbone, output_stride=output_stride))
    assert levels[-1].stride == output_stride
    assert [level.stride for level in levels] == sorted(level.stride for level in levels)


def test_hrnet_gives_its_own_four_branches():
    levels = feature_levels(fresh(backbone="hrnet_w48"))[1:]
    assert [level.channels for level in levels] == [48, 96, 192, 384]
    assert [level.stride for level in levels] == [4, 8, 16, 32]


def test_normalization_is_that_of_the_backbones_weights():
    assert normalization(fresh(backbone="resnet18")).mean == (0.485, 0.456, 0.406)
    assert normalization(fresh(backbone="resnet18")).std == (0.229, 0.224, 0.225)
    for backbone in ("tf_efficientnet_lite0", "tf_efficientnet_lite2.in1k"):
        assert normalization(fresh(backbone=backbone)) == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="timm has no model"):
        normalization(fresh(backbone="resnet"))
