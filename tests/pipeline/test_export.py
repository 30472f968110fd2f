"""Exported files, against the plain segmentor that they were made from."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pipeline.export import METADATA, ImageSegmentor, export, main, trace
from pipeline.ingest import Batch
from pipeline.predicting.inference import predict
from pipeline.prepare import RowGroup, Shards, Split
from pipeline.train import Job, Worker, train
from pipeline.training.checkpoint import Loaded, load_segmentor
from pixcon_core.config import ContrastConfig, ModelConfig, RunConfig, TrainConfig
from pixcon_core.models import build_segmentor

pytestmark = pytest.mark.slow

CLASSES = ("sky", "road", "car")
PALETTE = ((70, 130, 180), (128, 64, 128), (0, 0, 142))
CONFIG = RunConfig(
    model=ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16, projection_dim=16),
    contrast=ContrastConfig(memory_size=20, max_anchors=64, warmup_steps=0),
    train=TrainConfig(steps=2, batch_size=2, checkpoint_every=2),
)
SIZES = [pytest.param((1, 3, 64, 64), id="smallest"), pytest.param((3, 3, 96, 160), id="three-images")]


def batches(first):
    rng = np.random.default_rng(0)
    for _ in range(first, 2):
        labels = rng.integers(0, 3, (2, 64, 64), dtype=np.uint8)
        yield Batch(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), labels)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Trained with contrast, so that it has a projection head and a memory."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    split = Split((RowGroup("train-00000.parquet", 0, 8),), (400, 300, 20))
    job = Job(CONFIG, Shards("nowhere", "test", CLASSES, PALETTE, {"train": split}, ()))
    train(job, Worker(), batches, start=None, put=lambda record: None, keep=lambda kept: shutil.copytree(kept, folder))
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint):
    return export(checkpoint)


@pytest.fixture(scope="module")
def program(exported):
    return torch.export.load(exported.file)


def expected(checkpoint, images):
    """The logits of the segmentor itself, step by step."""
    model, meta = load_segmentor(checkpoint)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (meta.mean, meta.std))
    with torch.no_grad():
        logits = model((images - mean) / std).logits
    return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def plain(checkpoint, *, projection=False, **settings):
    """A segmentor that never was in a checkpoint."""
    model = ModelConfig(**({"backbone": "resnet10t", "pretrained": "false", "head_channels": 16} | settings))
    segmentor = build_segmentor(model, len(CLASSES), projection=projection)
    return ImageSegmentor(Loaded(segmentor.eval(), load_segmentor(checkpoint).meta)).eval()


def operations(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def error_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("shape", SIZES)
def test_the_file_gives_the_logits_of_the_segmentor(checkpoint, program, shape):
    images = torch.rand(shape)
    torch.testing.assert_close(program.module()(images), expected(checkpoint, images), rtol=0, atol=1e-5)


def test_it_has_the_operations_of_a_segmentor_that_never_had_a_projection_head(checkpoint, program):
    without = operations(trace(plain(checkpoint), None))
    assert len(without) > 50
    assert operations(program) == without
    assert operations(trace(plain(checkpoint, projection=True), None)) == without


def test_it_has_the_weights_of_a_segmentor_that_never_had_a_projection_head(checkpoint, program):
    assert any(name.startswith("projection.") for name in load_file(checkpoint / "model.safetensors"))
    assert program.state_dict.keys() == plain(checkpoint).state_dict().keys()
    assert not [name for name in program.state_dict if "projection" in name]


def test_it_says_what_goes_in_and_comes_out(exported):
    extra = {METADATA: ""}
    torch.export.load(exported.file, extra_files=extra)
    check_description(json.loads(extra[METADATA]))


def check_description(description):
    assert description["classes"] == list(CLASSES)
    assert description["palette"] == [list(colour) for colour in PALETTE]
    assert description["input"]["shape"] == ["batch", 3, "height", "width"]
    assert description["input"]["range"] == [0, 1]
    assert description["input"]["multiple_of"] == 32
    assert description["output"]["shape"] == ["batch", 3, "height", "width"]


def test_with_a_size_any_will_do_and_the_classes_are_those_of_evaluation(checkpoint, tmp_path):
    file = export(checkpoint, out=tmp_path / "new" / "small.pt2", size=(50, 90)).file
    assert [path.name for path in file.parent.iterdir()] == ["small.pt2"]
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    run = torch.export.load(file).module()
    ids = run(pixels)[0].argmax(dim=0).numpy()
    assert (ids == predict(load_segmentor(checkpoint), image)).all()
    assert run(pixels.repeat(2, 1, 1, 1)).shape == (2, 3, 50, 90)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"head": "deeplabv3"}, id="deeplabv3"),
        pytest.param({"head": "ocr"}, id="ocr"),
        pytest.param({"backbone": "hrnet_w18_small", "head": "hrnet"}, id="hrnet"),
        pytest.param({"backbone": "tf_efficientnet_lite0"}, id="same-padding"),
    ],
)
def test_other_heads_and_backbones_keep_their_logits_at_every_multiple_of_32(checkpoint, settings):
    model = plain(checkpoint, **settings)
    run = trace(model, None).module()
    images = torch.rand(1, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(run(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"head": "deeplabv3"}, id="deeplabv3"),
        pytest.param({"head": "ocr"}, id="ocr"),
        pytest.param({"backbone": "hrnet_w18_small", "head": "hrnet"}, id="hrnet"),
    ],
)
def test_a_projection_head_adds_no_operation_to_other_heads(checkpoint, settings):
    without, having = (
        operations(trace(plain(checkpoint, projection=projection, **settings), (64, 64)))
        for projection in (False, True)
    )
    assert len(without) > 50
    assert having == without


@pytest.fixture(scope="module")
def onnx_session(checkpoint):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"exporting to ONNX needs {package}, of pixcon[onnx]")
    runtime = pytest.importorskip("onnxruntime", reason="running ONNX needs onnxruntime, of pixcon[onnx]")
    exported = export(checkpoint, "onnx")
    assert exported.file == checkpoint.parent / "model.onnx"
    return runtime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("shape", SIZES)
def test_onnx_gives_the_logits_of_the_segmentor(checkpoint, onnx_session, shape):
    images = torch.rand(shape)
    (logits,) = onnx_session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected(checkpoint, images), rtol=0, atol=1e-4)


def test_onnx_says_what_goes_in_and_comes_out(onnx_session):
    check_description(json.loads(onnx_session.get_modelmeta().custom_metadata_map[METADATA]))


def test_without_its_packages_onnx_names_the_command_that_installs_them(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = error_of(["--checkpoint", str(checkpoint), "--format", "onnx"], capsys)
    assert "pip install 'pixcon[onnx]'" in message


def test_the_last_line_is_the_path(checkpoint, tmp_path, capsys):
    file = tmp_path / "model.pt2"
    file.write_bytes(b"an older one")
    main(["--checkpoint", str(checkpoint), "--out", str(file), "--size", "64", "64"])
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    torch.export.load(file)


def test_logits_that_differ_leave_no_file(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.export.TOLERANCE", -1.0)
    message = error_of(
        ["--checkpoint", str(checkpoint), "--size", "64", "64", "--out", str(tmp_path / "a.pt2")], capsys
    )
    assert "differ" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damaged", ["meta.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(checkpoint, tmp_path, damaged, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:100])
    assert str(folder) in error_of(["--checkpoint", str(folder)], capsys)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--checkpoint {tmp}", "is not a checkpoint"),
        ("--checkpoint {checkpoint} --format tflite", "--format"),
        ("--checkpoint {checkpoint} --out {tmp}", "is a folder"),
        ("--checkpoint {checkpoint} --out {checkpoint}/meta.json/model.pt2", "cannot be written"),
        ("--checkpoint {checkpoint} --size 0 64", "--size must be"),
        ("", "--checkpoint"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error(checkpoint, tmp_path, arguments, message, capsys):
    given = arguments.format(tmp=tmp_path, checkpoint=checkpoint).split()
    assert message in error_of(given, capsys)
