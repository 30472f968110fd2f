"""Checkpoints that are damaged, or of another model or run: one line that names the file, before training."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.ingest import Batch
from pipeline.prepare import RowGroup, Shards, Split
from pipeline.train import Job, Worker, train
from pipeline.training.checkpoint import CheckpointError, load_segmentor, load_weights
from pixcon_core.config import ContrastConfig, ModelConfig, RunConfig, TrainConfig
from pixcon_core.models import build_segmentor

CLASSES = ("sky", "road", "car")
MODEL = ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16, projection_dim=16)
CONFIG = RunConfig(
    model=MODEL,
    contrast=ContrastConfig(memory_size=20, max_anchors=64, warmup_steps=0),
    train=TrainConfig(steps=2, batch_size=2, checkpoint_every=1),
)


def job(classes=CLASSES, **changes):
    config = dataclasses.replace(
        CONFIG,
        **{name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in changes.items()},
    )
    split = Split((RowGroup("train-00000.parquet", 0, 8),), (400, 300, 20)[: len(classes)])
    palette = ((0, 0, 0),) * len(classes)
    return Job(config, Shards("nowhere", "test", classes, palette, {"train": split}, ()))


def run(job, start, folder=None):
    """Train for the steps that are left; keep the checkpoints in a folder."""

    def batches(first):
        for step in range(first, job.config.train.steps):
            generator = torch.Generator().manual_seed(step)
            images = torch.randint(256, (2, 64, 64, 3), generator=generator, dtype=torch.uint8)
            yield Batch(images.numpy(), (images[..., 0] % len(job.shards.classes)).numpy())

    steps = []

    def keep(checkpoint):
        steps.append(len(steps) + 1)
        if folder is not None:
            shutil.copytree(checkpoint, folder / str(steps[-1]))

    train(job, Worker(), batches, start=start, put=lambda record: None, keep=keep)
    return steps


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The checkpoint after one of two steps."""
    folder = tmp_path_factory.mktemp("whole")
    run(job(), None, folder)
    return folder / "1"


@pytest.fixture
def folder(first, tmp_path):
    return shutil.copytree(first, tmp_path / "checkpoint")


def resume_error(job, folder):
    with pytest.raises(CheckpointError) as raised:
        run(job, folder)
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith("To begin anew, run without --resume.")
    return message


def change_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


def change_training(folder, **changes):
    training = torch.load(folder / "training.pt", weights_only=True)
    torch.save(training | changes, folder / "training.pt")


def test_a_sound_checkpoint_goes_on(folder):
    assert run(job(), folder) == [1]


@pytest.mark.parametrize("name", ["meta.json", "model.safetensors", "training.pt"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_file_is_named(folder, name, damage):
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"garbage")
    named = f"{folder} is not a checkpoint" if name == "meta.json" else f"{file} cannot be read ("
    assert resume_error(job(), folder).startswith(named)
    if name == "training.pt":
        load_segmentor(folder)  # which does not need it
    else:
        with pytest.raises(CheckpointError) as raised:
            load_segmentor(folder)
        assert str(raised.value).startswith(named)


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of the checkpoint ran",)


def test_a_file_that_would_run_code_is_not_read(folder):
    torch.save({"optimizer": Code()}, folder / "training.pt")
    assert resume_error(job(), folder).startswith(f"{folder / 'training.pt'} cannot be read (")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)], ids=["list", "tensor"])
def test_a_foreign_training_file_is_named(folder, content):
    torch.save(content, folder / "training.pt")
    assert f"{folder / 'training.pt'} must hold a dict" in resume_error(job(), folder)


@pytest.mark.parametrize(
    ("model", "num_classes", "projection", "differing"),
    [
        pytest.param(
            {},
            5,
            False,
            "head.classifier.1.bias is (3,) instead of (5,); head.classifier.1.weight is (3, 16, 1, 1) instead of"
            " (5, 16, 1, 1).",
            id="classes",
        ),
        pytest.param({"projection_dim": 8}, 3, True, "projection.1.bias is (16,) instead of (8,); ", id="projection"),
        pytest.param({"backbone": "resnet14t"}, 3, False, " more.", id="backbone"),
    ],
)
def test_weights_of_another_model_are_told_by_their_first_differences(first, model, num_classes, projection, differing):
    other = build_segmentor(dataclasses.replace(MODEL, **model), num_classes, projection=projection)
    with pytest.raises(CheckpointError) as raised:
        load_weights(first, other)
    message = str(raised.value)
    assert message.startswith(f"{first / 'model.safetensors'} does not fit the model: ")
    assert differing in message
    assert "must be those of meta.json beside it" in message
    assert "\n" not in message


@pytest.mark.parametrize("what", ["missing", "unknown"])
def test_keys_too_few_or_too_many_are_named(folder, what):
    file = folder / "model.safetensors"
    weights = load_file(file)
    if what == "missing":
        weights = {name: value for name, value in weights.items() if not name.startswith("projection.")}
    else:
        weights["other.weight"] = torch.zeros(1)
    save_file(weights, file)
    wanted = "projection.0.0.weight is missing; " if what == "missing" else "does not fit the model: other.weight is"
    assert wanted in resume_error(job(), folder)


def test_meta_of_other_classes_does_not_fit_the_weights(folder):
    change_meta(folder, classes=["a"], palette=[[0, 0, 0]])
    with pytest.raises(CheckpointError, match=r"head\.classifier\.1\.bias is \(3,\) instead of \(1,\)"):
        load_segmentor(folder)


def test_classes_that_differ_from_the_data_sets_end_a_resume(folder):
    message = resume_error(job(classes=("sky", "street", "car")), folder)
    assert message.startswith(f"{folder} is of a run with the classes ('sky', 'road', 'car'), and this one has ('sky',")


def test_another_optimiser_ends_a_resume(folder):
    message = resume_error(job(train={"optimizer": "sgd"}), folder)
    assert "with train.optimizer adamw, and this one has sgd." in message


def test_optimiser_groups_that_do_not_fit_end_a_resume(folder):
    optimizer = torch.load(folder / "training.pt", weights_only=True)["optimizer"]
    optimizer["param_groups"][0]["params"] = optimizer["param_groups"][0]["params"][1:]
    change_training(folder, optimizer=optimizer)
    message = resume_error(job(), folder)
    assert message.startswith(f"{folder / 'training.pt'} does not fit these settings: loaded state dict contains")


@pytest.mark.parametrize("value", [{}, None, 3], ids=["empty", "none", "number"])
def test_a_contrast_memory_that_does_not_fit_ends_a_resume(folder, value):
    change_training(folder, contrast=value)
    message = resume_error(job(), folder)
    assert message.startswith(f"{folder / 'training.pt'} ")
    assert ("lacks contrast, which these settings take" if value is None else "does not fit these settings") in message


def test_averaged_weights_that_are_not_there_end_a_resume(folder):
    assert "lacks segmentor" in resume_error(job(train={"ema_decay": 0.9}), folder)
