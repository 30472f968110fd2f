"""`python -m pipeline.predict`: what is read, what is written, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.predict import main
from pipeline.predicting import inference
from pipeline.predicting.inference import predict, strips
from pipeline.predicting.input_files import LABELS, OVERLAYS, find_inputs
from pipeline.predicting.picture import colour
from pipeline.predicting.prediction import Output, _Predictor, _read
from pipeline.predicting.predictor import Workers
from pipeline.training.checkpoint import load_segmentor
from pixcon_core.config import EvaluateConfig
from pixcon_core.data import decode_image


def pixels(height, width, seed=0):
    cells = np.random.default_rng(seed).integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return cells.repeat(10, axis=0).repeat(10, axis=1)[:height, :width]


@pytest.fixture
def photos(tmp_path):
    """A folder of images of many kinds, two of them damaged, and a text."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    whole = Image.fromarray(pixels(60, 90))
    whole.save(folder / "a.jpg")
    whole.save(folder / "A.png")
    whole.save(folder / "sub" / "a.PNG")
    whole.convert("L").save(folder / "sub" / "grey.png")
    Image.fromarray(pixels(60, 90)[..., 0].astype(np.uint16) * 257).save(folder / "sub" / "sixteen.png")
    Image.fromarray(np.dstack([pixels(60, 90), np.full((60, 90), 9, np.uint8)])).save(folder / "sub" / "alpha.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    whole.save(folder / "turned.jpg", exif=turned)
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:400])
    (folder / "text.png").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "._a.jpg").write_text("of a Mac")
    return folder


def names(given, out=Path("nowhere")):
    return {os.path.basename(one.file): one.name for one in find_inputs(given, out)}  # noqa: PTH119


class TestInputs:
    def test_a_folder_keeps_its_sub_folders_and_names_that_meet_keep_their_endings(self, photos):
        assert names([str(photos)]) == {
            "A.png": "A.png",
            "a.jpg": "a.jpg",
            "a.PNG": "sub/a",
            "alpha.png": "sub/alpha",
            "grey.png": "sub/grey",
            "sixteen.png": "sub/sixteen",
            "turned.jpg": "turned",
            "cut.jpg": "cut",
            "text.png": "text",
        }

    def test_linked_folders_are_searched_once_also_where_they_lead_back(self, photos, tmp_path):
        far = tmp_path / "far"
        far.mkdir()
        (far / "far.png").touch()
        (far / "back").symlink_to(photos)
        before = names([str(photos)])
        for link, target in (("a-link", far), ("b-link", far), ("c-link", photos / "sub"), ("up", photos)):
            (photos / link).symlink_to(target)
        assert names([str(photos)]) == before | {"far.png": "a-link/far"}

    def test_names_that_meet_in_spite_of_their_endings_all_keep_them(self, tmp_path):
        for name in ("a.jpg", "a.png", "a.jpg.png", "b.png"):
            (tmp_path / name).touch()
        assert set(names([str(tmp_path)]).values()) == {"a.jpg", "a.png", "a.jpg.png", "b.png"}

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("{}/*.jpg", {"a", "turned", "cut"}),
            ("{}/**/*.png", {"A", "sub/alpha", "sub/grey", "sub/sixteen", "text"}),
            ("{}/s?b/g*", {"sub/grey"}),
            ("{}/sub/../t*.jpg", {"turned"}),
            ("{}/s*/../t*.jpg", {"turned"}),
        ],
    )
    def test_a_pattern_names_files_below_its_fixed_part(self, photos, pattern, expected):
        assert set(names([pattern.format(photos)]).values()) == expected

    def test_a_file_has_its_own_name_and_several_those_below_what_they_share(self, photos):
        assert set(names([str(photos / "sub" / "grey.png")]).values()) == {"grey"}
        files = [str(photos / "sub" / "grey.png"), str(photos / "turned.jpg")]
        assert set(names(files).values()) == {"sub/grey", "turned"}

    def test_names_never_lead_upwards(self, photos, monkeypatch):
        monkeypatch.chdir(photos / "sub")
        for given in (["../turned.jpg", "grey.png"], ["..//*.jpg"], ["../sub/../*.jpg"]):
            assert not [name for name in names(given).values() if ".." in name or name.startswith("/")]

    def test_what_was_predicted_earlier_is_no_input(self, photos):
        (photos / "labels").mkdir()
        (photos / "labels" / "b.png").touch()
        assert "b.png" not in names([str(photos)], photos)
        assert "b.png" in names([str(photos)], photos / "out")
        with pytest.raises(ValueError, match=r"all 1 files of .* are predictions in --out"):
            find_inputs([str(photos / "labels")], photos)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("nowhere", "nowhere does not exist"),
            ("no*where", "no file matches the pattern no\\*where"),
            (".", "the folder . holds no images"),
            ("s3://bucket/a.jpg", "is a URL"),
            ("", "does not exist|holds no images"),
        ],
    )
    def test_what_is_not_there_is_named(self, tmp_path, monkeypatch, given, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=message):
            find_inputs([given], tmp_path / "out")


def run(checkpoint, photos, out, *more):
    main(["--checkpoint", str(checkpoint), "--input", str(photos), "--out", str(out), *more])


