"""Shards that went bad after they were written: what is read, trained and evaluated all the same, and what is said."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data import rows as rows_module
from pipeline.data.rows import Stored, Unreadable, read_blocks, read_rows, split_rows
from pipeline.data.shard_file import ROWS_PER_GROUP, Skipped
from pipeline.data.shards import Shards
from pipeline.data.sources import dataset_spec, find_all_pairs
from pipeline.data.storage import Folder
from pipeline.ingest import Plan, stream
from pipeline.prepare import prepare
from pipeline.progress import SKIPPED, Mailbox
from pipeline.run import main
from pixcon_core.config import IngestConfig
from pixcon_core.data.transforms import augment

SPEC = dataset_spec("camvid")
CONFIG = IngestConfig(crop=(64, 64))
BAD = 11  # place in the shard


@pytest.fixture(scope="module")
def prepared(ray_cluster, tiny_camvid, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "camvid"
    return prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), out, max_bad_share=0.01)


@pytest.fixture
def copy(prepared, tmp_path):
    """A prepared data set that a test may damage."""
    return dataclasses.replace(prepared, folder=str(shutil.copytree(prepared.folder, tmp_path / "copy")))


def damage(shards, split, places, column="image", at=50, value=0xA5):
    """Change bytes of some rows right in the file; `at` counts from the start of the cell. Return the rows' ids."""
    file = Path(shards.folder) / f"{split}-00000.parquet"
    rows, data = pq.read_table(file).to_pylist(), bytearray(file.read_bytes())
    for place in places:
        start = data.index(rows[place][column]) + at
        data[start : start + 4] = bytes(byte ^ value for byte in data[start : start + 4])
    file.write_bytes(data)
    return [rows[place]["id"] for place in places]


class TestReading:
    @pytest.mark.parametrize("column", ["image", "label"])
    def test_of_a_damaged_row_all_others_are_read(self, copy, prepared, column):
        (bad,) = damage(copy, "train", [BAD], column)
        rows = split_rows(copy, "train")
        found, before = list(read_rows(copy.folder, rows)), list(read_rows(prepared.folder, rows))
        assert isinstance(found[BAD], Unreadable)
        assert found[BAD].id == bad == before[BAD].id
        assert "train-00000.parquet: damaged since it was written: it cannot be decoded" in found[BAD].reason
        for place, (one, other) in enumerate(zip(found, before, strict=True)):
            if place != BAD:
                np.testing.assert_array_equal(one.image, other.image)
                np.testing.assert_array_equal(one.label, other.label)

    def test_damage_that_still_decodes_shows_by_its_checksum(self, copy, tmp_path):
        file = tmp_path / "copy" / "val-00000.parquet"
        table = pq.read_table(file)
        images = table["image"].to_pylist()
        table = table.set_column(1, table.schema.field("image"), [[images[1], *images[1:]]])
        pq.write_table(table, file, row_group_size=ROWS_PER_GROUP)
        first, *others = read_rows(copy.folder, split_rows(copy, "val"))
        assert isinstance(first, Unreadable)
        assert "checksum" in first.reason
        assert all(isinstance(other, Stored) for other in others)

    def test_damage_to_the_file_itself_costs_a_row_group_whose_images_are_named(self, copy, prepared):
        ids = damage(copy, "train", range(8, 16), at=-4, value=0xFF)  # the lengths
        found = list(read_rows(copy.folder, split_rows(copy, "train")))
        assert [one.id for one in found if isinstance(one, Unreadable)] == ids
        assert [one.id for one in found] == [
            one.id for one in read_rows(prepared.folder, split_rows(prepared, "train"))
        ]

    def test_a_shard_that_was_cut_short_is_unreadable(self, copy, tmp_path):
        file = tmp_path / "copy" / "val-00000.parquet"
        file.write_bytes(file.read_bytes()[:-100])
        found = list(read_rows(copy.folder, split_rows(copy, "val")))
        assert len({one.id for one in found if isinstance(one, Unreadable)}) == 6
        assert found[0].id == "row 0/0 of val-00000.parquet"

    def test_a_shard_that_is_gone_is_an_error(self, copy, tmp_path):
        (tmp_path / "copy" / "val-00000.parquet").unlink()
        with pytest.raises(FileNotFoundError, match="val-00000"):
            list(read_rows(copy.folder, split_rows(copy, "val")))

    def test_blocks_say_which(self, copy):
        (bad,) = damage(copy, "val", [2])
        block = read_blocks({"id": [0]}, folder=copy.folder, rows=split_rows(copy, "val"), size=8)
        assert [bool(reason) for reason in block["reason"]] == [False, False, True, False, False, False]
        assert block["id"][2] == bad


