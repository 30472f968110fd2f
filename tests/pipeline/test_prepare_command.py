"""pipeline.prepare as a command, and what pipeline.run makes of the result."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from pipeline import prepare as prepare_module
from pipeline import run as run_module
from pipeline.data.rows import Stored, read_rows, split_rows
from pipeline.data.shards import Shards
from pipeline.data.sources import dataset_spec, find_all_pairs, fingerprint
from pipeline.data.storage import locate
from pipeline.ingest import Plan, stream
from pipeline.prepare import main, prepare
from pixcon_core.config import IngestConfig
from pixcon_core.data import DATASETS

SPEC = dataset_spec("camvid")
SPLITS = '[splits.train]\nimages="a"\nmasks="b"\n[splits.val]\nimages="c"\nmasks="d"\n'


def arguments(root, out, more=""):
    return ["--dataset", "camvid", "--data_root", str(root), "--out", str(out), *more.split()]


def refusal(capsys, call, *given):
    """The one message with which a command refuses."""
    with pytest.raises(SystemExit) as stop:
        call(*given)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    return captured.err


def files(folder):
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(ray_cluster, tiny_camvid, tmp_path_factory):
    """A prepared data set. Not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "camvid"
    prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), out, max_bad_share=0.01)
    return out


@pytest.fixture
def copy(prepared, tmp_path):
    """A prepared data set that a test may damage."""
    return shutil.copytree(prepared, tmp_path / "copy")


class TestCommand:
    @pytest.mark.slow
    def test_it_writes_what_it_says_and_nothing_more(self, ray_cluster, prepared, tiny_camvid, tmp_path, capsys):
        main(arguments(tiny_camvid, tmp_path / "out"))
        captured = capsys.readouterr()
        lines = captured.out.strip().splitlines()
        assert lines[-1] == str(tmp_path / "out" / "dataset.json")
        table = {words[0]: words[1:] for words in map(str.split, lines) if words}
        assert table["images"] == ["20", "6"]
        pixels = Shards.load(prepared).splits["train"].class_pixels
        assert table["road"][0] == f"{100 * pixels[SPEC.classes.index('road')] / sum(pixels):.2f}"
        assert "ray" not in (captured.out + captured.err).lower().replace(str(tmp_path).lower(), "")
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
            "dataset.json",
            "train-00000.parquet",
            "val-00000.parquet",
        ]
        assert Shards.load(tmp_path / "out").content == Shards.load(prepared).content

    def test_a_second_call_says_so_and_writes_nothing(self, copy, tiny_camvid, capsys):
        before = files(copy)
        main(arguments(tiny_camvid, copy))
        printed = capsys.readouterr().out
        assert "finished already" in printed
        assert printed.strip().splitlines()[-1] == str(copy / "dataset.json")
        assert files(copy) == before

    def test_the_same_files_by_another_path_are_the_same_data(self, copy, tiny_camvid, tmp_path, capsys):
        (tmp_path / "link").symlink_to(tiny_camvid)
        main(arguments(tmp_path / "link", copy))
        assert "finished already" in capsys.readouterr().out

    def test_shards_of_other_data_are_left_alone(self, copy, tiny_camvid, tmp_path, capsys):
        other = shutil.copytree(tiny_camvid, tmp_path / "other")
        next((other / "train").glob("*.png")).touch()
        before = files(copy)
        error = refusal(capsys, main, arguments(other, copy))
        assert str(copy) in error
        assert "another --out" in error
        assert files(copy) == before

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ("--splits train test", "test"),
            ("--splits train dev", "no split 'dev'; there are train, val, test"),
            ("--splits train train", "different names"),
            ("--max_bad_share 1", "max_bad_share"),
            ("--ingest.max_bad_share 1", "max_bad_share must be in [0, 1), but got 1.0"),
            ("--outt x", "--out"),
        ],
    )
    def test_what_cannot_work_is_refused(self, tiny_camvid, tmp_path, more, message, capsys):
        assert message in refusal(capsys, main, arguments(tiny_camvid, tmp_path / "out", more))
        assert not (tmp_path / "out").exists()

    def test_raw_files_at_a_url_are_refused(self, tmp_path, s3_url, capsys):
        assert "local folders only" in refusal(capsys, main, arguments(s3_url, tmp_path / "out"))

    @pytest.mark.slow
    def test_all_that_is_wrong_is_listed(self, ray_cluster, tiny_camvid, tmp_path, capsys):
        root = shutil.copytree(tiny_camvid, tmp_path / "camvid")
        pairs = find_all_pairs(SPEC, root)
        bad = {"train": pairs["train"][:3], "val": pairs["val"][:2]}
        for pair in bad["train"] + bad["val"]:
            pair.image.write_bytes(b"")
        error = refusal(capsys, main, arguments(root, tmp_path / "out"))
        assert "3 of 20 images of split train" in error
        assert all(pair.id in error for pair in bad["train"])
        named = json.loads((tmp_path / "out" / "dataset.json").read_text())["skipped"]
        assert {(one["split"], one["id"]) for one in named} == {(s, p.id) for s, listed in bad.items() for p in listed}
        main(arguments(root, tmp_path / "out", "--max_bad_share 0.5"))
        printed = capsys.readouterr().out
        assert all(f"Skipped {split}/{pair.id}: " in printed for split, listed in bad.items() for pair in listed)

    @pytest.mark.slow
    def test_a_test_split_is_written_where_there_is_one(self, ray_cluster, tiny_camvid, tmp_path, capsys):
        root = shutil.copytree(tiny_camvid, tmp_path / "camvid")
        shutil.copytree(root / "val", root / "test")
        shutil.copytree(root / "valannot", root / "testannot")
        main(arguments(root, tmp_path / "out", "--splits train val test"))
        assert Shards.load(tmp_path / "out").splits["test"].num_images == 6
        main(arguments(root, tmp_path / "only", "--splits test"))
        capsys.readouterr()
        asked = ["--dataset", "camvid", "--data_root", str(tmp_path / "only"), "--out", str(tmp_path / "runs")]
        assert "no split train and val" in refusal(capsys, run_module.main, asked)


