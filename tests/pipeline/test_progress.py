import errno
import json
import shutil
from pathlib import Path

import pytest

from pipeline import progress
from pipeline.command import is_disk_full
from pipeline.data.shard_file import Skipped
from pipeline.data.skipping import load_skipped, store_skipped
from pipeline.progress import MetricsLog, follow, load_records, open_mailbox

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullFile:
    """A file that takes half of what is written, and then says that the disk is full."""

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, text):
        self._file.write(text[: len(text) // 2])
        raise FULL


def fill_disk(monkeypatch):
    opened = Path.open

    def full(self, mode):
        return FullFile(opened(self, mode)) if "a" in mode else opened(self, mode)

    monkeypatch.setattr(Path, "open", full)


def test_of_a_line_that_a_full_disk_did_not_take_nothing_stays(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path)
    log.write({"step": 1, "loss": 3.0})
    with monkeypatch.context() as full:
        fill_disk(full)
        with pytest.raises(OSError, match="No space left"):
            log.write({"step": 2, "loss": 2.0})
    log.write({"step": 2, "loss": 2.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def test_of_a_skipped_image_that_a_full_disk_did_not_take_nothing_stays(tmp_path, monkeypatch):
    first, second = (Skipped("val", name, "truncated") for name in ("a", "b"))
    with monkeypatch.context() as full:
        fill_disk(full)
        with pytest.raises(OSError, match="No space left"):
            store_skipped(tmp_path, first)
    store_skipped(tmp_path, first)
    store_skipped(tmp_path, second)
    assert load_skipped(tmp_path) == [first, second]


def test_half_a_line_that_a_crash_left_is_cut_off_before_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    log = MetricsLog(tmp_path)
    log.write({"step": 2, "loss": 2.0})
    log.close()
    assert load_records(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    (tmp_path / "skipped.jsonl").write_text('{"split": "val", "i')  # not one whole line
    one = Skipped("val", "a", "truncated")
    store_skipped(tmp_path, one)
    assert load_skipped(tmp_path) == [one]


@pytest.mark.parametrize("line", [b'{"step": 2, {"step": 3}', b"3", b"\xff\xfe"])
def test_a_line_that_cannot_be_read_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .* must be a JSON object .* Delete this line"):
        MetricsLog(tmp_path)


def test_records_that_cannot_be_taken_are_offered_again_in_their_order(ray_cluster, monkeypatch):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    mailbox, offered, taken = open_mailbox(), [], []

    def take(record):
        offered.append(record["step"])
        if len(offered) <= 3:
            raise FULL
        taken.append(record["step"])

    with follow(mailbox, take):
        for step in range(3):
            mailbox.put.remote({"step": step})
        while len(taken) < 3:
            pass
    assert taken == [0, 1, 2]
    assert offered == [0, 0, 0, 0, 1, 2]


def test_records_that_cannot_be_taken_to_the_end_are_an_error(ray_cluster):
    def take(record):
        raise FULL

    mailbox = open_mailbox()
    with pytest.raises(OSError, match="No space left"), follow(mailbox, take):
        mailbox.put.remote({"step": 1})


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (shutil.Error([("a", "b", str(FULL))]), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ValueError("No space left on device"), False),
    ],
)
def test_a_full_disk_is_known_by_its_errors(error, full):
    assert is_disk_full(error) == full
