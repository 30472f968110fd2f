"""How much of a step is contrast: the gradients of both losses, and what the contrast is made of, along a training.

    python benchmarks/gradients.py --preset camvid-lite --data_root path/to/CamVid --train.steps 300
    python benchmarks/gradients.py --contrast.weight 0.5          # the flags of pipeline.run; here of the default run

A bare loop, and a line at each tenth of the steps: both losses; the norms of the gradients of cross-entropy and of
weight x contrast, and the cosine between the two, for the parameters of backbone and head; the share of anchors
that are predicted wrongly; the cosines of anchors with their positive and with their negative keys.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import grad

from pipeline.data.sources import dataset_spec, find_all_pairs, find_root
from pipeline.options import parse
from pipeline.train import set_up
from pipeline.training.model import Losses, TrainedModel
from pipeline.training.optimization import build_optimizer, lr_factor
from pixcon_core.config import RunConfig
from pixcon_core.data import IGNORE_INDEX, Sample, decode_image, load_pair
from pixcon_core.data.transforms import augment

PART = ("CE", "contrast", "cosine")
COLUMNS = ("step", "CE", "contrast", *PART, *PART, "hard", "positive", "negative")


def batches(samples: list[Sample], config: RunConfig) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of images and labels, augmented, without end."""
    rng = np.random.default_rng(config.seed)
    images = [decode_image(one.image, one.label.shape) for one in samples]
    while True:
        order = rng.permutation(len(images))
        for first in range(0, len(order), config.train.batch_size):
            some = order[first : first + config.train.batch_size]
            crops = [augment(images[one], samples[one].label, config.ingest, rng) for one in some]
            yield tuple(torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True))


def compare(losses: Losses, weight: float, part: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norms of both losses' gradients by a part's parameters, and their cosine."""
    parameters = list(part.parameters())
    first, other = (
        torch.cat(
            [
                one.flatten()
                for one in grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            ]
        )
        for loss in (losses.cross_entropy, weight * losses.contrast)
    )
    return first.norm(), other.norm(), torch.cosine_similarity(first, other, dim=0)


def main(arguments: list[str]) -> None:
    """Train, and print a line at each tenth of the steps."""
    config = parse(arguments).config
    torch.manual_seed(config.seed)
    set_up(torch.device("cpu"), 1)
    with TemporaryDirectory() as folder:
        spec = dataset_spec(config.dataset)
        root = find_root(spec, config.dataset, config.data_root, Path(folder))
        samples = [load_pair(spec, pair) for pair in find_all_pairs(spec, root)["train"]]
    labels = np.concatenate([one.label.ravel() for one in samples])
    counts = np.bincount(labels[labels != IGNORE_INDEX], minlength=len(spec.classes))
    model = TrainedModel(config, tuple(counts.tolist())).train()
    model.segmentor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    optimizer = build_optimizer(model, config.train)
    print(f"{'':27}|{'backbone':^26}|{'head':^26}|{'anchors':^26}")
    print("".join(f"{column:>9}" for column in COLUMNS))
    for step, batch in zip(range(config.train.steps), batches(samples, config), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(step, config.train)
        losses = model(*batch)
        if (step + 1) % max(1, config.train.steps // 10) == 0 and losses.stats is not None:
            stats, weight = losses.stats, config.contrast.weight
            parts = (compare(losses, weight, part) for part in (model.segmentor.backbone, model.segmentor.head))
            values = losses.cross_entropy, losses.contrast, *itertools.chain(*parts), stats.hard_share
            values += stats.positive_similarity, stats.negative_similarity
            print(f"{step + 1:>9}" + "".join(f"{value.item():>9.3f}" for value in values), flush=True)
        losses.total.backward()
        if config.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main(sys.argv[1:])
