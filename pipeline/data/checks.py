"""What must hold before a run begins, seen without starting anything."""

import importlib.util
from collections.abc import Sequence

from pipeline.data.meaning import meaning_hash
from pipeline.data.shards import INDEX, Shards
from pipeline.data.sources import NEEDED_SPLITS
from pipeline.data.storage import locate
from pixcon_core.config import RunConfig
from pixcon_core.data import DatasetSpec
from pixcon_core.models import check_model

NUM_NAMED = 5
"""So many classes without a pixel are named."""


def check_settings(config: RunConfig, spec: DatasetSpec) -> None:
    """Refuse a model that cannot train on such crops, and settings for other classes than the data set has.

    Raises:
        ValueError: If so.
    """
    at_once = config.train.batch_size // config.train.accumulate
    check_model(config.model, config.ingest.crop, images_at_once=at_once)
    _check_classes(config, spec)
    if config.train.lovasz_weight > 0 and importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise ValueError(
            f"train.lovasz_weight={config.train.lovasz_weight} needs segmentation_models_pytorch, which is not"
            " installed: pip install 'pixcon[lovasz]'."
        )


def find_prepared(spec: DatasetSpec, config: RunConfig, splits: Sequence[str] = NEEDED_SPLITS) -> Shards | None:
    """Return the shards that `data_root` holds, with these splits; None where it is a folder of raw files.

    Raises:
        ValueError: If they are not of this data set, or not all that is needed.
    """
    if config.data_root is None or INDEX not in locate(config.data_root).sizes():
        return None
    shards = Shards.load(config.data_root)
    if shards.dataset != spec.name:
        raise ValueError(
            f"data_root: {config.data_root} holds shards of {shards.dataset}, but dataset is {config.dataset}."
        )
    if shards.classes != spec.classes:
        unlike = [(i, *names) for i, names in enumerate(zip(shards.classes, spec.classes, strict=False))]
        first = next((f"class {i} is {there}, not {here}" for i, there, here in unlike if there != here), "")
        raise ValueError(
            f"data_root: {config.data_root} holds shards of other classes than {config.dataset} has:"
            f" {len(shards.classes)}, not {len(spec.classes)}{'; ' * bool(first)}{first}. Prepare it anew."
        )
    if shards.meaning not in (None, meaning_hash(spec)):
        raise ValueError(
            f"data_root: {config.data_root} holds shards of {spec.name} as {config.dataset} described it before: its"
            " ids, ignored ids or colours have changed since. Prepare it anew, or restore the description."
        )
    if missing := [split for split in splits if split not in shards.splits]:
        raise ValueError(
            f"data_root: {config.data_root} has no split {' and '.join(missing)}, only {', '.join(shards.splits)}."
            f" Prepare it with --splits {' '.join(splits)}."
        )
    shards.check_skipped(config.ingest.max_bad_share)
    return shards


def _check_classes(config: RunConfig, spec: DatasetSpec) -> None:
    weights, classes = config.train.class_weights, spec.classes
    if not isinstance(weights, str) and len(weights) != len(classes):
        raise ValueError(
            f"train.class_weights must be one number for each of the {len(classes)} classes of {spec.name}, but got"
            f" {len(weights)}. For weights by how often a class occurs: --train.class_weights balanced."
        )


def check_counts(config: RunConfig, num_train: int) -> None:
    """Refuse a batch larger than the training split.

    Raises:
        ValueError: If it is.
    """
    if config.train.batch_size > num_train:
        raise ValueError(
            f"train.batch_size must be at most the number of training images ({num_train}), but got"
            f" {config.train.batch_size}."
        )


def check_classes(shards: Shards) -> None:
    """Refuse a training split that shows fewer than two classes: the network would learn one answer for all.

    And a split val, where there is one, that is void throughout: what was trained could not be scored.

    Raises:
        ValueError: If it does.
    """
    shown = [name for name, count in zip(shards.classes, shards.splits["train"].class_pixels, strict=True) if count]
    if len(shown) < 2:
        what = f"only the class {shown[0]!r} has pixels" if shown else "no class has a pixel"
        raise ValueError(
            f"{shards.dataset}: {what} in split train, of {len(shards.classes)} classes; training needs two or more."
            " Look at the ids in the masks (255 is void); for black and white masks give the description of the data"
            " colours = [[0, 0, 0], [255, 255, 255]] (docs/datasets.md)."
        )
    if "val" in shards.splits:
        check_labelled(shards, "val")


def check_labelled(shards: Shards, split: str) -> None:
    """Refuse a split to be scored of which all pixels are void, as in Cityscapes' public labels of test.

    Raises:
        ValueError: If they are.
    """
    if not any(shards.splits[split].class_pixels):
        raise ValueError(
            f"{shards.dataset}: all labels of split {split} are void, so there is nothing to score. Look at the ids in"
            " its label files; images without labels are for python -m pipeline.predict."
        )


def missing_classes(shards: Shards) -> str:
    """Return a note of the classes that the training split does not show; empty if it shows all."""
    counts = shards.splits["train"].class_pixels
    missing = [name for name, count in zip(shards.classes, counts, strict=True) if not count]
    if not missing:
        return ""
    more = f" and {len(missing) - NUM_NAMED} more" if len(missing) > NUM_NAMED else ""
    named = ", ".join(missing[:NUM_NAMED])
    return f"note: {len(missing)} of {len(shards.classes)} classes have no pixel in split train: {named}{more}"
