"""How long the contrast loss takes, beside the work that cannot be avoided and beside a plain implementation.

    python benchmarks/contrast.py                 # all cases; some minutes on two cores
    python benchmarks/contrast.py --cases batch   # those whose name begins so
    python benchmarks/contrast.py --device cuda

All sides of a case are timed in turn, round by round, so that a busy machine slows all of them; a ratio is the median
over rounds of the ratio within a round. Times are forward and backward together, down to the embeddings' gradient.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixcon_core.contrast import PixelContrast
from pixcon_core.contrast.anchors import shuffle_by_class
from pixcon_core.contrast.keys import pixel_keys, region_keys

TEMPERATURE = 0.1
MAX_ANCHORS, MAX_VIEWS, DIM = 1024, 100, 256
LARGEST_BLOCK = 2**29
"""Similarities that the bound, which keeps them all several times over, may have: some 8 GB."""


class Case(NamedTuple):
    """One size of the problem."""

    name: str
    batch: int
    size: tuple[int, int]
    num_classes: int
    keys: str
    memory_size: int = 5000
    key_sampling: str = "semi_hard"
    num_positives: int | None = 1024
    num_negatives: int | None = 2048
    num_candidates: int | None = 24576


CASES = [
    Case("batch, all keys, 19 classes", 2, (128, 256), 19, "batch", num_positives=None, num_negatives=None),
    Case("batch, semi-hard, 19 classes", 2, (128, 256), 19, "batch"),
    Case("memory, semi-hard, 19 classes", 2, (128, 256), 19, "pixel+region"),
    Case("memory, semi-hard exact, 19 classes", 2, (128, 256), 19, "pixel+region", num_candidates=None),
    Case("memory, hardest, 19 classes", 2, (128, 256), 19, "pixel+region", key_sampling="hardest"),
    Case("memory, random, 19 classes", 2, (128, 256), 19, "pixel+region", key_sampling="random"),
    Case(
        "memory, all keys, 19 classes",
        2,
        (128, 256),
        19,
        "pixel+region",
        num_positives=None,
        num_negatives=None,
    ),
    Case("171 classes, batch, semi-hard", 4, (128, 128), 171, "batch"),
    Case("171 classes, memory, semi-hard", 4, (128, 128), 171, "pixel+region"),
]


class Inputs(NamedTuple):
    embeddings: Tensor
    labels: Tensor
    predictions: Tensor
    pixel: Tensor
    """Some MAX_ANCHORS pixels, for the bound."""


def make_inputs(case: Case, device: str) -> Inputs:
    """Return a batch of blobs of some classes, a tenth ignored, a third wrongly predicted."""
    torch.manual_seed(0)
    h, w = case.size
    embeddings = torch.randn(case.batch, DIM, h, w)
    labels = torch.randint(case.num_classes, (case.batch, h // 8, w // 8))
    labels = labels.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)
    labels[:, : 4 * h // 10] = 255
    wrong = torch.rand(case.batch, h, w) < 1 / 3
    predictions = torch.where(wrong, (labels[:, ::4, ::4] + 1) % case.num_classes, labels[:, ::4, ::4])
    pixel = torch.randperm(case.batch * h * w)[:MAX_ANCHORS]
    on_device = (x.to(device) for x in (embeddings, labels, predictions, pixel))
    inputs = Inputs(*on_device)
    inputs.embeddings.requires_grad_()
    return inputs


def make_module(case: Case, device: str) -> PixelContrast:
    """Return a module whose memory is full."""
    module = PixelContrast(
        case.num_classes,
        DIM,
        temperature=TEMPERATURE,
        keys=case.keys,  # type: ignore[arg-type]
        key_sampling=case.key_sampling,  # type: ignore[arg-type]
        num_positives=case.num_positives,
        num_negatives=case.num_negatives,
        num_candidates=case.num_candidates,
        max_anchors=MAX_ANCHORS,
        max_views=MAX_VIEWS,
        memory_size=case.memory_size,
        warmup_steps=0,
    ).to(device)
    if module.memory is not None:
        for keys in module.memory.keys:
            keys.copy_(F.normalize(torch.randn(keys.shape), dim=-1))
        module.memory.written.fill_(case.memory_size)
    return module


def bound(inputs: Inputs, stored: Tensor | None) -> None:
    """Do what no contrast loss gets around: anchors, one product with all keys, log-sum-exp, backward."""
    position = inputs.embeddings[0, 0].numel()
    rows = inputs.embeddings.flatten(2)[inputs.pixel // position, :, inputs.pixel % position]
    anchors = F.normalize(rows, dim=1)
    similarities = anchors @ anchors.T
    if stored is not None:
        similarities = torch.cat([similarities, anchors @ stored.T], dim=1)
    (similarities / TEMPERATURE).logsumexp(dim=1).mean().backward()
    inputs.embeddings.grad = None


def ours(inputs: Inputs, module: PixelContrast) -> None:
    module(inputs.embeddings, inputs.labels, inputs.predictions).loss.backward()
    inputs.embeddings.grad = None


def plain(inputs: Inputs, module: PixelContrast) -> None:
    """The same loss against all keys as one would first write it: loops, `nonzero`, full masks."""
    h, w = inputs.embeddings.shape[2:]
    embeddings = F.normalize(inputs.embeddings, dim=1).permute(0, 2, 3, 1).reshape(-1, h * w, DIM)
    labels = F.interpolate(inputs.labels[:, None].float(), (h, w))[:, 0].long().flatten(1)
    predictions = inputs.predictions.flatten(1)
    groups = [(b, int(c)) for b in range(len(labels)) for c in labels[b].unique() if c != 255]
    views = max(1, min(MAX_VIEWS, MAX_ANCHORS // len(groups)))
    rows, names = [], []
    for image, label in groups:
        hard = ((labels[image] == label) & (predictions[image] != label)).nonzero()[:, 0]
        easy = ((labels[image] == label) & (predictions[image] == label)).nonzero()[:, 0]
        num_hard = max(min(views // 2, len(hard)), min(views - len(easy), len(hard)))
        hard = hard[torch.randperm(len(hard))[:num_hard]]
        easy = easy[torch.randperm(len(easy))[: views - num_hard]]
        for index in (hard, easy):
            rows.append(embeddings[image, index])
            names.append(torch.full((len(index),), label))
    anchors, anchor_labels = torch.cat(rows), torch.cat(names)
    keys, key_labels = anchors, anchor_labels
    if module.memory is not None:
        stored = module.memory.keys.flatten(1, 2)
        keys = torch.cat([keys, stored.flatten(0, 1)])
        key_labels = torch.cat([key_labels, torch.arange(len(stored)).repeat_interleave(stored.shape[1])])
    logits = anchors @ keys.T / TEMPERATURE
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    mask = (anchor_labels[:, None] == key_labels[None]).float()
    not_self = torch.ones_like(mask)
    not_self[torch.arange(len(anchors)), torch.arange(len(anchors))] = 0
    negatives = (logits.exp() * (1 - mask)).sum(dim=1, keepdim=True)
    log_prob = logits - torch.log(logits.exp() + negatives)
    mask = mask * not_self
    (-(mask * log_prob).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean().backward()
    inputs.embeddings.grad = None
    if module.memory is not None:
        with torch.no_grad():
            plain_enqueue(embeddings, labels, groups, module)


def plain_enqueue(embeddings: Tensor, labels: Tensor, groups: list[tuple[int, int]], module: PixelContrast) -> None:
    """Store each class of each image by itself, at places that cost nothing to find."""
    assert module.memory is not None
    for image, label in groups:
        index = (labels[image] == label).nonzero()[:, 0]
        chosen = index[torch.randperm(len(index))[:10]]
        module.memory.keys[label, 0, : len(chosen)] = embeddings[image, chosen]
        module.memory.keys[label, 1, 0] = F.normalize(embeddings[image, index].mean(dim=0), dim=0)


def enqueue(inputs: Inputs, module: PixelContrast) -> None:
    """Do what `PixelContrast` does to store a batch, its random order (which the anchors use too) included."""
    assert module.memory is not None
    ids = module._labels_at(inputs.labels, tuple(inputs.embeddings.shape[2:]))  # type: ignore[arg-type]
    order = shuffle_by_class(ids, module.num_classes, module.seed)
    module.memory.store(0, pixel_keys(inputs.embeddings, order, module.num_classes, 10))
    module.memory.store(1, region_keys(inputs.embeddings, ids, module.num_classes))


def interleaved(sides: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Time each side once in each round; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, side in sides.items():
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            side()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_number:
                times[name].append(time.perf_counter() - begin)
    return times


def report(times: dict[str, list[float]], of: str, by: str) -> str:
    ratio = statistics.median(a / b for a, b in zip(times[of], times[by], strict=True))
    return f"{ratio:7.2f}x {by}"


def time_case(case: Case, rounds: int, device: str, with_plain: bool) -> None:
    """Print one line for each side of a case."""
    inputs, module = make_inputs(case, device), make_module(case, device)
    stored = None if module.memory is None else module.memory.keys.view(-1, DIM)
    sides: dict[str, Callable[[], None]] = {"ours": lambda: ours(inputs, module)}
    if stored is None or MAX_ANCHORS * len(stored) < LARGEST_BLOCK:
        sides["bound"] = lambda: bound(inputs, stored)
    if module.memory is not None:
        looked_at = stored if case.num_candidates is None or stored is None else stored[: case.num_candidates]
        if looked_at is not stored:
            sides["bound on the candidates"] = lambda: bound(inputs, looked_at)
        sides["enqueue"] = lambda: enqueue(inputs, module)
    if with_plain:
        sides["plain"] = lambda: plain(inputs, module)
    times = interleaved(sides, rounds, device)
    print(f"{case.name}: ours {statistics.median(times['ours']) * 1e3:.1f} ms", flush=True)
    for name in sides:
        if name == "enqueue":
            share = statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True))
            print(f"    {statistics.median(times[name]) * 1e3:9.1f} ms  {name}: {share:.1%} of ours")
        elif name != "ours":
            print(f"    {statistics.median(times[name]) * 1e3:9.1f} ms {report(times, 'ours', name)}")


def print_peak(memory_size: int, key_sampling: str) -> None:
    """Print how much one call adds to the peak memory of this process, on a CPU."""
    case = Case("", 2, (128, 256), 19, "pixel+region", memory_size, key_sampling)
    inputs, module = make_inputs(case, "cpu"), make_module(case, "cpu")
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        before = int(statm.read().split()[1]) * resource.getpagesize()
    module(inputs.embeddings, inputs.labels, inputs.predictions).loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert inputs.embeddings.grad is not None
    size = inputs.embeddings.numel() * 4
    extra = peak - before - size  # the gradient of the embeddings is not the loss's
    stored = module.memory.keys.numel() * 4 if module.memory is not None else 0
    print(
        f"peak memory, {memory_size} keys per class and kind, {key_sampling}: {extra / 2**20:.0f} MiB beside "
        f"the gradient, {extra / size:.2f}x the embeddings (memory itself {stored / 2**20:.0f} MiB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="only cases whose name begins so")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--plain", action="store_true", help="time the plain implementation too")
    parser.add_argument("--peak", nargs=2, metavar=("KEYS", "SAMPLING"), help="print peak memory only")
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(int(arguments.peak[0]), arguments.peak[1])
        return
    for case in CASES:
        if case.name.startswith(arguments.cases):
            time_case(case, arguments.rounds, arguments.device, arguments.plain)
    if not arguments.cases:
        for keys in ("5000", "50000"):
            for sampling in ("semi_hard", "hardest"):
                subprocess.run([sys.executable, __file__, "--peak", keys, sampling], check=True)


if __name__ == "__main__":
    main()