def refused(capsys, *arguments, code=2):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.usefixtures("ray_cluster")
def test_label_maps_overlays_and_probabilities_are_those_of_the_checkpoint(fresh_checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    run(fresh_checkpoint, photos, out, "--probabilities", "--evaluate.flip", "--num_workers", "2")
    printed = capsys.readouterr().out
    assert "7 images in " in printed
    assert "images/s" in printed
    assert "Not read: 2 images" in printed
    assert printed.strip().endswith(str(out / "predictions.json"))
    summary = json.loads((out / "predictions.json").read_text())
    assert [os.path.basename(one["image"]) for one in summary["failed"]] == ["cut.jpg", "text.png"]  # noqa: PTH119
    assert summary["evaluate"]["flip"] is True
    assert summary["images"] == len(summary["predictions"]) == 7
    assert len(summary["classes"]) == 11

    loaded, protocol = load_segmentor(fresh_checkpoint), EvaluateConfig(flip=True)
    for one in summary["predictions"]:
        image = decode_image(open(one["image"], "rb").read())  # noqa: PTH123, SIM115
        expected = predict(loaded, image, protocol)
        with Image.open(out / "labels" / f"{one['name']}.png") as label:
            assert label.mode == "P"
            np.testing.assert_array_equal(np.asarray(label), expected)
            shown = np.asarray(label.convert("RGB"))
        np.testing.assert_array_equal(shown, colour(expected, loaded.meta.palette))
        (strip,) = strips(loaded, image, protocol)
        kept = np.load(out / "probabilities" / f"{one['name']}.npy", allow_pickle=False)
        np.testing.assert_allclose(kept, strip.logits.softmax(dim=0), atol=1e-3)
        overlay = np.asarray(Image.open(out / "overlays" / f"{one['name']}.jpg")).astype(float)
        assert np.abs(overlay - (0.5 * image + 0.5 * shown)).mean() < 12  # JPEG
    turned = Image.open(out / "labels" / "turned.png")
    assert turned.size == (60, 90), "as it is shown, not as it is stored"
    written = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert len(written) == 3 * 7 + 1

    here = tmp_path / "here"
    run(fresh_checkpoint, photos, here, "--probabilities", "--evaluate.flip")  # in this process
    assert "Not read: 2 images" in capsys.readouterr().out
    assert {file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()} == written
    for name in written:
        if name.startswith("labels/"):
            assert (here / name).read_bytes() == (out / name).read_bytes()
        if name.startswith("probabilities/"):
            np.testing.assert_allclose(np.load(here / name), np.load(out / name), atol=1e-3)
    same = {"failed", "images", "predictions", "classes", "evaluate", "kinds"}
    again = json.loads((here / "predictions.json").read_text())
    assert {name: again[name] for name in same} == {name: summary[name] for name in same}

    error = refused(capsys, fresh_checkpoint, photos, out)
    assert "A.png.png and 14 other files would be written over" in error


def test_it_is_a_failure_only_if_no_image_can_be_read(fresh_checkpoint, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no image")
    error = refused(capsys, fresh_checkpoint, tmp_path / "a.jpg", tmp_path / "out", code=1)
    assert error == "error: no image could be read.\n"
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["images"] == 0


def test_a_link_that_leads_out_of_the_folder_is_not_followed(fresh_checkpoint, photos, tmp_path, capsys):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "labels" / "sub").symlink_to(tmp_path / "elsewhere")
    error = refused(capsys, fresh_checkpoint, photos, tmp_path / "out", "--overwrite")
    assert f"labels/sub leads out of {tmp_path / 'out'}" in error


def test_a_file_where_a_folder_is_to_be_is_told_before_any_work(fresh_checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "overlays").touch()
    for place in (out, out / "overlays/deep"):
        error = refused(capsys, fresh_checkpoint, photos, place)
        assert f"must be a folder, but {out / 'overlays'} is a file. Give another --out." in error
    assert [one.name for one in out.iterdir()] == ["overlays"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--evaluate.window", "64"], "--evaluate.window"),
        (["--evaluate.stride", "32", "32"], "evaluate.stride must be None without evaluate.window"),
        (["--overlays"], "--overlays"),
    ],
)
def test_mistakes_in_flags_are_told_in_one_line(fresh_checkpoint, photos, tmp_path, capsys, more, message):
    assert message in refused(capsys, fresh_checkpoint, photos, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_large_images_do_not_travel_and_come_out_the_same(fresh_checkpoint, photos, tmp_path, monkeypatch):
    inputs = find_inputs([str(photos / "a.jpg"), str(photos / "turned.jpg")], tmp_path)
    monkeypatch.setattr("pipeline.predicting.prediction.MAX_WHOLE_PIXELS", 60 * 90 - 1)
    monkeypatch.setattr(inference, "MAX_WHOLE_PIXELS", 60 * 90 - 1)
    monkeypatch.setattr(inference, "LARGE_WINDOW", (40, 50))
    output = Output(tmp_path / "out", (LABELS, OVERLAYS), load_segmentor(fresh_checkpoint).meta.palette)
    block = _read({"id": [0]}, inputs=inputs)
    assert [image.size for image in block["image"]] == [0, 0]
    actor = _Predictor(str(fresh_checkpoint), inputs, output, EvaluateConfig(), Workers(1, False, 1))
    made = actor(block)
    assert made["reason"] == made["failure"] == ["", ""]
    assert [ids.size for ids in made["ids"]] == [0, 0]
    assert (made["height"], made["width"]) == ([60, 90], [90, 60])
    image = decode_image((photos / "a.jpg").read_bytes())
    expected = predict(load_segmentor(fresh_checkpoint), image, EvaluateConfig(window=(40, 50)))
    np.testing.assert_array_equal(np.asarray(Image.open(output.file(LABELS, "a"))), expected)
    assert Image.open(output.file(OVERLAYS, "turned")).size == (60, 90)
