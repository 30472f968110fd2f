"""Checkpoints that someone tampered with, or that are something else: a clear error, and nothing is run."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import evaluate_command, predict
from pipeline.training.checkpoint import CheckpointError, load_segmentor


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.fixture
def folder(fresh_checkpoint, tmp_path):
    return shutil.copytree(fresh_checkpoint, tmp_path / "checkpoint")


def error_of(folder):
    with pytest.raises(CheckpointError) as raised:
        load_segmentor(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change(folder, **changes):
    """Change fields of meta.json, or of its configuration by `section.field`."""
    meta = json.loads((folder / "meta.json").read_text())
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            meta["config"][section][field] = value
        else:
            meta[section] = value
    (folder / "meta.json").write_text(json.dumps(meta))


def test_the_code_of_these_tests_does_run_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Code(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("writer", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("name", ["model.safetensors", "meta.json"])
def test_a_pickle_in_place_of_a_file_is_not_run(folder, tmp_path, name, writer):
    writer({"state_dict": Code(tmp_path / "proof")}, folder / name)
    message = error_of(folder)
    assert ("cannot be read" if name == "model.safetensors" else "is not a checkpoint") in message
    assert not (tmp_path / "proof").exists()


def test_what_only_a_resume_needs_is_not_even_opened(folder, tmp_path):
    torch.save(Code(tmp_path / "proof"), folder / "training.pt")
    load_segmentor(folder)
    (folder / "training.pt").unlink()
    load_segmentor(folder)
    assert not (tmp_path / "proof").exists()


def test_a_file_of_another_program_is_refused_by_the_commands(folder, tmp_path, capsys):
    file = tmp_path / "model.pth"
    torch.save({"state_dict": Code(tmp_path / "proof")}, file)
    for command in (
        lambda: predict.main(["--checkpoint", str(file), "--input", str(folder), "--out", str(tmp_path / "out")]),
        lambda: evaluate_command.main(["--checkpoint", str(file)]),
    ):
        with pytest.raises(SystemExit) as stop:
            command()
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {file} is not a checkpoint: expected model.safetensors, meta.json")
        assert error.count("\n") == 1
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_cut_short_are_refused(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert error_of(folder).startswith(f"{file} cannot be read (")


def test_a_header_longer_than_the_file_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    assert error_of(folder).startswith(f"{file} cannot be read (")


def test_weights_of_another_type_are_refused_or_turned(folder):
    file = folder / "model.safetensors"
    save_file({name: value.double() for name, value in load_file(file).items()}, file)
    loaded = load_segmentor(folder)  # the numbers fit
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        "null",
        '{"config": {}}',
        '{"config": []}',
        "[" * 100_000,
        "\x00\xff",
        '{"config": null, "classes"',
    ],
)
def test_meta_that_is_something_else_is_refused(folder, content):
    (folder / "meta.json").write_text(content, encoding="latin1")
    assert error_of(folder).startswith(f"{folder} is not a checkpoint: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": []}, "classes must be 1 to 255 names"),
        ({"classes": 11}, "not iterable"),
        ({"classes": [1] * 11}, "classes must be"),
        ({"classes": ["\x1b[2J"] * 11}, "classes must be"),
        ({"classes": ["a"] * 256, "palette": [[0, 0, 0]] * 256}, "classes must be"),
        ({"palette": [[0, 0, 0]] * 10}, "there are 10 colours for 11 classes"),
        ({"palette": [[0, 0, 256]] * 11}, "palette must be"),
        ({"palette": [[0, 0]] * 11}, "palette must be"),
        ({"palette": ["abc"] * 11}, "palette must be"),
        ({"mean": [0, 0]}, "mean and std must be"),
        ({"mean": ["a", "b", "c"]}, "could not convert"),
        ({"mean": [float("nan")] * 3}, "mean and std must be"),
        ({"std": [1, 1, 0]}, "std > 0"),
        ({"step": "many"}, "invalid literal"),
        ({"config": {"modle": {}}}, "There is no setting modle. Did you mean model?"),
        ({"model__head_channels": "wide"}, "model.head_channels takes int"),
        ({"evaluate__scales": [-1.0]}, "evaluate.scales must be"),
    ],
)
def test_fields_of_meta_that_cannot_be_are_named(folder, changes, message):
    change(folder, **changes)
    found = error_of(folder)
    assert found.startswith(f"{folder} is not a checkpoint: ")
    assert message in found


@pytest.mark.parametrize("backbone", ["hf-hub:someone/model", "local-dir:/tmp", "../../evil", "", "resnet10t.nothing"])
def test_a_backbone_that_is_no_model_of_timm_s_is_not_fetched(folder, backbone, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    change(folder, model__backbone=backbone)
    assert error_of(folder).startswith(f"{folder / 'meta.json'} describes no model that can be built: ")


def test_weights_that_the_configuration_names_are_not_looked_for(folder, tmp_path):
    torch.save(Code(tmp_path / "proof"), tmp_path / "evil.pth")
    change(folder, model__pretrained=str(tmp_path / "evil.pth"))
    load_segmentor(folder)
    assert not (tmp_path / "proof").exists()


def test_a_model_larger_than_any_memory_is_refused(folder):
    change(folder, model__head_channels=10**6)
    assert error_of(folder).startswith(f"{folder / 'model.safetensors'} does not fit the model: ")
