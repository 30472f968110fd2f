import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import prepare as prepare_module
from pipeline.data.rows import read_rows, split_rows
from pipeline.data.shards import Shards
from pipeline.data.sources import dataset_spec, find_all_pairs, fingerprint
from pipeline.ingest import Plan, stream
from pipeline.prepare import prepare
from pixcon_core.config import IngestConfig
from pixcon_core.data import load_pair

SPEC = dataset_spec("camvid")


@pytest.fixture
def camvid(tiny_camvid, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_camvid, tmp_path / "camvid")


def first_image(root):
    return next(pair for pair in find_all_pairs(SPEC, root)["train"])


def run(root, out, **options):
    return prepare(SPEC, find_all_pairs(SPEC, root), out, **({"max_bad_share": 0.01} | options))


def test_an_unknown_data_set_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"'camvit'\. Did you mean camvid\?"):
        dataset_spec("camvit")
    with pytest.raises(ValueError, match=r"'MINI-CAMVID'\. Did you mean mini-camvid\?"):
        dataset_spec("MINI-CAMVID")


def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path / "nothing")):
        find_all_pairs(SPEC, tmp_path / "nothing")


def test_a_split_without_any_label_is_refused_before_anything_is_written(camvid):
    shutil.rmtree(camvid / "trainannot")
    with pytest.raises(ValueError, match="none of the 20 images of split train") as error:
        find_all_pairs(SPEC, camvid)
    assert "Expected train/*.png (or .jpg) and trainannot/*.png" in str(error.value)


