"""Drawn data sets: read by the real readers, the same for the same seed, and whole or not there."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pixcon_core.data import DATASETS, IGNORE_INDEX, decode_image, load_pair, make_miniature
from pixcon_core.data.miniature import write
from pixcon_core.data.miniature.write import STAMP, write_miniature

NUM_TRAIN = {"mini-camvid": 20, "mini-cityscapes": 30, "mini-pascal-context": 70, "mini-coco-stuff": 70}
"""Enough for every class to occur."""

MINIS = [name for name in DATASETS if name.startswith("mini-")]
EACH = pytest.mark.parametrize("name", MINIS)
REFUSED = "is there already and is not the miniature asked for"

# What rooms, meadows and shores show, as PASCAL-Context calls it.
IN_PLACES = """
aeroplane bed bedclothes bird boat book bottle cabinet cat ceiling chair cow curtain dog door fence floor flower grass
ground horse light mountain person pottedplant rock sheep shelves sky snow sofa table tree tvmonitor wall water window
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Each miniature, drawn when first asked for."""
    roots = {}

    def drawn(name):
        if name not in roots:
            root = tmp_path_factory.mktemp("minis") / name
            roots[name] = make_miniature(name, root, num_train=NUM_TRAIN[name], num_val=8)
        return roots[name]

    return drawn


def contents(root):
    """Hash of every file, by its path; the stamp apart."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != STAMP]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pairs_of(name, root):
    return [pair for split in ("train", "val") for pair in DATASETS[name].find_pairs(root, split)]


@EACH
def test_the_real_reader_reads_it(name, drawn):
    mini, real = DATASETS[name], DATASETS[name.removeprefix("mini-")]
    for field in ("classes", "palette", "find_pairs", "to_train_ids", "read_label"):
        assert getattr(mini, field) is getattr(real, field)
    assert mini.name == name
    assert real.mini is None
    assert len(real.find_pairs(drawn(name), "train")) == NUM_TRAIN[name]
    assert len(real.find_pairs(drawn(name), "val")) == 8


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mini-camvid", ["train/mini_00000.png", "trainannot/mini_00000.png"]),
        (
            "mini-cityscapes",
            [
                "leftImg8bit/train/drawnburg/drawnburg_000000_000019_leftImg8bit.png",
                "gtFine/train/drawnburg/drawnburg_000000_000019_gtFine_labelIds.png",
            ],
        ),
        (
            "mini-pascal-context",
            [
                "VOCdevkit/VOC2010/JPEGImages/2008_000000.jpg",
                "VOCdevkit/VOC2010/SegmentationClassContext/2008_000000.png",
                "VOCdevkit/VOC2010/ImageSets/SegmentationContext/train.txt",
            ],
        ),
        ("mini-coco-stuff", ["images/train2017/000000000000.jpg", "stuffthingmaps/train2017/000000000000.png"]),
    ],
)
def test_its_files_are_named_as_the_real_ones(name, files, drawn):
    assert all((drawn(name) / file).is_file() for file in files)


@EACH
def test_every_pair_loads_at_one_size_and_no_two_pictures_are_alike(name, drawn):
    samples = [load_pair(DATASETS[name], pair) for pair in pairs_of(name, drawn(name))]
    assert len({(sample.height, sample.width) for sample in samples}) == 1
    assert len({sample.image for sample in samples}) == len(samples)
    assert len({sample.label.tobytes() for sample in samples}) == len(samples)


@EACH
def test_classes_and_ignored_regions_occur(name, drawn):
    spec = DATASETS[name]
    images = Counter()
    for pair in pairs_of(name, drawn(name)):
        images.update(np.unique(load_pair(spec, pair).label).tolist())
    assert images.pop(IGNORE_INDEX) > 10
    found = {spec.classes[i] for i in images}
    if name in ("mini-camvid", "mini-cityscapes"):
        assert found == set(spec.classes)
    elif name == "mini-pascal-context":
        assert found == set(IN_PLACES.split())
    else:
        assert len(found) == len(IN_PLACES.split())


