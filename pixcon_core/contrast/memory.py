"""What anchors are compared with across batches: the newest keys of each kind and class."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pixcon_core.contrast.keys import Keys


class ClassMemory(nn.Module):
    """Ring buffers of unit-length, detached keys; one for each kind (pixels, regions) and class.

    All state is in two buffers. `written` counts the keys ever stored in each ring, so it is pointer and fill
    level in one: the next goes to slot `written % size`, and slots from `written` on are still empty.
    """

    keys: Float[Tensor, "num_classes kind size dim"]
    written: Int64[Tensor, "num_classes kind"]

    def __init__(
        self, num_classes: int, num_kinds: int, size: int, dim: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(num_classes, num_kinds, size, dim, dtype=dtype))
        self.register_buffer("written", torch.zeros(num_classes, num_kinds, dtype=torch.int64))

    def is_filled(self) -> Bool[Tensor, "num_classes kind size"]:
        """Return which slots hold a key."""
        return torch.arange(self.keys.shape[2], device=self.keys.device) < self.written[..., None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ClassMemory":
        """Keep the order of the keys' axes: `model.to(memory_format=torch.channels_last)` is meant for images."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.keys = self.keys.contiguous()
        return self

    @torch.no_grad()
    def store(self, kind: int, new: Keys) -> None:
        """Append keys, oldest first, each to the ring of its class; rows of label -1 are passed over.

        Without a loop or a wait: rows that are not to be written repeat the write of one that is. If a class
        gets more rows than its ring has slots, the newest stay.
        """
        num_classes, num_kinds, size, dim = self.keys.shape
        if not len(new.labels):
            return
        label, by_class = torch.sort(torch.where(new.labels >= 0, new.labels, num_classes), stable=True)
        begin = torch.searchsorted(label, torch.arange(num_classes + 1, device=label.device))
        arrivals = begin.diff()
        sequence = torch.arange(len(label), device=label.device) - begin[label]
        ring = label.clamp(max=num_classes - 1)
        is_written = (label < num_classes) & (sequence >= arrivals[ring] - size)
        slot = (ring * num_kinds + kind) * size + (self.written[ring, kind] + sequence) % size

        flat = self.keys.view(-1, dim)  # (class, kind, size, dim) -> (slot, dim)
        some = is_written.int().argmax(dim=0, keepdim=True)
        slot = torch.where(is_written, slot, slot[some])
        rows = new.embeddings[by_class].to(flat.dtype)
        fallback = torch.where(is_written[some, None], rows[some], flat[slot[some]])
        flat.index_copy_(0, slot, torch.where(is_written[:, None], rows, fallback))
        self.written[:, kind] += arrivals

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Fit a stored memory of another size into this one: the newest keys of each ring stay."""
        keys, written = state_dict.get(f"{prefix}keys"), state_dict.get(f"{prefix}written")
        num_classes, num_kinds, size, dim = self.keys.shape
        if keys is not None and written is not None and keys.ndim == 4:
            is_like = keys.shape == (num_classes, num_kinds, keys.shape[2], dim)
            if is_like and keys.shape[2] != size:
                state_dict = dict(state_dict)
                state_dict[f"{prefix}keys"], state_dict[f"{prefix}written"] = _resized(keys, written, size)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _resized(
    keys: Float[Tensor, "num_classes kind old_size dim"],
    written: Int64[Tensor, "num_classes kind"],
    size: int,
) -> tuple[Float[Tensor, "num_classes kind size dim"], Int64[Tensor, "num_classes kind"]]:
    """Return the newest keys of each ring, oldest first from slot 0, and how many they are."""
    old_size = keys.shape[2]
    kept = written.clamp(max=min(size, old_size))
    age_order = torch.arange(size, device=keys.device)
    source = (written[..., None] - kept[..., None] + age_order) % old_size
    moved = keys.gather(2, source[..., None].expand(*source.shape, keys.shape[3]))
    is_kept = age_order < kept[..., None]
    return torch.where(is_kept[..., None], moved, 0).to(keys.dtype), kept
