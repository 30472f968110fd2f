"""timm models as backbones: feature maps at several strides, checked before anything large is made."""

import difflib
import functools
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models import PretrainedCfg, get_arch_name, get_pretrained_cfg
from torch import nn

from pixcon_core.config import ModelConfig
from pixcon_core.models.hub import check_hub
from pixcon_core.models.weights import hub_error, local_weights, needs_hub


class Level(NamedTuple):
    """One feature map of a backbone."""

    out_index: int
    """Its place in timm's `out_indices`."""
    channels: int
    stride: int
    """Input pixels for each of its pixels."""


class Normalization(NamedTuple):
    """What images are normalised with: (image - mean) / std, in RGB order, of values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalization(config: ModelConfig) -> Normalization:
    """Return the mean and deviation that the backbone's ImageNet weights were trained with.

    A `tf_efficientnet_lite` takes 0.5 for both: with ImageNet's own figures it loses ten points of accuracy.

    Raises:
        ValueError: If timm does not know the backbone.
    """
    _check_name(config.backbone)
    if get_arch_name(config.backbone).startswith("tf_efficientnet_lite"):
        return Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    known = get_pretrained_cfg(config.backbone) or PretrainedCfg()  # a few models have no entry, but the defaults
    red, green, blue = known.mean
    red_std, green_std, blue_std = known.std
    return Normalization((red, green, blue), (red_std, green_std, blue_std))


def is_hrnet(backbone: str) -> bool:
    """Return whether the backbone keeps four resolutions side by side, and so has no output stride to choose."""
    return get_arch_name(backbone).startswith("hrnet_")


def feature_levels(config: ModelConfig) -> list[Level]:
    """Return the feature maps that the backbone gives at this output stride, the finest first.

    Raises:
        ValueError: If timm does not know the backbone, cannot take features out of it, or not at this stride.
    """
    _check_name(config.backbone)
    info = _feature_info(config.backbone, **_arguments(config))
    return [Level(*level) for level in zip(info.out_indices, info.channels(), info.reduction(), strict=True)]


def create_backbone(config: ModelConfig, out_indices: list[int]) -> nn.Module:
    """Make the backbone, with the weights that `config.pretrained` asks for and these feature maps.

    Raises:
        ValueError: If there are no such weights, or they do not fit.
    """
    arguments = _arguments(config) | {"out_indices": out_indices}
    if needs_hub(config):
        try:
            check_hub(config.backbone)
            return _create(config.backbone, arguments | {"pretrained": True})
        except Exception as error:  # no network looks different through each HTTP client
            raise hub_error(config, error) from error
    state = local_weights(config)
    if state is None:
        return _create(config.backbone, arguments)
    # timm turns a classifier's weights into those of its features, which may have other names or be fewer.
    used = _create_without_weights(config.backbone, arguments).state_dict()
    if used.keys() <= state.keys():
        state = {key: state[key] for key in used}
    given: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    backbone = _create(config.backbone, arguments | given)
    cast(dict[str, Any], backbone.pretrained_cfg)["state_dict"] = None  # else it would keep a second copy
    return backbone


def fetch_pretrained(config: ModelConfig) -> None:
    """Bring the backbone's weights into the hub client's cache, if they come from the hub.

    Raises:
        ValueError: If they cannot be fetched, or do not fit.
    """
    if needs_hub(config):
        create_backbone(config, [feature_levels(config)[-1].out_index])


def check_forward(config: ModelConfig, out_indices: list[int], size: tuple[int, int]) -> None:
    """Raise ValueError if the backbone takes no images of this size, or of no other, as they come to be predicted."""
    backbone = _create_without_weights(config.backbone, _arguments(config) | {"out_indices": out_indices})
    for taken in (size, (size[0] + 32, size[1] + 64)):
        try:
            backbone(torch.empty(2, 3, *taken, device="meta"))
        except Exception as error:  # of any kind, from within timm's models
            raise ValueError(f"model.backbone: {config.backbone} does not take images of {taken}: {error}") from error


def _check_name(backbone: str) -> None:
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(get_arch_name(backbone).lower(), timm.list_models(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"model.backbone: timm has no model {backbone}.{hint}")
    architecture, _, tag = backbone.partition(".")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(f"model.backbone: {architecture} has no weights {tag} in timm, but {', '.join(tags)}.")


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """Return what makes timm give this model's features at this output stride."""
    if is_hrnet(config.backbone):
        return {"feature_location": ""}  # the branches themselves, not the classification head's widened ones
    natural = _natural_stride(config.backbone)
    if natural == config.output_stride:
        return {}
    arguments = {"output_stride": config.output_stride}
    try:
        info = _feature_info(config.backbone, **arguments)
    except Exception as error:  # models that cannot dilate refuse in several ways
        raise _stride_error(config, natural) from error
    if info.reduction()[-1] != config.output_stride:
        raise _stride_error(config, natural)
    return arguments


def _natural_stride(backbone: str) -> int:
    try:
        info = _feature_info(backbone)
    except Exception as error:  # timm says so in several ways
        raise ValueError(
            f"model.backbone: timm cannot take feature maps out of {backbone} (it has no features_only); "
            f"choose another, resnet18 for one."
        ) from error
    return int(info.reduction()[-1])


def _stride_error(config: ModelConfig, natural: int) -> ValueError:
    way_out = f" Use model.output_stride={natural}." if natural in (8, 16, 32) else ""
    return ValueError(
        f"model.output_stride: {config.backbone} has {natural} and cannot be given {config.output_stride}.{way_out}"
    )


def _create(backbone: str, arguments: dict[str, Any]) -> nn.Module:
    return timm.create_model(backbone, features_only=True, **arguments)


@functools.cache
def _feature_info(backbone: str, **arguments: Any) -> Any:
    """Return what timm says of a model's feature maps: only a model that was made says it, which takes long."""
    return _create_without_weights(backbone, arguments).feature_info


def _create_without_weights(backbone: str, arguments: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return _create(backbone, arguments)