@EACH
def test_labels_fit_the_pictures_since_classes_change_where_colours_do(name, drawn):
    """Along borders of classes neighbouring pixels differ more than within a class."""
    across, within = [], []
    for pair in pairs_of(name, drawn(name))[::8]:
        sample = load_pair(DATASETS[name], pair)
        grey = decode_image(sample.image).mean(axis=2)
        step = np.abs(np.diff(grey, axis=1))
        border = sample.label[:, 1:] != sample.label[:, :-1]
        across.append(step[border].mean())
        within.append(step[~border].mean())
    assert np.mean(across) > 2.5 * np.mean(within)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("mini-camvid", ["sky", "building", "pavement", "road"]),
        ("mini-cityscapes", ["sky", "traffic light", "car", "road"]),
        ("mini-pascal-context", ["ceiling", "wall", "table", "floor"]),
        ("mini-pascal-context", ["aeroplane", "mountain", "boat", "ground"]),
        ("mini-coco-stuff", ["sky-other", "tree", "sea", "sand"]),
    ],
)
def test_names_fit_the_pictures_as_some_things_are_higher_than_others(name, order, drawn):
    spec = DATASETS[name]
    heights = {which: [] for which in order}
    for pair in pairs_of(name, drawn(name)):
        label = load_pair(spec, pair).label
        for which in order:
            rows = np.nonzero(label == spec.classes.index(which))[0]
            heights[which].extend([rows.mean()] if len(rows) else [])
    means = [np.mean(heights[which]) for which in order]
    assert means == sorted(means)


@EACH
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(name, tmp_path):
    first, same, other = (
        contents(make_miniature(name, tmp_path / str(i), seed=seed, num_train=2, num_val=1))
        for i, seed in enumerate((3, 3, 4))
    )
    assert first == same
    assert first.keys() == other.keys()
    pictures = [path for path in first if not path.endswith(".txt")]
    assert len(pictures) == 6
    assert all(first[path] != other[path] for path in pictures)


@EACH
def test_an_image_is_the_same_whatever_the_counts(name, tmp_path):
    few = contents(make_miniature(name, tmp_path / "few", num_train=2, num_val=1))
    many = contents(make_miniature(name, tmp_path / "many", num_train=4, num_val=3))
    assert all(many[path] == few[path] for path in few if not path.endswith(".txt"))
    assert len(many) >= len(few) + 8


def test_another_process_draws_the_same_bytes(tmp_path):
    script = f"from pathlib import Path; from pixcon_core.data import make_miniature\nfor name in {MINIS}:\n"
    script += f"    make_miniature(name, Path({str(tmp_path)!r}) / 'theirs' / name, num_train=2, num_val=1)"
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONHASHSEED": "77"})
    for name in MINIS:
        make_miniature(name, tmp_path / "ours" / name, num_train=2, num_val=1)
    assert contents(tmp_path / "theirs") == contents(tmp_path / "ours")


def make(root, *, name="mini-coco-stuff", seed=0, num_train=2, num_val=1, progress=None):
    return make_miniature(name, root, seed=seed, num_train=num_train, num_val=num_val, progress=progress)


def test_progress_counts_every_image_of_both_splits(tmp_path):
    calls = []
    make(tmp_path / "mini", progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_miniature_that_is_there_is_not_drawn_again(tmp_path):
    root = make(tmp_path / "mini")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert make(root, progress=lambda *_: pytest.fail("drawn again")) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_it_fills_a_folder_that_is_empty_and_makes_those_above_it(tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert contents(make(root))
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "a"}


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"num_train": 3}, {"num_val": 2}, {"name": "mini-camvid"}], ids=lambda other: str(*other)
)
def test_a_miniature_made_otherwise_is_refused_and_kept(tmp_path, other):
    root = make(tmp_path / "mini")
    before = contents(root)
    with pytest.raises(ValueError, match=REFUSED) as error:
        make(root, **other)
    assert str(root) in str(error.value)
    assert str(error.value).endswith("Delete the folder or name another one.")
    assert contents(root) == before


def test_a_miniature_of_an_older_drawing_is_refused(tmp_path, monkeypatch):
    root = make(tmp_path / "mini")
    monkeypatch.setattr(write, "DRAWING", write.DRAWING + 1)
    with pytest.raises(ValueError, match=REFUSED):
        make(root)


