"""Labels and predictions at feature resolution."""

import pytest
import torch
import torch.nn.functional as F

from pixcon_core.contrast.labels import predicted_ids, resize_majority, resize_nearest


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (7, 9), (16, 12), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32])
def test_nearest_takes_the_pixel_at_the_centre_of_each_cell(size, dtype):
    labels = torch.randint(0, 100, (2, 8, 11), dtype=dtype)
    expected = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0]
    got = resize_nearest(labels, size)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected)


@pytest.mark.parametrize(
    ("cell", "min_share", "expected"),
    [
        pytest.param([1, 1, 1, 2], 0.5, 1, id="majority"),
        pytest.param([1, 1, 1, 2], 0.8, 255, id="share-too-small"),
        pytest.param([1, 1, 1, 2], 0.75, 1, id="share-just-reached"),
        pytest.param([1, 1, 2, 2], 0.5, 255, id="tie"),
        pytest.param([255, 255, 255, 2], 0.5, 255, id="ignored-pixels-count"),
        pytest.param([255, 255, 255, 2], 0.0, 2, id="only-one-labelled"),
        pytest.param([255, 255, 255, 255], 0.0, 255, id="nothing"),
        pytest.param([0, 0, 0, 0], 1.0, 0, id="class-0"),
    ],
)
def test_majority_labels_need_their_share(cell, min_share, expected):
    labels = torch.tensor(cell).view(1, 2, 2)
    got = resize_majority(labels, (1, 1), num_classes=3, ignore_index=255, min_share=min_share)
    assert got.tolist() == [[[expected]]]


def test_majority_looks_at_every_pixel_of_a_cell_where_sides_do_not_divide():
    labels = torch.zeros(1, 5, 5, dtype=torch.int64)
    labels[0, :3, :3] = 1
    got = resize_majority(labels, (2, 2), num_classes=2, ignore_index=255)
    assert got.tolist() == [[[1, 0], [0, 0]]]


def test_majority_on_a_finer_grid_is_nearest():
    labels = torch.randint(3, (1, 4, 4))
    got = resize_majority(labels, (8, 8), num_classes=3, ignore_index=255)
    assert torch.equal(got, resize_nearest(labels, (8, 8)))


def test_predictions_may_be_ids_or_logits_of_any_size():
    logits = torch.randn(2, 5, 16, 12)
    ids = logits.argmax(dim=1)
    assert torch.equal(predicted_ids(logits, (16, 12)), ids)
    assert torch.equal(predicted_ids(logits, (4, 3)), resize_nearest(ids, (4, 3)))
    assert torch.equal(predicted_ids(ids, (4, 3)), resize_nearest(ids, (4, 3)))


def test_the_module_reads_labels_by_majority_if_asked(everyone):
    labels = torch.zeros(1, 4, 8, dtype=torch.int64)
    labels[0, :, 4:] = 1
    labels[0, 2, 2] = labels[0, 2, 6] = 2  # nearest of a cell's centre, but not its majority
    embeddings = torch.randn(1, 4, 1, 2)
    embeddings = torch.cat([embeddings, embeddings])
    labels = torch.cat([labels, labels])
    assert everyone(label_mode="majority")(embeddings, labels).stats.anchors.item() == 4
    assert everyone(label_mode="nearest")(embeddings, labels).stats.anchors.item() == 0
    module = everyone(label_mode="majority", min_share=0.99)
    assert module(embeddings, labels).stats.anchors.item() == 0


@pytest.mark.parametrize(
    ("dtype", "num_classes", "ignore_index"),
    [(torch.uint8, 256, -1), (torch.uint8, 300, 1000), (torch.uint8, 171, -100), (torch.int16, 171, 255)],
)
def test_labels_in_few_bits_meet_numbers_beyond_their_range(dtype, num_classes, ignore_index):
    labels = torch.full((1, 4, 4), 156, dtype=dtype)  # -100 in a byte
    kept = resize_majority(labels, (2, 2), num_classes=num_classes, ignore_index=ignore_index)
    assert kept.tolist() == [[[156, 156], [156, 156]]]
