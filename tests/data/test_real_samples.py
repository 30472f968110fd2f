"""Pairs of the real data sets, where there are some beside the repository."""

from pathlib import Path

import numpy as np
import pytest

from pixcon_core.data import DATASETS, load_pair
from pixcon_core.data.camvid import original_split

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = {
    "camvid": "camvid",
    "cityscapes": "cityscapes",
    "pascal-context": "pascal_context",
    "coco-stuff": "coco_stuff164k",
}
COUNTS = {
    ("camvid", "train"): 367,
    ("camvid", "val"): 101,
    ("cityscapes", "train"): 2,
    ("cityscapes", "val"): 1,
    ("pascal-context", "train"): 46,
    ("pascal-context", "val"): 57,
    ("coco-stuff", "train"): 13,
    ("coco-stuff", "val"): 8,
}

# Share of CamVid's pixels by class, then of void, in its 367 images for training.
CAMVID_SHARES = [0.169, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003, 0.040]


def folder(name):
    found = SAMPLES / FOLDERS[name]
    if not found.is_dir():
        pytest.skip(f"needs samples of {name} in {SAMPLES}")
    return found


def counted(name, split):
    """Pixels of each train id in a split, all of whose pairs are read and checked."""
    spec = DATASETS[name]
    counts = np.zeros(256, int)
    for pair in spec.find_pairs(folder(name), split):
        counts += np.bincount(load_pair(spec, pair).label.ravel(), minlength=256)
    return counts


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_every_pair_is_found_once_with_its_label(name, split):
    pairs = DATASETS[name].find_pairs(folder(name), split)
    assert len(pairs) == COUNTS[name, split]
    assert [pair.id for pair in pairs] == sorted({pair.id for pair in pairs})
    assert all(pair.label is not None for pair in pairs)


@pytest.mark.parametrize(("name", "split"), [pair for pair in COUNTS if pair != ("camvid", "train")])
def test_every_pair_loads_and_its_labels_are_classes_or_ignored(name, split):
    counts = counted(name, split)
    num_classes = len(DATASETS[name].classes)
    assert counts[num_classes:255].sum() == 0
    assert (counts[:num_classes] > 0).sum() > 10
    assert 0 < counts[255] < 0.4 * counts.sum()


def test_the_share_of_camvids_classes_is_the_known_one():
    counts = counted("camvid", "train")
    shares = np.append(counts[:11], counts[255]) / counts.sum()
    np.testing.assert_allclose(shares, CAMVID_SHARES, atol=0.0006)


def test_camvids_frames_lie_in_the_split_that_they_have_in_the_original_release():
    for split in ("train", "val"):
        pairs = DATASETS["camvid"].find_pairs(folder("camvid"), split)
        assert {original_split(pair.id) for pair in pairs} == {split}


def test_the_classes_of_pascal_context_are_those_that_came_with_the_samples():
    lines = (folder("pascal-context") / "classes60.txt").read_text().splitlines()
    names = [line.split(" ", 1)[1].split(" (")[0] for line in lines]
    assert list(DATASETS["pascal-context-60"].classes) == names


def test_background_of_pascal_context_is_ignored_pixels_and_a_class():
    root = folder("pascal-context")
    spec, spec_60 = DATASETS["pascal-context"], DATASETS["pascal-context-60"]
    for pair in spec.find_pairs(root, "val")[:5]:
        label, label_60 = load_pair(spec, pair).label.astype(int), load_pair(spec_60, pair).label.astype(int)
        np.testing.assert_array_equal(np.where(label == 255, 0, label + 1), np.where(label_60 == 255, 0, label_60))


@pytest.mark.parametrize(
    ("name", "top", "bottom"),
    [("camvid", "sky", "road"), ("cityscapes", "sky", "road"), ("pascal-context", "sky", "ground")],
)
def test_names_fit_the_pictures_as_the_sky_is_above_the_ground(name, top, bottom):
    spec = DATASETS[name]
    heights = {top: [], bottom: []}
    for pair in spec.find_pairs(folder(name), "val")[::5]:
        label = load_pair(spec, pair).label
        for which, found in heights.items():
            rows = np.nonzero(label == spec.classes.index(which))[0]
            found.extend([rows.mean() / len(label)] if len(rows) else [])
    assert np.mean(heights[top]) < 0.45 < 0.55 < np.mean(heights[bottom])
