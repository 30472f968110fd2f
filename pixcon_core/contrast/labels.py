"""Labels and predictions, brought to the resolution of the embeddings.

Positions are compared by their centres, so feature maps of any size meet the right pixels; a fixed stride
would not.
"""

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor


def resize_nearest(ids: Integer[Tensor, "batch height width"], size: tuple[int, int]) -> Integer[Tensor, "batch h w"]:
    """Return for each cell of an (h, w) grid the id of the pixel nearest to the cell's centre.

    Pixel centres are at (i + 0.5) / side. Same as torch's "nearest-exact", in integers. Works both ways.
    """
    rows = _nearest_index(ids.shape[1], size[0], ids.device)
    columns = _nearest_index(ids.shape[2], size[1], ids.device)
    return ids[:, rows[:, None], columns[None, :]]


def resize_majority(
    labels: Integer[Tensor, "batch height width"],
    size: tuple[int, int],
    *,
    num_classes: int,
    ignore_index: int,
    min_share: float = 0.5,
) -> Integer[Tensor, "batch h w"]:
    """Return for each cell of an (h, w) grid the most frequent class of the pixels in it.

    Args:
        labels: Class ids, or ignore_index.
        size: (h, w), at most the labels' own along each side; where it is more, cells take the nearest pixel.
        num_classes: Ids run from 0 to num_classes - 1.
        ignore_index: Given to cells without a majority. Ignored pixels count as pixels of the cell.
        min_share: Smallest share of the cell's pixels that the class must have. Ties are no majority.
    """
    labels = labels.long()  # in bytes, a number of classes or an ignore_index beyond 255 would wrap
    batch, height, width = labels.shape
    h, w = size
    if h > height or w > width:
        return resize_nearest(labels, size)
    rows = torch.arange(height, device=labels.device) * h // height
    columns = torch.arange(width, device=labels.device) * w // width
    cell = rows[:, None] * w + columns[None, :]
    cell = torch.arange(batch, device=labels.device)[:, None, None] * (h * w) + cell

    # One more "class" takes all that is ignored, so that it counts in the cell's size.
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    slot = torch.where(valid, labels, num_classes)
    counts = torch.zeros(batch * h * w * (num_classes + 1), dtype=torch.int32, device=labels.device)
    index = (cell * (num_classes + 1) + slot).flatten()
    counts.scatter_add_(0, index, torch.ones((), dtype=torch.int32, device=labels.device).expand(index.shape))
    counts = counts.view(batch, h, w, num_classes + 1)

    most, winner = counts[..., :num_classes].max(dim=-1)
    is_tie = (counts[..., :num_classes] == most[..., None]).sum(dim=-1) > 1
    needed = min_share * counts.sum(dim=-1) - 1e-4  # a share such as 0.6 of 5 must not fail by rounding
    wins = (most >= needed) & (most > 0) & ~is_tie
    return torch.where(wins, winner, ignore_index)


def predicted_ids(
    predictions: Float[Tensor, "batch classes height width"] | Integer[Tensor, "batch height width"],
    size: tuple[int, int],
) -> Integer[Tensor, "batch h w"]:
    """Return predicted class ids at (h, w), from ids or logits of any size.

    Logits are subsampled before the argmax: full-resolution ones cost no more than those of feature
    resolution.
    """
    if predictions.dim() == 3:
        return resize_nearest(predictions, size)
    if tuple(predictions.shape[2:]) != tuple(size):
        rows = _nearest_index(predictions.shape[2], size[0], predictions.device)
        columns = _nearest_index(predictions.shape[3], size[1], predictions.device)
        predictions = predictions[:, :, rows[:, None], columns[None, :]]
    return predictions.argmax(dim=1)


def _nearest_index(source: int, target: int, device: torch.device) -> Int64[Tensor, " target"]:
    return (2 * torch.arange(target, device=device) + 1) * source // (2 * target)
