"""Training data that do not show all classes, or only one of them. Shards are written without Ray."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import journey
from pipeline.data.checks import check_classes, check_labelled, missing_classes
from pipeline.data.shard_file import ShardInfo, write_shard
from pipeline.data.shards import Shards, Split, write_index
from pipeline.data.sources import dataset_spec, find_all_pairs, fingerprint
from pipeline.data.storage import locate
from pipeline.estimating.estimate import count_images
from pipeline.journey import Source
from pipeline.prepare import _chunks, main, prepare
from pixcon_core.config import RunConfig, TrainConfig

FOLDERS = '[splits.train]\nimages="i"\nmasks="m"\n[splits.val]\nimages="i"\nmasks="m"\n'
ONE_CLASS = (
    r"^fields: only the class 'ground' has pixels in split train, of 2 classes; training needs two or more\."
    r".*colours = \[\[0, 0, 0\], \[255, 255, 255\]\]"
)


@pytest.fixture
def fields(tmp_path):
    """Write two images whose masks are black and white, with a description, and shards of them; return its path."""

    def fields(classes='["ground", "plant"]', colours="", white=255):
        mask = np.repeat(np.uint8([0, white]), 32).reshape(8, 8)
        for name in "ab":
            for folder, pixels in (("i", np.zeros((8, 8, 3), np.uint8)), ("m", mask)):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
        file = tmp_path / "fields.toml"
        file.write_text(f"classes = {classes}\n{colours}\n{FOLDERS}")
        spec = dataset_spec(str(file))
        pairs = find_all_pairs(spec, tmp_path)
        mark, infos = fingerprint(spec, pairs), {}
        folder = locate(tmp_path / "runs" / "shards" / f"fields-{mark}")
        for split, listed in pairs.items():
            done = write_shard({"id": 0}, spec, _chunks(split, listed), folder.name, mark)
            infos[split] = [ShardInfo.from_json(done["info"])]
        write_index(folder, spec, mark, infos)
        return file, folder.name, Source(spec, None, pairs)

    return fields


def config(file, **changes):
    return RunConfig(dataset=str(file), train=TrainConfig(batch_size=2), **changes)


def test_black_and_white_masks_without_colours_are_refused_by_all_that_train(fields, tmp_path, capsys):
    file, folder, source = fields()
    with pytest.raises(ValueError, match=ONE_CLASS):
        journey.prepare_data(source, config(file), tmp_path / "runs")
    prepared = config(file, data_root=folder)
    with pytest.raises(ValueError, match=ONE_CLASS):
        journey.find_data(prepared, tmp_path / "runs")
    with pytest.raises(ValueError, match=ONE_CLASS):
        count_images(source.spec, prepared, tmp_path / "runs")
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", str(file), "--out", folder])
    assert stop.value.code == 2
    assert "only the class 'ground' has pixels" in capsys.readouterr().err


def test_the_shards_of_data_that_do_not_do_for_training_are_removed(fields, tmp_path):
    _, folder, source = fields()
    index = Path(folder) / "dataset.json"
    index.unlink()  # as a call leaves it that was stopped; the next one writes the index alone
    prepare(source.spec, source.pairs, folder, max_bad_share=0.0, for_training=False)
    index.unlink()
    (Path(folder) / "mine.txt").touch()
    with pytest.raises(ValueError, match=ONE_CLASS):
        prepare(source.spec, source.pairs, folder, max_bad_share=0.0)
    assert [file.name for file in Path(folder).iterdir()] == ["mine.txt"]


def test_what_another_call_writes_meanwhile_is_left_alone(fields):
    _, folder, source = fields(white=1)
    (Path(folder) / "dataset.json").unlink()
    killed, beside = (Path(folder) / f".train-00000.parquet.{name}.tmp" for name in ("killed", "beside"))
    killed.touch()
    prepare(source.spec, source.pairs, folder, max_bad_share=0.0, on_progress=lambda *_: beside.touch())
    assert (killed.exists(), beside.exists()) == (False, True)


def test_masks_of_void_alone_are_refused(fields, tmp_path):
    file, _, source = fields("{ground = 7, plant = 8}", "ignore = [0]")
    with pytest.raises(ValueError, match=r"^fields: no class has a pixel in split train, of 2 classes"):
        journey.prepare_data(source, config(file), tmp_path / "runs")


def test_a_split_val_of_void_alone_is_refused_for_training_and_as_what_is_scored(fields, tmp_path):
    _, folder, source = fields(white=1)
    shards = prepare(source.spec, source.pairs, folder, max_bad_share=0.0)
    void = dataclasses.replace(shards.splits["val"], class_pixels=(0, 0))
    splits = {**shards.splits, "val": void, "test": void}
    with pytest.raises(ValueError, match=r"^fields: all labels of split val are void, so there is nothing to score\."):
        check_classes(dataclasses.replace(shards, splits=splits))
    check_classes(dataclasses.replace(shards, splits={**splits, "val": shards.splits["val"]}))
    with pytest.raises(ValueError, match=r"all labels of split test are void"):
        check_labelled(dataclasses.replace(shards, splits=splits), "test")


def test_with_their_colours_they_are_taken(fields, tmp_path, capsys):
    file, folder, source = fields(colours="colours = [[0, 0, 0], [255, 255, 255]]")
    shards = journey.prepare_data(source, config(file), tmp_path / "runs")
    assert shards.splits["train"].class_pixels == (64, 64)
    main(["--dataset", str(file), "--out", folder])
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "corrected",
    [
        {"classes": "{ground = 1, plant = 0, water = 2}"},
        {"colours": "ignore = [7]"},
        {"colours": "colours = [[0, 0, 9], [0, 9, 0], [9, 0, 0]]"},
    ],
)
def test_prepared_shards_are_refused_once_their_description_says_something_else(fields, tmp_path, corrected):
    file, folder, _ = fields("{ground = 0, plant = 1, water = 2}", white=1)
    prepared = config(file, data_root=folder)
    assert journey.find_data(prepared, tmp_path).prepared is not None
    index = Path(folder) / "dataset.json"
    earlier = json.loads(index.read_text())
    fields(**{"classes": "{ground = 0, plant = 1, water = 2}", "white": 1} | corrected)
    with pytest.raises(ValueError, match=f"{folder} holds shards of fields as {file} described it before"):
        journey.find_data(prepared, tmp_path)
    del earlier["meaning"]  # as earlier versions wrote it
    index.write_text(json.dumps(earlier))
    assert journey.find_data(prepared, tmp_path).prepared is not None


def test_a_class_without_a_pixel_is_noted(fields, tmp_path, capsys):
    file, folder, source = fields('["ground", "plant", "water"]', white=1)
    journey.prepare_data(source, config(file), tmp_path / "runs")
    main(["--dataset", str(file), "--out", folder])
    assert capsys.readouterr().out.count("note: 1 of 3 classes have no pixel in split train: water\n") == 2


def test_of_many_classes_without_a_pixel_some_are_named():
    names = tuple("abcdefghij")
    shards = Shards("x", "x", names, (), {"train": Split((), (1, 2, *[0] * 8))}, ())
    assert missing_classes(shards) == "note: 8 of 10 classes have no pixel in split train: c, d, e, f, g and 3 more"
