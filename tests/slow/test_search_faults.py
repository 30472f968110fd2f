"""Searches over data that have gone bad, and that end before all trials have."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.data.shards import Shards
from pipeline.run import main
from pipeline.tuning.study import open_study, records

from .disk import fill

pytestmark = pytest.mark.slow

SEARCH = (
    "--dataset camvid --preset mini-camvid --train.batch_size 4 --ingest.crop 64 64 --model.head_channels 16"
    " --model.projection_dim 16 --contrast.memory_size 50 --search"
)


@pytest.fixture(scope="module")
def shards(ray_cluster, tiny_camvid, tmp_path_factory):
    from pipeline.prepare import main as prepare

    folder = tmp_path_factory.mktemp("prepared") / "camvid"
    prepare(["--dataset", "camvid", "--data_root", str(tiny_camvid), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def damaged(shards, tmp_path_factory):
    """Shards of which one label of each split is damaged."""
    folder = Path(shutil.copytree(shards, tmp_path_factory.mktemp("damaged") / "camvid"))
    for split in Shards.load(folder).splits.values():
        file = folder / split.groups[0].file
        data = bytearray(file.read_bytes())
        data[data.find(b"\x89PNG") + 60] ^= 0xFF
        file.write_bytes(data)
    return folder


@pytest.mark.soak
def test_images_that_cannot_be_read_are_named_and_the_search_goes_on(damaged, tmp_path, capsys):
    main([*SEARCH.split(), "--data_root", str(damaged), "--out", str(tmp_path), *"--trials 2 --trial_steps 8".split()])
    (file,) = tmp_path.glob("*/best.json")
    skipped = json.loads(file.read_text())["skipped"]
    assert sorted(one["split"] for one in skipped) == ["train", "val"]
    assert all("damaged since it was written" in one["reason"] for one in skipped)
    printed = capsys.readouterr().out
    assert printed.count("Skipped train/") == printed.count("Skipped val/") == 1
    assert "Skipped: 2 images" in printed


@pytest.mark.soak
def test_too_many_images_that_cannot_be_read_end_the_search(damaged, tmp_path, capsys):
    more = "--trials 3 --trial_steps 8 --concurrent 1 --ingest.max_bad_share 0"
    with pytest.raises(SystemExit) as stop:
        main([*SEARCH.split(), "--data_root", str(damaged), "--out", str(tmp_path), *more.split()])
    assert stop.value.code == 2
    assert "more than ingest.max_bad_share=0.0 allows" in capsys.readouterr().err
    (file,) = tmp_path.glob("*/trials.json")
    assert {one["state"] for one in json.loads(file.read_text())} == {"running"}


@pytest.mark.soak
def test_a_search_ends_with_its_budget_and_what_was_begun_is_gone_on_with(shards, tmp_path):
    given = [*SEARCH.split(), "--data_root", str(shards), "--out", str(tmp_path), "--trial_steps", "8"]
    main([*given, "--trials", "2"])
    (file,) = tmp_path.glob("*/best.json")
    folder, best = file.parent, json.loads(file.read_text())
    budget = open_study(folder).user_attrs["seconds"] + 8
    main([*given, "--resume", "--trials", "100", "--budget", f"{budget:.1f}s"])
    after = records(open_study(folder))
    assert len(after) < 100
    assert json.loads(file.read_text())["best"]["miou"] >= best["best"]["miou"]
    assert not {one.state for one in after} & {"failed"}
    main([*given, "--resume", "--trials", str(max(2, len(after))), "--budget", "10h"])
    at_last = records(open_study(folder))
    assert len(at_last) == len(after)
    assert {one.state for one in at_last} <= {"complete", "stopped"}
    for old, new in zip(after, at_last, strict=True):
        assert old.points.items() <= new.points.items()
        assert old.state in ("running", new.state)
    assert [one.state for one in at_last[:2]] == ["complete", "complete"]
    assert len(list(folder.rglob("model.safetensors"))) == 1


@pytest.mark.soak
def test_a_disk_that_gets_full_ends_a_search_which_goes_on_when_there_is_room(shards, small_disk, tmp_path):
    more = "--trials 4 --trial_steps 12 --concurrent 1 --train.precision float32"
    given = [*SEARCH.split(), "--data_root", str(shards), *more.split()]
    main([*given, "--out", str(tmp_path)])
    command = [sys.executable, "-m", "pipeline.run", *given, "--out", str(small_disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not any(file.stat().st_size for file in small_disk.glob("*/trials.json")):
            assert process.poll() is None
            time.sleep(0.05)
        filler = fill(small_disk)
        printed, _ = process.communicate()
    assert process.returncode == 1, printed
    last = printed.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "Make room there." in last
    assert "--resume goes on" in last
    assert "Traceback" not in printed
    filler.unlink()
    main([*given, "--out", str(small_disk), "--resume"])
    found = [json.loads(next(out.glob("*/best.json")).read_text()) for out in (tmp_path, small_disk)]
    assert found[0]["best"] == found[1]["best"]
    assert found[0]["improvement"] == found[1]["improvement"]
    assert found[0]["trials"] == found[1]["trials"]