def test_a_name_that_is_not_utf8_is_refused_with_its_folder(camvid):
    for folder in ("train", "trainannot"):
        first = min((camvid / folder).glob("*.png"))
        first.rename(camvid / folder / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(ValueError, match="not UTF-8") as error:
        find_all_pairs(SPEC, camvid)
    name = f"{camvid}/train/caf\\udce9.png"
    assert str(error.value) == f"camvid: a name in '{name}' is not UTF-8. Rename it, and others like it."


def test_a_sub_folder_whose_name_is_part_of_an_images_must_be_utf8(camvid):
    for folder in ("train", "trainannot"):
        (camvid / "sets" / folder).mkdir(parents=True)
        (camvid / folder).rename(camvid / "sets" / folder / os.fsdecode(b"caf\xe9"))
    sections = "".join(
        f'[splits.{s}]\nimages = "sets/train/*"\nmasks = "sets/trainannot/*"\n' for s in ("train", "val")
    )
    (camvid / "own.toml").write_text(f'classes = ["a", "b"]\n{sections}')
    with pytest.raises(ValueError, match=r"a name in '.*sets/train/caf\\udce9/mini_.*' is not UTF-8"):
        find_all_pairs(dataset_spec(str(camvid / "own.toml")), camvid)


def test_the_fingerprint_changes_with_the_data_and_not_without(camvid):
    before = fingerprint(SPEC, find_all_pairs(SPEC, camvid))
    assert fingerprint(SPEC, find_all_pairs(SPEC, camvid)) == before
    image = first_image(camvid).image
    image.write_bytes(image.read_bytes() + b"\0")
    assert fingerprint(SPEC, find_all_pairs(SPEC, camvid)) != before


@pytest.mark.usefixtures("ray_cluster")
class TestShards:
    def test_they_hold_every_image_as_it_was(self, tiny_camvid, tmp_path):
        shards = run(tiny_camvid, tmp_path)
        assert {split: shards.splits[split].num_images for split in shards.splits} == {"train": 20, "val": 6}
        assert shards == Shards.load(tmp_path)
        for split, pairs in find_all_pairs(SPEC, tiny_camvid).items():
            expected = {pair.id: load_pair(SPEC, pair) for pair in pairs}
            rows = split_rows(shards, split)
            pixels = np.zeros(11, dtype=np.int64)
            for id_, image, label in read_rows(shards.folder, rows):
                sample = expected.pop(id_)
                np.testing.assert_array_equal(label, sample.label)
                assert image.shape == (sample.height, sample.width, 3)
                pixels += np.bincount(label[label != 255], minlength=11)
            assert not expected
            assert tuple(pixels) == shards.splits[split].class_pixels

    def test_a_second_call_writes_nothing(self, tiny_camvid, tmp_path, monkeypatch):
        first = run(tiny_camvid, tmp_path)
        monkeypatch.setattr(prepare_module, "_write", None)
        assert run(tiny_camvid, tmp_path) == first

    def test_a_call_that_was_stopped_leaves_nothing_that_looks_whole_and_is_gone_on_with(
        self, camvid, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(prepare_module, "ROWS_PER_SHARD", 8)

        class StopError(Exception):
            pass

        def stop(done, total):
            if done:
                raise StopError

        out = tmp_path / "out"
        with pytest.raises(StopError):
            run(camvid, out, on_progress=stop)
        assert not (out / "dataset.json").exists()
        with pytest.raises(ValueError, match=r"holds no prepared data"):
            Shards.load(out)
        kept = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
        assert kept
        shards = run(camvid, out)
        assert sorted(file.name for file in out.iterdir()) == [
            "dataset.json",
            *(f"train-{i:05d}.parquet" for i in range(3)),
            "val-00000.parquet",
        ]
        for name, written in kept.items():
            assert (out / name).stat().st_mtime_ns == written
        assert shards.splits["train"].num_images == 20
        assert shards.content == run(camvid, tmp_path / "undisturbed").content

    def test_a_truncated_image_is_skipped_and_named(self, camvid, tmp_path):
        pair = first_image(camvid)
        pair.image.write_bytes(pair.image.read_bytes()[:-200])
        shards = run(camvid, tmp_path / "out")
        (skipped,) = shards.skipped
        assert (skipped.split, skipped.id) == ("train", pair.id)
        assert str(pair.image) in skipped.reason
        assert shards.splits["train"].num_images == 19

    @pytest.mark.parametrize("fault", ["no label", "other size", "stray id"])
    def test_a_pair_that_does_not_fit_is_skipped_and_says_why(self, camvid, tmp_path, fault):
        from PIL import Image

        pair = first_image(camvid)
        label = np.array(Image.open(pair.label))
        if fault == "no label":
            pair.label.unlink()
        elif fault == "other size":
            Image.fromarray(label[:-1]).save(pair.label)
        else:
            label[0, 0] = 77
            Image.fromarray(label).save(pair.label)
        (skipped,) = run(camvid, tmp_path / "out").skipped
        assert {"no label": "no label file", "other size": "192x143", "stray id": "77"}[fault] in skipped.reason

    def test_more_than_the_stated_share_ends_the_run_and_lists_all(self, camvid, tmp_path):
        pairs = find_all_pairs(SPEC, camvid)["train"][:2]
        for pair in pairs:
            pair.image.write_bytes(b"")
        with pytest.raises(ValueError, match=r"2 of 20 images of split train.*max_bad_share") as error:
            run(camvid, tmp_path / "out")
        assert all(pair.id in str(error.value) for pair in pairs)
        assert len(run(camvid, tmp_path / "out", max_bad_share=0.1).skipped) == 2
        with pytest.raises(ValueError, match="max_bad_share"):
            run(camvid, tmp_path / "out", max_bad_share=0)

    def test_the_index_says_what_was_found(self, tiny_camvid, tmp_path):
        shards = run(tiny_camvid, tmp_path)
        index = json.loads((tmp_path / "dataset.json").read_text())
        assert index["classes"] == list(SPEC.classes)
        assert index["splits"]["train"]["images"] == 20
        assert index["splits"]["train"]["class_pixels"] == list(shards.splits["train"].class_pixels)
        assert sum(index["splits"]["val"]["class_shares"]) == pytest.approx(1, abs=1e-4)
        table = pq.read_table(next(tmp_path.glob("val-*.parquet")))
        assert table.num_rows == 6
        stored = {id_: (image, label) for id_, image, label in read_rows(shards.folder, split_rows(shards, "val"))}
        for row in table.to_pylist():
            image, label = stored[row["id"]]
            assert row["classes"] == sorted(set(np.unique(label)) - {255})
            assert image.shape[:2] == (row["height"], row["width"])


CONFIG = IngestConfig(crop=(64, 64))


@pytest.fixture(scope="module")
def plan(ray_cluster, tiny_camvid, tmp_path_factory):
    shards = run(tiny_camvid, tmp_path_factory.mktemp("shards"))
    groups = shards.splits["train"].groups
    return Plan(shards.folder, groups, window=8, seed=1, batch_size=4, rank=0, world_size=1)


@pytest.fixture(scope="module")
def whole(plan):
    return list(stream(plan, CONFIG, first_step=0, last_step=13))


@pytest.mark.usefixtures("ray_cluster")
class TestStream:
    def test_every_step_has_its_batch(self, whole):
        assert len(whole) == 13
        assert all(batch.images.shape == (4, 64, 64, 3) for batch in whole)
        assert all(batch.labels.shape == (4, 64, 64) for batch in whole)
        assert len({batch.images.tobytes() for batch in whole}) == 13

    def test_the_same_seed_gives_the_same_batches_also_from_the_middle(self, plan, whole):
        for first in (0, 1, 7):
            rest = list(stream(plan, CONFIG, first_step=first, last_step=13))
            assert len(rest) == 13 - first
            for one, other in zip(rest, whole[first:], strict=True):
                np.testing.assert_array_equal(one.images, other.images)
                np.testing.assert_array_equal(one.labels, other.labels)

    def test_two_workers_get_the_halves_of_each_batch(self, plan, whole):
        parts = [
            list(stream(plan._replace(rank=rank, world_size=2), CONFIG, first_step=0, last_step=13)) for rank in (0, 1)
        ]
        for batch, *halves in zip(whole, *parts, strict=True):
            np.testing.assert_array_equal(batch.images, np.concatenate([half.images for half in halves]))
            np.testing.assert_array_equal(batch.labels, np.concatenate([half.labels for half in halves]))
