"""`PixelContrast`: anchors, memory and loss put together for a training loop."""

import math
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from pixcon_core.config import ContrastConfig, Keys, KeySampling, LabelMode
from pixcon_core.contrast.anchors import (
    Anchors,
    ClassOrder,
    pad_anchors,
    sample_anchors,
    shuffle_by_class,
)
from pixcon_core.contrast.candidates import stored_keys
from pixcon_core.contrast.draws import BATCH_KEY_ORDER, random_bits, step_seed
from pixcon_core.contrast.halves import Pairs, Sampling
from pixcon_core.contrast.keys import MIN_LENGTH, pixel_keys, region_keys, select_pixels
from pixcon_core.contrast.labels import predicted_ids, resize_majority, resize_nearest
from pixcon_core.contrast.loss import contrast_losses
from pixcon_core.contrast.memory import ClassMemory
from pixcon_core.contrast.output import ContrastOutput, nothing_of, stats_of
from pixcon_core.contrast.workers import (
    World,
    count_before,
    current_world,
    gather_integers,
    gather_new_keys,
    gather_rows,
    keep_out_of_ddp,
    sum_over_ranks,
)

_KINDS: dict[str, tuple[str, ...]] = {
    "batch": (),
    "pixel": ("pixel",),
    "region": ("region",),
    "pixel+region": ("pixel", "region"),
}


