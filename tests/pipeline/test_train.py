"""The training loop itself, in this process and without Ray."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import Run, batches

from pipeline.prepare import RowGroup, Shards, Split
from pipeline.train import DivergedError, Job, _gradients, set_up
from pipeline.training.checkpoint import load_segmentor, load_training
from pipeline.training.model import TrainedModel
from pipeline.training.optimization import autocast_type, computes_in_bfloat16, lr_factor, parameter_groups
from pixcon_core.config import ContrastConfig, ModelConfig, RunConfig, TrainConfig

CLASSES = ("sky", "road", "car")
CONFIG = RunConfig(
    model=ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16, projection_dim=16),
    contrast=ContrastConfig(memory_size=20, max_anchors=64, warmup_steps=2),
    train=TrainConfig(steps=8, batch_size=2, log_every=2, checkpoint_every=3),
)


def job(**changes):
    config = dataclasses.replace(
        CONFIG,
        **{name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in changes.items()},
    )
    split = Split((RowGroup("train-00000.parquet", 0, 8),), (400, 300, 20))
    return Job(config, Shards("nowhere", "test", CLASSES, ((0, 0, 0),) * 3, {"train": split}, ()))


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole")).start(job())


def test_threads_are_the_cores_shared_out_and_no_more_than_openmp_may_have(monkeypatch):
    # With more, a convolution never ends: oneDNN waits for threads that there are not.
    monkeypatch.setattr("pipeline.train.num_cores", lambda: 8)
    counts = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts[-1])
    watched = []
    monkeypatch.setattr("pipeline.train.wait_long_while_alone", watched.append)
    for limit in (None, "3", "16"):
        monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
        if limit is not None:
            monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
        for num_sharing in (1, 2, 16):
            set_up(torch.device("cpu"), num_sharing)
    assert counts == watched == [8, 4, 1, 3, 3, 1, 8, 4, 1]


def test_it_reports_metrics_and_keeps_checkpoints_when_it_should(whole):
    assert [record["step"] for record in whole.records] == [2, 3, 4, 6, 8]
    assert whole.kept == [3, 6, 8]
    last = whole.records[-1]
    assert last["loss"] == pytest.approx(last["cross_entropy"] + 0.1 * last["contrast"], rel=1e-5)
    assert last["contrast"] > 0
    assert last["contrast/anchors"] > 10
    assert 0 <= last["data_wait"] <= 1
    assert last["images_per_second"] > 0


def test_contrast_begins_after_warm_up(whole):
    assert whole.records[0]["contrast"] == 0
    assert all(record["contrast"] > 0 for record in whole.records[1:])


@pytest.mark.slow
def test_it_learns(tmp_path):
    longer = job(train={"steps": 60, "checkpoint_every": 60, "lr": 1e-2})
    records = Run(tmp_path).start(longer, source=lambda first: batches(first, 60)).records
    assert records[-1]["cross_entropy"] < 0.5 * records[0]["cross_entropy"]


@pytest.mark.parametrize("step", [3, 6])
def test_going_on_from_a_checkpoint_ends_with_the_same_bits(whole, tmp_path, step):
    resumed = Run(tmp_path).start(job(), start=whole.folder / str(step))
    weights = [(run.folder / "8" / "model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]
    again = [record for record in whole.records if step - 3 < record["step"] <= step]
    assert resumed.records[: len(again)] == again  # whoever takes them may have been killed
    first, second = (load_training(run.folder / "8") for run in (whole, resumed))
    assert same(first["optimizer"], second["optimizer"])
    assert same(first["contrast"], second["contrast"])
    assert first["clock"]["images"] > 0


def test_a_finished_checkpoint_leaves_nothing_to_do(whole, tmp_path):
    resumed = Run(tmp_path).start(job(), start=whole.folder / "8", source=lambda first: batches(first))
    assert resumed.records == whole.records[-1:]  # those since the checkpoint before, which may not have been written
    assert resumed.kept == []


def test_another_seed_gives_another_model(whole, tmp_path):
    other = Job(dataclasses.replace(job().config, seed=1), job().shards)
    Run(tmp_path).start(other)
    first, second = (folder / "8" / "model.safetensors" for folder in (whole.folder, tmp_path))
    assert first.read_bytes() != second.read_bytes()


def test_without_contrast_there_is_no_projection_head_and_no_memory(tmp_path):
    run = Run(tmp_path).start(job(contrast={"weight": 0.0}))
    assert "contrast" not in run.records[-1]
    assert load_training(tmp_path / "8")["contrast"] is None
    model = TrainedModel(job(contrast={"weight": 0.0}).config, (1, 1, 1))
    assert model.segmentor.projection is None
    assert model.contrast is None


def test_a_checkpoint_gives_a_segmentor_without_projection_head(whole):
    loaded = load_segmentor(whole.folder / "8")
    assert loaded.model.projection is None
    assert not loaded.model.training
    assert loaded.meta.classes == CLASSES
    assert loaded.meta.config == job().config
    assert loaded.model(torch.zeros(1, 3, 64, 64)).logits.shape[1] == 3


def test_a_loss_that_is_no_number_ends_the_run_with_a_way_out_and_no_checkpoint_of_it(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(DivergedError, match=r"not a finite number at step \d+ .*train\.lr"):
        run.start(job(train={"lr": 1e30, "precision": "float32"}))
    for folder in tmp_path.iterdir():
        weights = load_segmentor(folder).model.state_dict().values()
        assert all(tensor.isfinite().all() for tensor in weights)


def test_checkpoints_hold_nothing_that_is_code(whole):
    folder = whole.folder / "8"
    assert sorted(file.name for file in folder.iterdir()) == ["meta.json", "model.safetensors", "training.pt"]
    json.loads((folder / "meta.json").read_text())
    torch.load(folder / "training.pt", weights_only=True)


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path):
    # Without batch norm, dropout and contrast, a step in two parts is a step: each part has as many labelled pixels.
    config = job(contrast={"weight": 0.0}, train={"class_weights": "none", "precision": "float32"}).config
    torch.manual_seed(0)
    model = TrainedModel(config, (1, 1, 1)).eval()
    images, labels = (torch.from_numpy(part) for part in next(iter(batches(0))))
    gradients = []
    for parts in (1, 2):
        model.zero_grad()
        settings = dataclasses.replace(config.train, accumulate=parts)
        losses = list(_gradients(model, images, labels, settings, torch.amp.GradScaler("cpu", enabled=False)))
        assert len(losses) == parts
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert max(float(g.abs().max()) for g in gradients[0]) > 1e-3
    for whole, added in zip(*gradients, strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"ema_decay": 0.5}, {"precision": "float16"}], ids=str)
def test_going_on_gives_the_same_bits_with_any_setting(tmp_path, changes):
    first, second = (Run(tmp_path / name) for name in ("whole", "resumed"))
    for run in (first, second):
        run.folder.mkdir()
    first.start(job(train=changes))
    second.start(job(train=changes), start=first.folder / "3")
    paths = [run.folder / "8" for run in (first, second)]
    assert (paths[0] / "model.safetensors").read_bytes() == (paths[1] / "model.safetensors").read_bytes()
    stored = [load_training(path) for path in paths]
    for name in ("optimizer", "scaler", "contrast", "segmentor"):
        assert same(stored[0][name], stored[1][name])


def test_contrast_begins_after_as_many_steps_when_they_come_in_parts(tmp_path):
    run = Run(tmp_path).start(job(train={"accumulate": 2}))
    assert run.records[0]["contrast"] == 0
    assert all(record["contrast"] > 0 for record in run.records[1:])


@pytest.mark.slow
def test_averaged_weights_are_what_the_formula_says(tmp_path):
    decay, every = 0.5, {"checkpoint_every": 1, "steps": 4}
    source = lambda first: batches(first, 4)  # noqa: E731
    plain = Run(tmp_path / "plain")
    averaged = Run(tmp_path / "averaged")
    for run, more in ((plain, {}), (averaged, {"ema_decay": decay})):
        run.folder.mkdir()
        run.start(job(train=every | more), source=source)
    torch.manual_seed(0)
    expected = TrainedModel(job().config, (400, 300, 20)).segmentor.state_dict()
    for step in range(1, 5):
        live = load_file(plain.folder / str(step) / "model.safetensors")
        for name, value in live.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    stored = load_file(averaged.folder / "4" / "model.safetensors")
    for name, value in stored.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    # What is trained is not the average.
    live = load_training(averaged.folder / "4")["segmentor"]
    assert same(dict(live), dict(load_file(plain.folder / "4" / "model.safetensors")))


@pytest.mark.slow
def test_float16_scales_the_loss_and_trains(tmp_path):
    run = Run(tmp_path).start(job(train={"precision": "float16", "steps": 8, "log_every": 8}))
    stored = load_training(tmp_path / "8")["scaler"]
    assert stored["scale"] > 1
    exact = Run(tmp_path / "float32")
    exact.folder.mkdir()
    exact.start(job(train={"precision": "float32", "steps": 8, "log_every": 8}))
    assert run.records[-1]["cross_entropy"] == pytest.approx(exact.records[-1]["cross_entropy"], rel=0.1)


def test_precision_is_chosen_by_the_device():
    cpu = torch.device("cpu")
    assert autocast_type(TrainConfig(precision="float32"), cpu) is None
    assert autocast_type(TrainConfig(precision="float16"), cpu) is torch.float16
    assert autocast_type(TrainConfig(precision="bfloat16"), cpu) is torch.bfloat16
    assert autocast_type(TrainConfig(), cpu) is (torch.bfloat16 if computes_in_bfloat16(cpu) else None)


def test_class_weights_and_mining_reach_the_loss():
    images, labels = (torch.from_numpy(part) for part in next(iter(batches(0))))
    losses = {}
    for name, changes in {
        "plain": {"class_weights": "none"},
        "given": {"class_weights": (0.0, 0.0, 5.0)},
        "mined": {"class_weights": "none", "ohem_threshold": 0.9, "ohem_min_kept": 50},
    }.items():
        torch.manual_seed(0)
        model = TrainedModel(job(contrast={"weight": 0.0}, train=changes).config, (400, 300, 20)).eval()
        losses[name] = model(images, labels).cross_entropy.item()
        if name == "given":
            only = torch.where(labels == 2, labels, 255)
            assert losses[name] == pytest.approx(model(images, only).cross_entropy.item(), rel=1e-5)
    assert losses["given"] != pytest.approx(losses["plain"], rel=1e-3)
    assert losses["mined"] >= losses["plain"]


@pytest.mark.slow
@pytest.mark.soak
def test_a_compiled_segmentor_learns_the_same(tmp_path):
    short = {"steps": 3, "log_every": 1, "checkpoint_every": 3}
    runs = [Run(tmp_path / name) for name in ("plain", "compiled")]
    for run, compiled in zip(runs, (False, True), strict=True):
        run.folder.mkdir()
        run.start(job(train=short | {"compile": compiled}), source=lambda first: batches(first, 3))
    for plain, compiled in zip(*(run.records for run in runs), strict=True):
        assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-2)
    first, second = (load_file(run.folder / "3" / "model.safetensors") for run in runs)
    assert first.keys() == second.keys()


def test_the_learning_rate_falls_as_in_the_paper_after_a_linear_rise():
    config = TrainConfig(steps=100)
    for step in (0, 1, 50, 99):
        assert lr_factor(step, config) == pytest.approx((1 - step / 100) ** 0.9)
    rising = TrainConfig(steps=100, lr_warmup_steps=9)
    assert lr_factor(0, rising) == pytest.approx(0.1)
    assert lr_factor(4, rising) == pytest.approx(0.5 * (1 - 4 / 100) ** 0.9)
    assert lr_factor(9, rising) == pytest.approx((1 - 9 / 100) ** 0.9)


def test_parameters_have_the_learning_rate_and_decay_of_their_kind():
    config = job(train={"lr": 0.01, "head_lr_factor": 10.0, "weight_decay": 0.1}).config
    model = TrainedModel(config, (1, 1, 1))
    groups = parameter_groups(model, config.train)
    named = {id(p): name for name, p in model.named_parameters()}
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(named)
    for group in groups:
        for parameter in group["params"]:
            in_backbone = named[id(parameter)].startswith("segmentor.backbone.")
            assert group["base_lr"] == pytest.approx(0.01 if in_backbone else 0.1)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