@pytest.mark.usefixtures("ray_cluster")
class TestShards:
    def test_the_content_hash_is_of_ids_images_and_labels(self, prepared):
        content = hashlib.sha256()
        for split in ("train", "val"):
            digest = hashlib.sha256()
            rows = pq.read_table(prepared / f"{split}-00000.parquet").to_pylist()
            for row in rows:
                for part in (row["id"].encode(), row["image"], row["label"]):
                    digest.update(f"{len(part)} ".encode() + part)
            content.update(f"{split} {len(rows)} {digest.hexdigest()}\n".encode())
        assert Shards.load(prepared).content == content.hexdigest()

    def test_a_file_of_the_users_is_not_written_over(self, tiny_camvid, tmp_path):
        pq.write_table(pa.table({"a": [1]}), tmp_path / "train-00000.parquet")
        pq.write_table(pa.table({"a": [1]}), tmp_path / "mine.parquet")
        before = files(tmp_path)
        with pytest.raises(ValueError, match=r"train-00000\.parquet is there, but was not written by pipeline"):
            prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), tmp_path, max_bad_share=0.01)
        assert files(tmp_path) == before

    def test_unfinished_shards_of_other_data_are_not_taken_for_these(self, copy, prepared, tiny_camvid, tmp_path):
        other = shutil.copytree(tiny_camvid, tmp_path / "other")
        changed = next((other / "train").glob("*.png"))
        changed.write_bytes(next((other / "val").glob("*.png")).read_bytes())
        (copy / "dataset.json").unlink()
        shutil.copy(copy / "train-00000.parquet", copy / "train-00007.parquet")
        shards = prepare(SPEC, find_all_pairs(SPEC, other), copy, max_bad_share=0.01)
        assert shards.content != Shards.load(prepared).content
        assert not (copy / "train-00007.parquet").exists()

    def test_a_damaged_shard_is_written_again(self, copy, prepared, tiny_camvid):
        (copy / "dataset.json").unlink()
        (copy / "val-00000.parquet").write_bytes((copy / "val-00000.parquet").read_bytes()[:-9])
        kept = (copy / "train-00000.parquet").stat().st_mtime_ns
        (copy / ".val-00000.parquet.0.tmp").touch()
        shards = prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), copy, max_bad_share=0.01)
        assert shards.content == Shards.load(prepared).content
        assert (copy / "train-00000.parquet").stat().st_mtime_ns == kept
        assert not list(copy.glob(".*"))


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_of_the_users_that_is_no_parquet_is_not_written_over(tiny_camvid, tmp_path, beside):
    (tmp_path / "train-00000.parquet").write_bytes(b"precious")
    if beside:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "mine.parquet")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"train-00000\.parquet is there, but cannot be read as a shard"):
        prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), tmp_path, max_bad_share=0.01)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", DATASETS)
