"""Several processes as one: what each has to tell the others in a step.

Without `torch.distributed`, or with one process, every function returns what it was given.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pixcon_core.contrast.keys import Keys


class World(NamedTuple):
    """How many processes there are, and which one this is."""

    size: int
    rank: int


def current_world() -> World:
    """Return the size and rank of the default process group; (1, 0) without one."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_world_size(), dist.get_rank())
    return World(1, 0)


def gather_new_keys(new: Keys, world: World) -> Keys:
    """Return the new keys of all ranks in the order of ranks, without the empty rows.

    Ranks may hold different numbers, or none: counts go first, then rows padded to the largest.
    """
    if world.size == 1:
        return new
    exists = new.labels >= 0
    rows, labels = new.embeddings[exists], new.labels[exists]
    counts = [labels.new_zeros(1) for _ in range(world.size)]
    dist.all_gather(counts, labels.new_full((1,), len(labels)))
    numbers = [int(count) for count in counts]
    most = max(numbers)
    if most == 0:
        return Keys(rows, labels)
    all_rows = _gather(_pad(rows, most), world)
    all_labels = _gather(_pad(labels, most), world)
    return Keys(
        torch.cat([part[:number] for part, number in zip(all_rows, numbers, strict=True)]),
        torch.cat([part[:number] for part, number in zip(all_labels, numbers, strict=True)]),
    )


def gather_rows(rows: Float[Tensor, "n dim"], world: World) -> Float[Tensor, "all_n dim"]:
    """Return the rows of all ranks, the same number from each; gradients flow back to their own rank."""
    if world.size == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, world.size, world.rank)
    return gathered


def gather_integers(values: Int64[Tensor, "n columns"], world: World) -> Int64[Tensor, "all_n columns"]:
    """Return the values of all ranks, the same number from each."""
    return values if world.size == 1 else torch.cat(_gather(values, world))


def count_before(count: int, device: torch.device, world: World) -> Int64[Tensor, ""] | int:
    """Return the sum of what the ranks before this one have of something, which may be different numbers."""
    if world.size == 1:
        return 0
    counts = torch.cat(_gather(torch.full((1,), count, device=device), world))
    return counts[: world.rank].sum()


def sum_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the sum of a detached value over all ranks."""
    if world.size == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def keep_out_of_ddp(model: nn.Module) -> None:
    """Tell DistributedDataParallel to leave the state of all `PixelContrast` modules in a model alone.

    Every rank stores the same keys anyway; sending some hundred MiB of them around before each forward pass
    would be for nothing. Call it on the very module that is given to DDP. Parameters (a trained temperature)
    stay in.
    """
    ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    for prefix, module in model.named_modules():
        if getattr(module, "is_same_on_all_ranks", False):
            ignored |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers()}
    model._ddp_params_and_buffers_to_ignore = sorted(ignored)  # type: ignore[assignment]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, size: int, rank: int) -> Tensor:
        ctx.world = World(size, rank)
        return torch.cat(_gather(rows, ctx.world))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Each rank's loss has used these rows as keys: their gradient is the sum over the ranks.
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(ctx.world.size)[ctx.world.rank], None, None


def _gather(values: Tensor, world: World) -> list[Tensor]:
    parts = [torch.empty_like(values) for _ in range(world.size)]
    dist.all_gather(parts, values.contiguous())
    return parts


def _pad(values: Tensor, length: int) -> Tensor:
    padded = values.new_zeros((length, *values.shape[1:]))
    padded[: len(values)] = values
    return padded
