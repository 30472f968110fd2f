"""How much longer a training step takes with contrast than without.

    python benchmarks/training_step.py                        # the default run's model
    python benchmarks/training_step.py --preset camvid-lite
    python benchmarks/training_step.py --hrnet                # HRNet-W48 at 512x1024, from measured parts; minutes
    python benchmarks/training_step.py --device cuda --preset cityscapes-hrnet-w48   # whole steps, with peak memory

Both sides are timed in turn, round by round; the ratio is the median over rounds of the ratio within a round. The
memory is full and warm-up over. On a GPU the precision is the one training takes, and each side's peak is that of its
own steps, the other side's weights and optimizer state not counted.
"""

import argparse
import dataclasses
import statistics
import time

import torch
import torch.nn.functional as F

from pipeline.training.model import TrainedModel
from pipeline.training.optimization import autocast, build_optimizer
from pixcon_core.config import ContrastConfig, IngestConfig, ModelConfig, RunConfig, TrainConfig
from pixcon_core.contrast import PixelContrast
from pixcon_core.presets import PRESETS

PAPER_HRNET = RunConfig(
    model=ModelConfig(backbone="hrnet_w48", pretrained="false", head="hrnet"),
    contrast=ContrastConfig(warmup_steps=0),
    ingest=IngestConfig(crop=(512, 1024)),
    train=TrainConfig(optimizer="sgd", batch_size=1, class_weights="none"),
)


def fill(contrast: PixelContrast) -> None:
    """Fill the memory with keys in random directions."""
    if contrast.memory is not None:
        for keys in contrast.memory.keys:
            keys.copy_(F.normalize(torch.randn(keys.shape), dim=-1))
        contrast.memory.written.fill_(contrast.memory.keys.shape[2])


class Side:
    """A model that takes training steps on one batch of blobs of classes."""

    def __init__(self, config: RunConfig, num_classes: int, device: str = "cpu") -> None:
        self.config, self.device = config.train, torch.device(device)
        before = torch.cuda.memory_allocated() if device == "cuda" else 0
        self.model = TrainedModel(config, (1000,) * num_classes).train().to(self.device)
        self.model.segmentor.to(memory_format=torch.channels_last)
        if self.model.contrast is not None:
            fill(self.model.contrast)
        self.optimizer = build_optimizer(self.model, config.train)
        batch, (height, width) = config.train.batch_size, config.ingest.crop
        self.images = torch.randint(256, (batch, height, width, 3), dtype=torch.uint8).to(self.device)
        cells = torch.randint(num_classes, (batch, -(-height // 32), -(-width // 32)), dtype=torch.uint8)
        labels = cells.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)[:, :height, :width]
        self.labels = labels.contiguous().to(self.device)
        self._step()  # so that the optimizer's state is there and counts as this side's own
        self.own = torch.cuda.memory_allocated() - before if device == "cuda" else 0
        self.peak = 0

    def seconds(self) -> float:
        """Take one step and return its time; on a GPU, also find its peak memory."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - self.own if self.device.type == "cuda" else 0
        begin = time.perf_counter()
        self._step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - others)
        return time.perf_counter() - begin

    def _step(self) -> None:
        with autocast(self.config, self.device):
            losses = self.model(self.images, self.labels)
        losses.total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def compare(preset: str, rounds: int, device: str) -> None:
    """Time a preset's step with and without contrast."""
    config = PRESETS[preset]
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained="false"))
    on = dataclasses.replace(config, contrast=dataclasses.replace(config.contrast, warmup_steps=0))
    off = dataclasses.replace(config, contrast=dataclasses.replace(config.contrast, weight=0.0))
    torch.manual_seed(0)
    num_classes = len(config.train.class_weights) if isinstance(config.train.class_weights, tuple) else 11
    sides = Side(on, num_classes, device), Side(off, num_classes, device)
    times = [[side.seconds() for side in sides] for _ in range(rounds + 2)][2:]
    ratio = statistics.median(a / b for a, b in times)
    a, b = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    print(f"{preset}: {a:.0f} ms with contrast, {b:.0f} ms without: {ratio:.3f}x")
    if device == "cuda":
        print(f"    peak memory {sides[0].peak / 2**30:.2f} GiB with, {sides[1].peak / 2**30:.2f} GiB without")


def estimate_hrnet(rounds: int) -> None:
    """Put HRNet-W48's step on one image beside the contrast of a batch of two, at 512x1024."""
    torch.manual_seed(0)
    without = dataclasses.replace(PAPER_HRNET, contrast=ContrastConfig(weight=0.0))
    side = Side(without, 19)
    contrast = PixelContrast(19, 256, warmup_steps=0)
    fill(contrast)
    embeddings = torch.randn(2, 256, 128, 256, requires_grad=True)
    labels = torch.randint(19, (2, 16, 32)).repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)
    predictions = torch.randint(19, (2, 128, 256))
    projection = torch.nn.Sequential(
        torch.nn.Conv2d(720, 720, 1), torch.nn.BatchNorm2d(720), torch.nn.ReLU(), torch.nn.Conv2d(720, 256, 1)
    ).to(memory_format=torch.channels_last)
    features = torch.randn(2, 720, 128, 256).to(memory_format=torch.channels_last).requires_grad_()
    steps, losses, heads = [], [], []
    for _ in range(rounds + 1):
        steps.append(2 * side.seconds())
        begin = time.perf_counter()
        contrast(embeddings, labels, predictions).loss.backward()
        losses.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        projection(features).sum().backward()
        heads.append(time.perf_counter() - begin)
    step, loss, head_time = (statistics.median(times[1:]) for times in (steps, losses, heads))
    print(
        f"HRNet-W48, 2 crops of 512x1024: step {step:.1f} s, contrast {loss * 1e3:.0f} ms ({loss / step:.1%}),"
        f" projection head {head_time * 1e3:.0f} ms ({head_time / step:.1%}): {1 + (loss + head_time) / step:.3f}x"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini-camvid", choices=PRESETS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hrnet", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    if arguments.hrnet:
        estimate_hrnet(min(arguments.rounds, 2))
    else:
        compare(arguments.preset, arguments.rounds, arguments.device)


if __name__ == "__main__":
    main()