class TestStorageThatCannotBeReached:
    @pytest.fixture
    def pauses(self, monkeypatch):
        """So long it waited in between; no time goes by."""
        waited = []
        monkeypatch.setattr(rows_module.time, "sleep", waited.append)
        monkeypatch.setattr(rows_module.time, "monotonic", lambda: sum(waited))
        return waited

    def away(self, monkeypatch, times, error):
        """Let so many tries fail."""
        opened, tries = Folder.open, itertools.count()

        def open_(self, file):
            if next(tries) < times:
                raise error
            return opened(self, file)

        monkeypatch.setattr(Folder, "open", open_)

    def test_it_is_tried_again_until_it_comes_back(self, prepared, monkeypatch, pauses, capsys):
        rows = split_rows(prepared, "val")
        expected = [one.id for one in read_rows(prepared.folder, rows)]
        self.away(monkeypatch, 6, OSError("AWS Error NETWORK_CONNECTION"))
        assert [one.id for one in read_rows(prepared.folder, rows)] == expected
        assert pauses == [0.5, 1, 2, 4, 8, 10]
        assert "NETWORK_CONNECTION; trying again in 0.5 s" in capsys.readouterr().err

    def test_not_for_ever(self, prepared, monkeypatch, pauses):
        self.away(monkeypatch, 1000, OSError("AWS Error NETWORK_CONNECTION"))
        with pytest.raises(OSError, match="NETWORK_CONNECTION"):
            list(read_rows(prepared.folder, split_rows(prepared, "val")))
        assert 100 < sum(pauses) <= 120

    def test_a_shard_that_is_gone_is_not_waited_for(self, prepared, monkeypatch, pauses):
        self.away(monkeypatch, 1, FileNotFoundError("val-00000.parquet"))
        with pytest.raises(FileNotFoundError):
            list(read_rows(prepared.folder, split_rows(prepared, "val")))
        assert not pauses


class TestStream:
    def plan(self, shards, **changes):
        groups = shards.splits["train"].groups
        start = Plan(shards.folder, groups, window=8, seed=1, batch_size=4, rank=0, world_size=1)
        return start._replace(**changes)

    def batches(self, plan, first_step=0):
        seen = []
        return list(stream(plan, CONFIG, first_step=first_step, last_step=10, on_unreadable=seen.append)), seen

    def test_bad_images_are_replaced_by_the_next_and_named_once(self, copy, prepared):
        ids = damage(copy, "train", [BAD, 3])
        whole, nothing = self.batches(self.plan(prepared))
        batches, seen = self.batches(self.plan(copy))
        assert nothing == []
        assert sorted(one.id for one in seen) == sorted(ids)  # though each comes in two epochs
        assert len(batches) == 10

        plan, num_replaced = self.plan(prepared), 0
        for window in range(2 * plan.windows_per_epoch):
            order = plan.order(window)
            names = [found.id for found in read_rows(plan.folder, [row for _, row in order])]
            for place, (position, _) in enumerate(order):
                batch, i = divmod(position, 4)
                if names[place] not in ids:
                    np.testing.assert_array_equal(batches[batch].images[i], whole[batch].images[i])
                    continue
                ring = [order[(place + step) % len(order)][1] for step in range(1, len(order))]
                new = next(found for found in read_rows(plan.folder, ring) if found.id not in ids)
                image, label = augment(new.image, new.label, CONFIG, np.random.default_rng([1, 2, position]))
                np.testing.assert_array_equal(batches[batch].images[i], image)
                np.testing.assert_array_equal(batches[batch].labels[i], label)
                num_replaced += 1
        assert num_replaced == 4

    def test_also_for_two_workers_and_from_the_middle(self, copy):
        damage(copy, "train", [BAD, 3])
        whole, seen = self.batches(self.plan(copy))
        halves = [self.batches(self.plan(copy, rank=rank, world_size=2)) for rank in (0, 1)]
        assert {*halves[0][1], *halves[1][1]} == {*seen}
        for batch, one, other in zip(whole, *(half for half, _ in halves), strict=True):
            np.testing.assert_array_equal(batch.images, np.concatenate([one.images, other.images]))
        for first in (1, 3, 7):
            rest, _ = self.batches(self.plan(copy), first)
            for one, other in zip(rest, whole[first:], strict=True):
                np.testing.assert_array_equal(one.images, other.images)

    def test_a_window_without_any_readable_image_is_void(self, copy):
        ids = damage(copy, "train", range(20))
        batches, seen = self.batches(self.plan(copy))
        assert sorted(one.id for one in seen) == sorted(ids)
        assert all((batch.labels == 255).all() for batch in batches)

    def test_what_the_callback_raises_ends_the_stream(self, copy):
        damage(copy, "train", [BAD])

        def refuse(one):
            raise RuntimeError(one.id)

        with pytest.raises(RuntimeError):
            list(stream(self.plan(copy), CONFIG, first_step=0, last_step=10, on_unreadable=refuse))