class PixelContrast(nn.Module):
    """Pixel-contrastive loss with cross-image memory, to be added to the loss of any segmentation model.

    Each training-mode call counts one step: it computes the loss against the batch and the memory, then
    stores this batch's keys. In eval mode the loss is computed, warm-up or not, and nothing is changed or
    communicated.

    Under `torch.distributed` all ranks have to call it in every step, each with one image or more, not
    all with as many.
    Anchors of all ranks are keys of each, and all ranks store the same keys. The loss is scaled so that the mean
    of gradients over ranks, which is what DDP takes, is the gradient of the mean over all anchors. Give the
    module, or the one that holds it, to `keep_out_of_ddp` before wrapping it in DDP.

    Gradients flow to an anchor both as an anchor and as a key of other anchors; stored keys are constants.

    Args:
        num_classes: Two or more. Ids run from 0 to num_classes - 1; 0 is a class like any other.
        dim: Length of an embedding.
        ignore_index: Label that is left out.
        temperature: > 0, no unit. Lower weighs hard negatives more.
        learnable_temperature: Train its logarithm, from the given value.
        keys: The batch alone, or the batch and a memory of pixels, of regions (class means), or of both.
        key_sampling: See `choose_keys`.
        num_positives: Positive keys of an anchor, at most; None takes all.
        num_negatives: Negative keys of an anchor, at most; None takes all.
        num_candidates: Where keys are more than this, `semi_hard` looks for the hardest tenth among so many (twelve
            for each one asked, at least), drawn at random in each step; `random` draws from 8192 of these (four for
            each one asked, at least), which may hold fewer of the other classes than asked. None searches all.
        max_anchors: Anchors of one step and worker, at most.
        max_views: Anchors of one class in one image, at most.
        hard_anchor_ratio: Share of anchors that are wrongly predicted pixels; None draws without regard to
            it.
        memory_size: Keys stored for each class and kind.
        memory_dtype: Type of the stored keys: float32, or bfloat16 for half the room.
        pixels_per_class: Pixels of one class stored from one image, at most.
        warmup_steps: Steps in which the memory fills and no loss is computed.
        label_mode: How labels come to the embeddings' resolution.
        min_share: With majority labels, the smallest share of a cell's pixels for its label.
        seed: Of all draws. With the step, which is in the state dict, it determines them.

    Source:
        Wang et al., "Exploring Cross-Image Pixel Contrast for Semantic Segmentation", ICCV 2021.
    """

    is_same_on_all_ranks = True
    """For `keep_out_of_ddp`."""
    seed: Int64[Tensor, ""]
    step: Int64[Tensor, ""]

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        ignore_index: int = 255,
        temperature: float = 0.1,
        learnable_temperature: bool = False,
        keys: Keys = "pixel+region",
        key_sampling: KeySampling = "semi_hard",
        num_positives: int | None = 1024,
        num_negatives: int | None = 2048,
        num_candidates: int | None = 24576,
        max_anchors: int = 1024,
        max_views: int = 100,
        hard_anchor_ratio: float | None = 0.5,
        memory_size: int = 5000,
        memory_dtype: torch.dtype = torch.float32,
        pixels_per_class: int = 10,
        warmup_steps: int = 5000,
        label_mode: LabelMode = "nearest",
        min_share: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = ContrastConfig(
            temperature=temperature,
            learnable_temperature=learnable_temperature,
            keys=keys,
            key_sampling=key_sampling,
            num_positives=num_positives,
            num_negatives=num_negatives,
            max_anchors=max_anchors,
            max_views=max_views,
            hard_anchor_ratio=hard_anchor_ratio,
            memory_size=memory_size,
            pixels_per_class=pixels_per_class,
            warmup_steps=warmup_steps,
            label_mode=label_mode,
        )
        _check_rest(num_classes, dim, num_candidates, min_share, memory_dtype)
        self.num_classes, self.dim, self.ignore_index = num_classes, dim, ignore_index
        self.min_share = min_share
        self.sampling = Sampling(key_sampling, num_positives, num_negatives, num_candidates)
        self.kinds = _KINDS[keys]
        log_temperature = torch.tensor(math.log(temperature))
        self.log_temperature = nn.Parameter(log_temperature) if learnable_temperature else None
        self.memory = (
            ClassMemory(num_classes, len(self.kinds), memory_size, dim, dtype=memory_dtype) if self.kinds else None
        )
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("step", torch.tensor(0))
        self._is_warm = False  # a cache of step >= warmup_steps, which costs a wait to look up on a GPU
        keep_out_of_ddp(self)

    def forward(
        self,
        embeddings: Float[Tensor, "batch dim h w"],
        labels: Integer[Tensor, "batch height width"],
        predictions: Float[Tensor, "batch classes ph pw"] | Integer[Tensor, "batch ph pw"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> ContrastOutput:
        """Return the loss of one batch; in training mode, store its keys and count the step.

        Args:
            embeddings: Of any length; normalised here. Any floating-point type; the loss is at least float32.
            labels: Class ids or ignore_index, of any size. On a GPU others are ignored too.
            predictions: Predicted ids or logits, of any size; needed unless `hard_anchor_ratio` is None.
            generator: Draws this step's seed, instead of the module's own seed and step.

        Raises:
            ValueError: If types or shapes do not belong together, predictions are needed and missing, or labels (on
                a CPU) are no classes.
        """
        self._check_inputs(embeddings, labels, predictions)
        is_idle = self.training and self._is_warming_up()  # first, for a compiled graph breaks here
        world = current_world() if self.training else World(1, 0)
        seed = step_seed(self.seed, self.step)
        if generator is not None:
            seed = torch.randint(2**32, (), generator=generator, device=generator.device).to(seed.device)
        with torch.autocast(embeddings.device.type, enabled=False):
            ids = self._labels_at(labels, (embeddings.shape[2], embeddings.shape[3]))
            order = shuffle_by_class(ids, self.num_classes, seed, count_before(len(ids), ids.device, world))
            if is_idle:
                output = nothing_of(embeddings, self.log_temperature)
            else:
                anchors = self._anchors(order, ids, predictions, seed)
                output = self._contrast(embeddings, anchors, seed, world)
            if self.training:
                self._store(embeddings, ids, order, world)
                self.step += 1
        return output

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        shown = asdict(self.settings)
        del shown["weight"]  # the caller's
        shown |= {"num_candidates": self.sampling.num_candidates, "min_share": self.min_share}
        rest = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"num_classes={self.num_classes}, dim={self.dim}, ignore_index={self.ignore_index}, {rest}"

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """The temperature; with a gradient if it is trained."""
        if self.log_temperature is None:
            return torch.full((), self.settings.temperature, dtype=torch.float32, device=self.step.device)
        return self.log_temperature.exp()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _is_warming_up(self) -> bool:
        if not self._is_warm:
            self._is_warm = int(self.step) >= (self.settings.warmup_steps or 0)
        return not self._is_warm

    def _labels_at(
        self, labels: Integer[Tensor, "batch height width"], size: tuple[int, int]
    ) -> Int64[Tensor, "batch h w"]:
        """Return labels at (h, w), -1 where there is none."""
        is_majority = self.settings.label_mode == "majority"
        ids = (labels if is_majority else resize_nearest(labels, size)).long()
        is_class = (ids >= 0) & (ids < self.num_classes) & (ids != self.ignore_index)
        # Looked at only where looking costs no wait.
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            is_unknown = ~is_class & (ids != self.ignore_index)
            if is_unknown.any():
                raise ValueError(
                    f"labels must be in [0, {self.num_classes}) or ignore_index={self.ignore_index}, "
                    f"but got {int(ids[is_unknown][0])}."
                )
        ids = torch.where(is_class, ids, -1)
        if not is_majority:
            return ids
        return resize_majority(
            ids, size, num_classes=self.num_classes, ignore_index=-1, min_share=self.min_share
        ).long()

    def _anchors(
        self,
        order: ClassOrder,
        ids: Int64[Tensor, "batch h w"],
        predictions: Tensor | None,
        seed: Int64[Tensor, ""],
    ) -> Anchors:
        is_wrong = None
        if predictions is not None:
            is_wrong = (predicted_ids(predictions, (ids.shape[1], ids.shape[2])) != ids).flatten()
        return sample_anchors(
            order,
            is_wrong,
            num_classes=self.num_classes,
            max_anchors=self.settings.max_anchors,
            max_views=self.settings.max_views,
            hard_anchor_ratio=self.settings.hard_anchor_ratio,
            seed=seed,
        )

    def _contrast(self, embeddings: Tensor, chosen: Anchors, seed: Int64[Tensor, ""], world: World) -> ContrastOutput:
        chosen = pad_anchors(chosen, self.settings.max_anchors) if world.size > 1 else chosen
        rows = select_pixels(embeddings, chosen.pixel)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # A vector of length zero has no direction, and its gradient no bound.
        is_zero = torch.linalg.vector_norm(rows.detach(), dim=1) <= MIN_LENGTH
        chosen = chosen._replace(label=torch.where(is_zero, -1, chosen.label))
        is_anchor = chosen.label >= 0
        # Padding is zero, not some pixel that may be infinite.
        anchors = F.normalize(torch.where(is_anchor[:, None], rows, 0), dim=1)
        draws = torch.where(is_anchor, random_bits(seed, BATCH_KEY_ORDER, chosen.draw), 2**32)
        others = gather_integers(torch.stack([chosen.label, draws], dim=1), world)
        pairs = Pairs(chosen.label, others[:, 0], others[:, 1], world.rank * len(anchors))
        stored = None if self.memory is None else stored_keys(self.memory, seed)
        keys, temperature = gather_rows(anchors, world), self.temperature.to(anchors.dtype)
        terms = contrast_losses(anchors, keys, temperature, pairs, stored, self.sampling)

        is_valid = (terms.num_positives > 0) & (terms.num_negatives > 0)
        everywhere = sum_over_ranks(is_valid.sum(), world).clamp(min=1)
        loss = terms.losses.sum() * world.size / everywhere
        return ContrastOutput(loss, stats_of(terms, is_valid, chosen.is_hard))

    @torch.no_grad()
    def _store(self, embeddings: Tensor, ids: Int64[Tensor, "batch h w"], order: ClassOrder, world: World) -> None:
        if self.memory is None:
            return
        for place, kind in enumerate(self.kinds):
            if kind == "pixel":
                new = pixel_keys(embeddings, order, self.num_classes, self.settings.pixels_per_class)
            else:
                new = region_keys(embeddings, ids, self.num_classes)
            self.memory.store(place, gather_new_keys(new, world))

    def _check_inputs(self, embeddings: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
        if embeddings.dim() != 4 or not embeddings.is_floating_point():
            raise ValueError(f"embeddings must be floats (batch, dim, h, w), but got {_kind(embeddings)}.")
        if not len(embeddings):
            raise ValueError("embeddings must be of at least one image, but got none.")
        if labels.dim() != 3 or labels.is_floating_point():
            raise ValueError(f"labels must be integers (batch, height, width), but got {_kind(labels)}.")
        if predictions is not None:
            is_logits = predictions.is_floating_point()
            if predictions.dim() != (4 if is_logits else 3) or (is_logits and predictions.shape[1] < self.num_classes):
                raise ValueError(
                    f"predictions must be logits, floats (batch, {self.num_classes} or more classes, height, width), or"
                    f" ids, integers (batch, height, width), but got {_kind(predictions)}."
                )
        if embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings must have dim={self.dim} channels, but got {embeddings.shape[1]}.")
        for name, given in (("labels", labels), ("predictions", predictions)):
            if given is not None and len(given) != len(embeddings):
                raise ValueError(f"{name} must be of {len(embeddings)} images, as embeddings, but got {len(given)}.")
        if predictions is None and self.settings.hard_anchor_ratio is not None:
            raise ValueError(
                "predictions must be given, to find hard anchors. To do without, set hard_anchor_ratio=None."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._is_warm = False
        super()._load_from_state_dict(state_dict, prefix, *args)


def _kind(tensor: Tensor) -> str:
    """Return type and shape, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_rest(
    num_classes: int, dim: int, num_candidates: int | None, min_share: float, memory_dtype: torch.dtype
) -> None:
    """Check what the configuration does not have."""
    if num_classes < 2:
        raise ValueError(
            f"num_classes must be >= 2, but got {num_classes}: without another class there are no negatives. If"
            " background is ignored, give it an id of its own."
        )
    if dim < 1:
        raise ValueError(f"dim must be >= 1, but got {dim}.")
    if num_candidates is not None and num_candidates < 1:
        raise ValueError(f"num_candidates must be >= 1, or None for all, but got {num_candidates}.")
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share must be in [0, 1], but got {min_share}.")
    if not memory_dtype.is_floating_point:  # coordinates of unit-length keys would all become 0
        raise ValueError(f"memory_dtype must be of floats, torch.bfloat16 for one, but got {memory_dtype}.")
