"""How far apart the features of pixels of different classes lie: figures, and a map of the same pixels.

Of each network the features are taken that its classifier sees, at their resolution, brought to unit length: networks
trained without contrast have those as well, but no projection head. Both networks are asked for the very same pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pipeline.data.rows import Stored, read_rows, split_rows
from pipeline.data.shards import Shards
from pipeline.predicting.inference import PAD_TO
from pipeline.report.pictures import load_network
from pipeline.training.checkpoint import Loaded

MAX_IMAGES, MAX_CLASSES, MAX_PIXELS = 32, 20, 1200
"""Images that pixels are drawn from; classes, the largest first; pixels in all."""
FROM_EACH = 8
"""Pixels of a class from one image at most, so that they come from many."""
VOID_ID = 255


class Separation(NamedTuple):
    """How far apart classes lie, by cosine similarity of the features of pixels."""

    within: float
    """Mean over classes of the mean similarity of two pixels of the class."""
    between: float
    """Mean over pairs of classes of the mean similarity of a pixel of one and a pixel of the other."""
    ratio: float
    """(1 - between) / (1 - within): how much farther off other classes are; NaN where pixels of a class coincide."""
    silhouette: float
    """Mean silhouette coefficient by cosine distance, -1..1."""


class Sample(NamedTuple):
    """The same pixels, as several networks see them."""

    features: list[Float[np.ndarray, "pixel channel"]]
    """Of each network, unit length."""
    labels: Int64[np.ndarray, " pixel"]
    images: int
    """They come from so many."""


def sample_pixels(
    checkpoints: Sequence[Path], shards: Shards, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> Sample:
    """Draw pixels of the validation split, as many of each class as there are, and return their features.

    Args:
        checkpoints: Of networks whose features have the same resolution.
        shards: The data set.
        seed: Which pixels are drawn.
        on_progress: Called with the number of images done and of all.

    Raises:
        ValueError: If there are not two classes, or the networks' features differ in resolution.
    """
    models = [load_network(folder) for folder in checkpoints]
    counts = np.array(shards.splits["val"].class_pixels)
    classes = [int(i) for i in np.argsort(-counts, kind="stable")[:MAX_CLASSES] if counts[i] > 0]
    rows = split_rows(shards, "val")
    rows = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, min(MAX_IMAGES, len(rows)))]
    rng = np.random.default_rng(seed)
    drawn: dict[int, list[list[np.ndarray]]] = {i: [[] for _ in models] for i in classes}
    images = 0
    for done, stored in enumerate(read_rows(shards.folder, rows), start=1):
        if isinstance(stored, Stored):
            images += 1
            maps = [features(loaded, stored.image) for loaded in models]
            if len({one.shape[1:] for one in maps}) > 1:
                raise ValueError("the networks' features differ in resolution")
            labels = labels_at(stored.label, maps[0].shape[1:], _padded(stored.label.shape))
            for i in classes:
                places = np.flatnonzero(labels == i)
                chosen = rng.choice(places, size=min(FROM_EACH, len(places)), replace=False)
                for mine, one in zip(drawn[i], maps, strict=True):
                    mine.append(one.reshape(len(one), -1)[:, chosen].T)
        if on_progress:
            on_progress(done, len(rows))
    return _balanced(drawn, images, rng)


def _balanced(drawn: dict[int, list[list[np.ndarray]]], images: int, rng: np.random.Generator) -> Sample:
    joined = {i: [np.concatenate(one) for one in mine] for i, mine in drawn.items() if mine[0]}
    joined = {i: mine for i, mine in joined.items() if len(mine[0]) > 1}
    if len(joined) < 2:
        raise ValueError("fewer than two classes have pixels enough")
    each = max(2, MAX_PIXELS // len(joined))
    kept = {i: rng.permutation(len(mine[0]))[:each] for i, mine in joined.items()}
    labels = np.concatenate([np.full(len(kept[i]), i, dtype=np.int64) for i in joined])
    networks = range(len(next(iter(joined.values()))))
    return Sample([np.concatenate([mine[n][kept[i]] for i, mine in joined.items()]) for n in networks], labels, images)


@torch.inference_mode()
def features(loaded: Loaded, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "channel h w"]:
    """Return what the classifier sees of an image, unit length over channels; the image is padded as for evaluation."""
    device = next(loaded.model.parameters()).device
    mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (loaded.meta.mean, loaded.meta.std))
    pixels = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None]  # (H, W, 3) -> (1, 3, H, W)
    height, width = image.shape[:2]
    padded = F.pad((pixels / 255 - mean) / std, (0, -width % PAD_TO, 0, -height % PAD_TO))
    seen: list[Tensor] = []
    classifier = loaded.model.head.classifier
    assert isinstance(classifier, nn.Module)  # every head has one
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        loaded.model(padded)
    finally:
        hook.remove()
    found: np.ndarray = F.normalize(seen[0][0].float(), dim=0).cpu().numpy()
    return found


def labels_at(
    label: UInt8[np.ndarray, "height width"], shape: tuple[int, ...], padded: tuple[int, int]
) -> Int64[np.ndarray, "h w"]:
    """Return the label at the middle of each place of a feature map that covers the padded image; void outside it."""
    out = np.full(shape, VOID_ID, dtype=np.int64)
    ys, xs = (((np.arange(count) + 0.5) * size / count).astype(int) for count, size in zip(shape, padded, strict=True))
    inside = np.ix_(ys < label.shape[0], xs < label.shape[1])
    out[inside] = label[np.ix_(ys[ys < label.shape[0]], xs[xs < label.shape[1]])]
    return out


def separation(embeddings: Float[np.ndarray, "pixel channel"], labels: Int64[np.ndarray, " pixel"]) -> Separation:
    """Return how far apart classes lie.

    Args:
        embeddings: Unit length.
        labels: Class of each; at least two classes with at least two pixels each.
    """
    points = embeddings.astype(np.float64)
    classes = np.unique(labels)
    sums = np.stack([points[labels == i].sum(axis=0) for i in classes])
    sizes = np.array([(labels == i).sum() for i in classes], dtype=np.float64)
    squares = np.array([(points[labels == i] ** 2).sum() for i in classes])
    products = sums @ sums.T  # of all pixels of one class with all of another
    within = float(np.mean((np.diag(products) - squares) / (sizes * (sizes - 1))))
    other = ~np.eye(len(classes), dtype=bool)
    between = float((products / np.outer(sizes, sizes))[other].mean())
    ratio = (1 - between) / (1 - within) if within < 1 else float("nan")
    return Separation(within, between, ratio, float(silhouette_score(points, labels, metric="cosine")))


def maps_of(
    features: Sequence[Float[np.ndarray, "pixel channel"]], *, seed: int = 0
) -> list[Float[np.ndarray, "pixel 2"]]:
    """Return maps in the plane by t-SNE; the same again for the same seed on one machine."""

    def job(points: np.ndarray) -> Any:
        perplexity = min(30.0, (len(points) - 1) / 3)
        fit = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform
        return joblib.delayed(fit)(points)

    # Beside each other, but each on one thread: sums of several differ from call to call. And in processes: as threads
    # of this one they were seen to end it, in the middle of scipy.
    with threadpool_limits(1), joblib.parallel_config("loky", inner_max_num_threads=1):
        maps: list[np.ndarray] = joblib.Parallel(n_jobs=len(features))(map(job, features))
    return maps


def _padded(shape: Iterable[int]) -> tuple[int, int]:
    height, width = (side + -side % PAD_TO for side in shape)
    return height, width