@pytest.mark.parametrize("stamp", ["", "{", "[]", "{}"], ids=repr)
def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path, stamp):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"precious")
    (tmp_path / "photos" / STAMP).write_text(stamp)
    with pytest.raises(ValueError, match=REFUSED):
        make(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"precious"


def test_a_folder_of_the_users_is_refused_without_a_word_of_deleting(tmp_path):
    (tmp_path / "CamVid").mkdir()
    (tmp_path / "CamVid" / "a.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds no miniature") as error:
        make(tmp_path / "CamVid", name="mini-camvid")
    assert str(error.value) == (
        f"{tmp_path}/CamVid holds no miniature of mini-camvid: it has files, but no {STAMP}. If they are data of"
        " another data set, name it with --dataset (for example --dataset camvid); if not, name another folder."
    )


def test_a_file_in_its_place_is_refused_and_kept(tmp_path):
    (tmp_path / "mini").write_text("precious")
    with pytest.raises(ValueError, match=r"mini is there already and is no folder\. Name another one\.$"):
        make(tmp_path / "mini")
    assert (tmp_path / "mini").read_text() == "precious"


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in MINIS])
def test_real_data_sets_cannot_be_drawn(name, tmp_path):
    with pytest.raises(ValueError, match=rf"^{name} cannot be made on the spot; only the mini-\.\.\. data sets can\.$"):
        make_miniature(name, tmp_path / "mini")


@pytest.mark.parametrize("counts", [{"num_train": 0}, {"num_val": 0}, {"num_train": -1}], ids=str)
def test_splits_without_images_are_refused(tmp_path, counts):
    with pytest.raises(ValueError, match=r"^mini-coco-stuff: there must be an image in each split, but got num_train="):
        make(tmp_path / "mini", **counts)


class Stopper:
    """Draws as the real one does, and does something else before a certain image."""

    def __init__(self, name, at, action):
        self.draw, self.at, self.action = DATASETS[name].mini, at, action

    def __call__(self, root, split, index, seed):
        if (split, index) == self.at:
            self.action()
        self.draw(root, split, index, seed)


def stopped(name, at, action):
    return replace(DATASETS[name], mini=Stopper(name, at, action))


@pytest.mark.parametrize("at", [("train", 0), ("train", 1), ("val", 0)], ids=str)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interrupt_leaves_nothing(tmp_path, at, error):
    def interrupt():
        raise error

    spec = stopped("mini-coco-stuff", at, interrupt)
    with pytest.raises(error):
        write_miniature(spec, tmp_path / "mini", num_train=2, num_val=1)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "mini")


def test_who_comes_second_takes_what_the_first_has_made(tmp_path):
    first = {}

    def be_faster():
        make(tmp_path / "mini")
        first.update({path: path.stat().st_ino for path in tmp_path.rglob("mini/**/*")})

    spec = stopped("mini-coco-stuff", ("val", 0), be_faster)
    write_miniature(spec, tmp_path / "mini", num_train=2, num_val=1)
    assert {path: path.stat().st_ino for path in tmp_path.rglob("mini/**/*")} == first
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_who_comes_second_refuses_what_the_first_has_made_otherwise(tmp_path):
    spec = stopped("mini-coco-stuff", ("val", 0), lambda: make(tmp_path / "mini", seed=1))
    with pytest.raises(ValueError, match=REFUSED):
        write_miniature(spec, tmp_path / "mini", num_train=2, num_val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def start(root, num_train):
    script = f"""
from pathlib import Path
from pixcon_core.data import make_miniature
make_miniature("mini-coco-stuff", Path({str(root)!r}), num_train={num_train}, num_val=1)
"""
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def test_two_processes_that_make_the_same_one_at_once_both_succeed(tmp_path):
    processes = [start(tmp_path / "mini", num_train=10) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]
    assert contents(tmp_path / "mini") == contents(make(tmp_path / "alone", num_train=10))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_leaves_nothing_that_looks_whole(tmp_path, sign):
    process = start(tmp_path / "mini", num_train=2000)
    while not any(tmp_path.rglob("*.png")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "mini").exists()
    left = list(tmp_path.iterdir())
    assert left == [] if sign is signal.SIGINT else all(path.name.startswith(".mini-") for path in left)
    make(tmp_path / "mini")


def test_the_stamp_says_what_was_made(tmp_path):
    stamp = json.loads((make(tmp_path / "mini", seed=5) / STAMP).read_text())
    assert stamp == {
        "dataset": "mini-coco-stuff",
        "drawing": write.DRAWING,
        "seed": 5,
        "train": 2,
        "val": 1,
    }


def test_others_may_read_what_was_made(tmp_path):
    root = make(tmp_path / "mini")
    assert root.stat().st_mode & 0o777 == 0o755
