"""A run folder is of one command at a time, and of one state of the data."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline import journey, search
from pipeline.data.same import DATA, keep_to_data
from pipeline.data.shards import RowGroup, Shards, Split
from pipeline.locking import LOCK, held
from pipeline.options import Request, store
from pipeline.reproducing import reproduction
from pipeline.reproducing.options import parse_reproduce
from pipeline.tuning.options import SearchOptions
from pixcon_core.override import override
from pixcon_core.presets import PRESETS

HOLD = """
import os, signal, subprocess, sys
from pathlib import Path
from pipeline.locking import held
with held(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"])  # as Ray's processes may outlive the command for a while
    print(os.getpid(), child.pid, flush=True)
    signal.pause()
"""


def shards(num_train=20, **changes):
    one = Split((RowGroup("train-00000.parquet", 0, num_train),), (1, 1))
    found = Shards(
        "x", "fields", ("soil", "crop"), ((0, 0, 0), (9, 9, 9)), {"train": one, "val": one}, (), content="c" * 64
    )
    return replace(found, **changes)


class TestHeld:
    def test_a_second_command_is_told_the_folder_and_the_process(self, tmp_path):
        said = f"^{tmp_path} is in use by another command, process {os.getpid()}\\."
        with held(tmp_path), pytest.raises(ValueError, match=said), held(tmp_path):
            pass
        with held(tmp_path):
            pass

    def test_a_killed_command_holds_nothing_though_what_it_started_lives(self, tmp_path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        pid, child = map(int, process.stdout.readline().split())
        try:
            with pytest.raises(ValueError, match=f"process {pid}\\."), held(tmp_path):
                pass
            process.kill()
            process.wait()
            with held(tmp_path):
                assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        finally:
            process.kill()
            os.kill(child, signal.SIGKILL)
            process.communicate()

    def test_on_another_machine_it_says_which_and_what_to_do_if_that_is_gone(self, tmp_path, monkeypatch):
        with held(tmp_path):
            monkeypatch.setattr("platform.node", lambda: "elsewhere")
            with pytest.raises(ValueError, match=f"is gone, remove {tmp_path / LOCK}"), held(tmp_path):
                pass

    def test_where_files_cannot_be_locked_none_is_kept_out(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
        with held(tmp_path), held(tmp_path):
            pass

    def test_without_such_locks_none_is_kept_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pipeline.locking.fcntl", None)
        with held(tmp_path), held(tmp_path):
            pass


class TestKeepToData:
    def test_the_same_data_are_taken_wherever_they_lie(self, tmp_path):
        keep_to_data(tmp_path, shards(), again="anew")
        keep_to_data(tmp_path, shards(folder="elsewhere", fingerprint="touched"), again="anew")

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"num_train": 19}, "20 in train and 20 in val images then, 19 in train and 19 in val now"),
            ({"content": "d" * 64}, "content of images or labels cccccccccccc then, dddddddddddd now"),
            ({"classes": ("crop", "soil")}, "classes soil, crop then, crop, soil now"),
        ],
    )
    def test_others_are_refused_and_it_says_what_is_different(self, tmp_path, changes, said):
        keep_to_data(tmp_path, shards(), again="anew")
        message = f"^{tmp_path} was begun with other data of fields than there are now: {said}.*begin anew: anew"
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                keep_to_data(tmp_path, shards(**changes), again="anew")

    @pytest.mark.parametrize("text", ["", "{}", "[]", "3"])
    def test_a_note_that_says_nothing_is_named(self, tmp_path, text):
        (tmp_path / DATA).write_text(text)
        with pytest.raises(ValueError, match=f"{tmp_path / DATA} does not say what data"):
            keep_to_data(tmp_path, shards(), again="anew")


class BegunError(Exception):
    """A command got to where it would train."""


@pytest.fixture(params=["run", "search", "reproduce"])
def command(request, tmp_path, tiny_camvid, monkeypatch):
    """Begin a run, a search or a reproduction in its folder, with what shards the raw files are said to give."""

    def begin(*_, **__):
        raise BegunError

    changes = {"dataset": "camvid", "data_root": str(tiny_camvid), "model": {"pretrained": "false"}}
    config = override(PRESETS["mini-camvid"], changes)
    out = tmp_path / "runs"
    for module in (journey, search, reproduction):
        monkeypatch.setattr(module, "ray_session", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(journey, "wants_gpu", lambda _: False)
    monkeypatch.setattr(journey, "keep_decoded", begin)
    monkeypatch.setattr(search, "find_places", lambda *_: None)
    monkeypatch.setattr(search, "enqueue_first", begin)
    monkeypatch.setattr(reproduction._Work, "do", begin)

    def call(found):
        for module in (journey, search):
            monkeypatch.setattr(module, "prepare_data", lambda *_: found)
        monkeypatch.setattr(reproduction, "_prepare", lambda *_: {"camvid": found})
        if request.param == "reproduce":
            if not (out / "from").exists():
                (out / "from").mkdir(parents=True)
                store(out / "from", "mini-camvid", config)
            given = ["--trial", str(out / "from"), "--datasets", "camvid", "--seeds", "1", "--out", str(out)]
            reproduction.reproduce(parse_reproduce(given), given)
            return
        unfinished = next(iter(out.glob("camvid-*")), None)
        asked = Request(config, "mini-camvid", out, unfinished, ())
        if request.param == "run":
            journey.run(asked)
        else:
            search.search(asked, SearchOptions())

    def folder():
        (found,) = (file.parent for file in out.glob("*/.lock"))
        return found

    return call, folder


def test_a_command_does_not_go_on_with_other_data(command):
    call, folder = command
    for _ in range(2):
        with pytest.raises(BegunError):
            call(shards())
    with pytest.raises(ValueError, match="content of images or labels"):
        call(shards(content="d" * 64))
    next(folder().rglob(DATA)).unlink()  # as earlier versions leave it
    with pytest.raises(BegunError):
        call(shards(content="d" * 64))


def test_a_command_does_not_go_into_a_folder_in_use(command):
    call, folder = command
    with pytest.raises(BegunError):
        call(shards())
    with held(folder()):
        before = sorted((file, file.stat().st_mtime_ns) for file in folder().rglob("*"))
        with pytest.raises(ValueError, match=f"{folder()} is in use by another command, process {os.getpid()}"):
            call(shards())
        assert sorted((file, file.stat().st_mtime_ns) for file in folder().rglob("*")) == before
    with pytest.raises(BegunError):
        call(shards())