def test_the_fingerprint_is_of_any_data_set(name):
    assert len({fingerprint(DATASETS[name], {}), fingerprint(SPEC, {})}) == 1 + (name != "camvid")


def test_the_fingerprint_changes_with_the_meaning_of_ids(tmp_path):
    marks = []
    for number, crop in enumerate((1, 7)):
        file = tmp_path / str(number) / "fields.toml"
        file.parent.mkdir()
        file.write_text(f"classes = {{ soil = 0, crop = {crop} }}\n{SPLITS}")
        marks.append(fingerprint(dataset_spec(str(file)), {}))
    assert marks[0] != marks[1]


def test_the_fingerprint_changes_with_the_meaning_of_colours(tmp_path):
    file, marks = tmp_path / "fields.toml", []
    # The last are those that a data set without colours is drawn in.
    for colours in ("", "[[9, 9, 9], [0, 160, 0]]", "[[0, 160, 0], [9, 9, 9]]", "[[0, 0, 0], [128, 0, 0]]"):
        file.write_text(f'classes = ["soil", "crop"]\n{f"colours = {colours}" * bool(colours)}\n{SPLITS}')
        marks.append(fingerprint(dataset_spec(str(file)), {}))
    assert len(set(marks)) == 4


@pytest.mark.parametrize(("name", "mark"), [("camvid", "b451af9fbbbb"), ("mini-coco-stuff", "fe30fbb235f0")])
def test_shards_of_earlier_versions_are_found_again(name, mark):
    assert fingerprint(DATASETS[name], {}) == mark


