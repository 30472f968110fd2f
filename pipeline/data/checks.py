"""What must hold before a run begins, seen without starting anything."""

import importlib.util
from collections.abc import Sequence

from pipeline.data.shards import INDEX, Shards
from pipeline.data.sources import NEEDED_SPLITS
from pipeline.data.storage import locate
from pixcon_core.config import RunConfig
from pixcon_core.data import DatasetSpec
from pixcon_core.models import check_model


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