def test_the_mailbox_passes_each_skipped_image_on_once():
    known, new = Skipped("train", "a", "damaged"), Skipped("train", "b", "damaged")
    mailbox = Mailbox([known])
    assert mailbox.skip(new) == mailbox.skip(known) == mailbox.skip(new) == [known, new]
    assert mailbox.skip(Skipped("val", "a", "damaged")) == [("val", "a", "damaged")]
    assert [record[SKIPPED].split for record in mailbox.take()] == ["train", "val"]


SMALL = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --train.log_every 2 --train.steps 10"
)


@pytest.mark.slow
class TestWholeRun:
    def arguments(self, shards, out, more=""):
        return [*SMALL.split(), "--data_root", shards.folder, "--out", str(out), *more.split()]

    @pytest.mark.soak
    def test_two_workers_train_one_model_and_leave_out_and_name_bad_images(self, copy, tmp_path, capsys):
        (train,), (val,) = damage(copy, "train", [BAD]), damage(copy, "val", [4])
        main(self.arguments(copy, tmp_path / "runs", "--train.num_workers 2 --contrast.warmup_steps 1"))
        printed = capsys.readouterr().out
        (file,) = (tmp_path / "runs").glob("*/result.json")
        result = json.loads(file.read_text())
        assert [(one["split"], one["id"]) for one in result["skipped"]] == [("train", train), ("val", val)]
        assert all("damaged since it was written" in one["reason"] for one in result["skipped"])
        assert result["images"] == 5
        assert 0 < result["miou"] < 1
        assert printed.count(f"Skipped train/{train}") == 1
        summary = printed[printed.index("Skipped: 2 images") :]
        assert f"train/{train}: " in summary
        assert f"val/{val}: " in summary
        assert not (tmp_path / "runs" / "shards").exists()

    @pytest.mark.soak
    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_too_many_end_the_run_with_their_list(self, copy, tmp_path, num_workers, capsys):
        ids = damage(copy, "train", [BAD, 3])
        with pytest.raises(SystemExit) as stop:
            main(self.arguments(copy, tmp_path / "runs", f"--train.num_workers {num_workers}"))
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "2 of 20 images of split train cannot be used, more than ingest.max_bad_share=0.01 allows" in error
        assert all(f"{id_}: " in error for id_ in ids)

    @pytest.mark.soak
    def test_a_run_from_shards_is_the_run_from_raw_files(self, prepared, tiny_camvid, tmp_path):
        weights = []
        for name, root in (("shards", prepared.folder), ("raw", tiny_camvid)):
            main([*SMALL.split(), "--data_root", str(root), "--out", str(tmp_path / name)])
            (file,) = (tmp_path / name).glob("*/checkpoint/model.safetensors")
            weights.append(file.read_bytes())
        assert weights[0] == weights[1]
        assert Shards.load(next((tmp_path / "raw" / "shards").iterdir())).content == prepared.content

    @pytest.mark.soak
    def test_of_a_split_that_cannot_be_read_at_all_there_are_no_scores(self, copy, tmp_path, capsys):
        damage(copy, "val", range(6))
        with pytest.raises(SystemExit):
            main(self.arguments(copy, tmp_path / "runs", "--train.steps 2"))
        assert "no image of split val can be read" in capsys.readouterr().err