KILLED = """
import os, signal, sys
from pipeline import prepare as module
from pipeline.session import ray_session
from pipeline.data.sources import dataset_spec, find_all_pairs
from pathlib import Path

module.ROWS_PER_SHARD = 4
spec = dataset_spec("camvid")
with ray_session():
    module.prepare(
        spec,
        find_all_pairs(spec, Path(sys.argv[1])),
        sys.argv[2],
        max_bad_share=0.01,
        on_progress=lambda done, total: done and os.kill(os.getpid(), signal.SIGKILL),
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.soak)])
def test_a_killed_call_leaves_nothing_that_looks_whole_and_is_gone_on_with(
    where, ray_cluster, tiny_camvid, tmp_path, monkeypatch, request
):
    out = str(tmp_path / "out") if where == "local" else request.getfixturevalue("s3_url")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tiny_camvid), out], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    folder = locate(out)
    kept = folder.sizes()
    assert any(name.endswith(".parquet") for name in kept)
    assert "dataset.json" not in kept
    with pytest.raises(ValueError, match="no prepared data"):
        Shards.load(out)

    monkeypatch.setattr(prepare_module, "ROWS_PER_SHARD", 4)
    pairs, begun = find_all_pairs(SPEC, tiny_camvid), []
    shards = prepare(SPEC, pairs, out, max_bad_share=0.01, on_progress=lambda done, _: begun.append(done))
    assert begun[0] >= 4
    undisturbed = prepare(SPEC, pairs, tmp_path / "undisturbed", max_bad_share=0.01)
    assert shards.content == undisturbed.content
    assert not [name for name in folder.sizes() if name.endswith(".tmp")]


@pytest.fixture(scope="module")
def remote(ray_cluster, s3_server, tiny_camvid):
    """A prepared data set in an object store."""
    url = f"s3://bucket/remote?endpoint_override={s3_server.removeprefix('http://')}&scheme=http&region=us-east-1"
    return prepare(SPEC, find_all_pairs(SPEC, tiny_camvid), url, max_bad_share=0.01)


class TestRemote:
    def test_it_is_the_same_as_a_local_one(self, remote, prepared):
        local = Shards.load(prepared)
        assert remote.content == local.content
        assert remote.splits == local.splits
        rows = split_rows(remote, "val")
        for one, other in zip(read_rows(remote.folder, rows), read_rows(local.folder, rows), strict=True):
            assert one.id == other.id
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.label, other.label)

    def test_tasks_on_the_cluster_read_it(self, remote):
        @ray.remote
        def ids(folder, rows):
            return [found.id for found in read_rows(folder, rows) if isinstance(found, Stored)]

        rows = split_rows(remote, "val")
        assert ray.get(ids.remote(remote.folder, rows)) == [found.id for found in read_rows(remote.folder, rows)]

    def test_batches_are_those_of_local_shards(self, remote, prepared):
        config = IngestConfig(crop=(64, 64))
        batches = []
        for shards in (remote, Shards.load(prepared)):
            groups = shards.splits["train"].groups
            plan = Plan(shards.folder, groups, window=8, seed=1, batch_size=4, rank=0, world_size=1)
            batches.append(list(stream(plan, config, first_step=0, last_step=6)))
        for one, other in zip(*batches, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)

    @pytest.mark.slow
    def test_the_command_finds_the_server_in_the_environment(self, s3_server, tiny_camvid, tmp_path, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
        command = [sys.executable, "-m", "pipeline.prepare", *arguments(tiny_camvid, "s3://bucket/by/environment")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.strip().splitlines()[-1] == "s3://bucket/by/environment/dataset.json"
        assert done.stderr == ""
        again = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert "finished already" in again.stdout


class TestRunTakesThem:
    @pytest.fixture
    def ask(self, tmp_path, capsys):
        def ask(place, more=""):
            given = ["--dataset", "camvid", "--data_root", str(place), "--out", str(tmp_path / "runs"), *more.split()]
            return refusal(capsys, run_module.main, [*given, "--model.pretrained", "false"])

        return ask

    def change(self, folder, **fields):
        index = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(index | fields))

    def test_of_another_data_set(self, copy, ask):
        self.change(copy, dataset="cityscapes")
        assert "holds shards of cityscapes, but dataset is camvid" in ask(copy)

    def test_with_other_classes(self, copy, ask):
        self.change(copy, classes=["heaven", *SPEC.classes[1:]])
        assert "class 0 is heaven, not sky" in ask(copy)

    def test_of_another_format(self, copy, ask):
        self.change(copy, format=99)
        assert "format 99, this version reads 2" in ask(copy)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '"x"', '{"format": 2}', '{"splits": 3}', '{"format": 2, "splits": 3}']
    )
    def test_damaged_or_foreign(self, copy, ask, text):
        (copy / "dataset.json").write_text(text)
        error = ask(copy)
        assert f"{copy}/dataset.json is not the index of a prepared data set" in error
        assert error.count("\n") == 1

    def test_with_a_shard_missing(self, copy, ask):
        (copy / "val-00000.parquet").unlink()
        assert "lacks 1 of the 2 shards" in ask(copy)

    def test_with_too_few_images(self, copy, ask):
        assert "train.batch_size must be at most the number of training images (20)" in ask(
            copy, "--train.batch_size 21"
        )

    def test_at_a_url_that_holds_none(self, s3_url, ask):
        assert "holds no prepared data (dataset.json)" in ask(s3_url)
