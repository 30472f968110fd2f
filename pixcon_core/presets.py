"""Named configurations to start from. Each is a whole `RunConfig`; a command line changes single fields of it."""

from pixcon_core.config import ContrastConfig, IngestConfig, ModelConfig, RunConfig, TrainConfig
from pixcon_core.recipes import RECIPES

# In proportion to a small network and some hundred small images: with the paper's numbers the contrast would take
# several times as long as the network, and most of its memory would never be filled. Keys at random: with semi-hard
# ones, and a projection head that starts from nothing, all embeddings of mini-camvid are one direction after 300 steps
# (cosine 1.0 to positives and negatives alike); with random ones it is 0.8 to positives and 0.5 to negatives.
_SMALL = ContrastConfig(key_sampling="random", memory_size=200, max_anchors=256, num_positives=128, num_negatives=512)


def _miniature(dataset: str, crop: tuple[int, int]) -> RunConfig:
    """Return a run of some minutes on two CPU cores."""
    return RunConfig(
        dataset=dataset,
        model=ModelConfig(backbone="resnet10t", pretrained="false", head_channels=64, projection_dim=128),
        contrast=_SMALL,
        ingest=IngestConfig(crop=crop),
        train=TrainConfig(steps=900, batch_size=8, lr=2e-3),
    )


def _lite(dataset: str, crop: tuple[int, int], steps: int) -> RunConfig:
    """Return a run for a CPU or a small GPU, from ImageNet weights where pixcon[lite] is there."""
    return RunConfig(
        dataset=dataset,
        model=ModelConfig(backbone="tf_efficientnet_lite0", pretrained="auto", head_channels=128, projection_dim=128),
        contrast=_SMALL,
        ingest=IngestConfig(crop=crop),
        train=TrainConfig(steps=steps, batch_size=8, lr=1e-3, clip_norm=5.0),
    )


PRESETS: dict[str, RunConfig] = {
    "mini-camvid": _miniature("mini-camvid", (128, 128)),
    "mini-cityscapes": _miniature("mini-cityscapes", (128, 128)),
    "mini-pascal-context": _miniature("mini-pascal-context", (128, 128)),
    "mini-coco-stuff": _miniature("mini-coco-stuff", (128, 128)),
    "camvid-lite": _lite("camvid", (256, 256), 1200),
    "cityscapes-lite": _lite("cityscapes", (384, 384), 4000),
    "pascal-context-lite": _lite("pascal-context", (256, 256), 4000),
    "coco-stuff-lite": _lite("coco-stuff", (256, 256), 8000),
    "lite": _lite("", (256, 256), 2000),
    **RECIPES,
}
"""Every preset by the name that `--preset` takes."""


def default_preset(dataset: str) -> str:
    """Return the preset that a data set starts from when none is named: its own, or its lite one, or `lite`."""
    return next((name for name in (dataset, f"{dataset}-lite") if name in PRESETS), "lite")
