"""Optimiser, schedule and precision, and the state of a training run that a checkpoint holds."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from pipeline.progress import Record
from pipeline.training.checkpoint import TRAINING, CheckpointError, load_training, load_weights
from pipeline.training.model import TrainedModel
from pixcon_core.config import TrainConfig
from pixcon_core.models.weights import reason


def parameter_groups(model: TrainedModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Split parameters by learning rate (backbone, head) and weight decay (not on biases and norms).

    Each group's `base_lr` is the rate that the schedule scales.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = name.startswith("segmentor.backbone."), parameter.ndim > 1
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr,
            "base_lr": config.lr * (1.0 if is_backbone else config.head_lr_factor),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]


def build_optimizer(model: TrainedModel, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimiser over the groups of `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def lr_factor(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, and (1 - step/steps)^0.9 as in the paper."""
    rise = min(1.0, (step + 1) / (config.lr_warmup_steps + 1))
    return float(rise * (1 - step / config.steps) ** 0.9)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the autocast context that `train.precision` asks for."""
    precision = autocast_type(config, device)
    return torch.autocast(device.type, dtype=precision, enabled=precision is not None)


def autocast_type(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type that convolutions and products compute in; None for float32."""
    given = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if config.precision != "auto":
        return given[config.precision]
    if computes_in_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware has bfloat16 arithmetic that pays."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())


@dataclasses.dataclass
class Clock:
    """Where the time of the loop went. Part of the checkpoint, so that a resumed run states the whole."""

    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Of these, waiting for data."""
    images: int = 0

    def figures(self) -> dict[str, float]:
        """Return rate and share of waiting."""
        seconds = max(self.seconds, 1e-9)
        return {"images_per_second": self.images / seconds, "data_wait": self.wait_seconds / seconds}


class TrainingState:
    """All that changes from step to step, and so all that a checkpoint has to hold."""

    def __init__(self, model: TrainedModel, config: TrainConfig, device: torch.device) -> None:
        self.model = model
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast_type(config, device) is torch.float16)
        self.average = None if config.ema_decay is None else ModelEmaV3(model.segmentor, decay=config.ema_decay)
        self.clock = Clock()
        self.records: list[Record] = []
        """Metrics since the last checkpoint."""

    @property
    def inference_model(self) -> nn.Module:
        """The segmentor that is evaluated: of averaged weights where there are such."""
        return self.model.segmentor if self.average is None else self.average.module

    def training_dict(self) -> dict[str, Any]:
        """Return what a resume needs beside the weights of `inference_model`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "contrast": self.model.contrast.state_dict() if self.model.contrast is not None else None,
            "segmentor": self.model.segmentor.state_dict() if self.average is not None else None,
            "clock": dataclasses.asdict(self.clock),
            "records": self.records or None,
        }

    def load(self, folder: Path) -> None:
        """Take everything over from a checkpoint.

        Raises:
            CheckpointError: If it is damaged, or of a run with other settings.
        """
        load_weights(folder, self.model.segmentor)
        training = load_training(folder)
        needed = [name for name, own in self.training_dict().items() if own is not None]
        lacking = [name for name in needed if training.get(name) is None]
        if lacking:
            raise CheckpointError(f"{folder / TRAINING} lacks {', '.join(lacking)}, which these settings take.")
        try:
            self._take_over(training)
        except Exception as error:  # PyTorch's states refuse in many ways
            raise CheckpointError(f"{folder / TRAINING} does not fit these settings: {reason(error)}") from error

    def _take_over(self, training: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(training["optimizer"])
        self.scaler.load_state_dict(training["scaler"])
        if self.model.contrast is not None:
            self.model.contrast.load_state_dict(training["contrast"])
        if self.average is not None:
            self.average.module.load_state_dict(self.model.segmentor.state_dict())
            self.model.segmentor.load_state_dict(training["segmentor"])
        self.clock = Clock(**training["clock"])
        self.records = training.get("records") or []
