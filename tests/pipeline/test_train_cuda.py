"""Training on a GPU: every precision, checkpoints, and the memory it takes. Most is skipped where there is none."""

import pytest
import torch
from tiny_training import Run, batches
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.estimating.estimate import estimate
from pipeline.options import parse
from pipeline.prepare import RowGroup, Shards, Split
from pipeline.train import Job, Worker, set_up
from pipeline.training.checkpoint import load_segmentor
from pipeline.training.model import TrainedModel
from pipeline.training.optimization import autocast, build_optimizer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda")
WORKER = Worker(device=GPU)


def job(*more):
    """Eight short steps of a small network."""
    arguments = "--model.backbone resnet10t --model.pretrained false --model.head_channels 16"
    arguments += " --model.projection_dim 16 --contrast.memory_size 20 --contrast.max_anchors 64"
    arguments += " --contrast.warmup_steps 2 --train.batch_size 2 --train.log_every 2 --train.checkpoint_every 3"
    config = parse([*arguments.split(), "--train.steps", "8", *more]).config
    split = Split((RowGroup("train-00000.parquet", 0, 8),), (400, 300, 20))
    shards = Shards("nowhere", "test", ("sky", "road", "car"), ((0, 0, 0),) * 3, {"train": split}, ())
    return Job(config, shards)


@pytest.mark.parametrize(
    "arguments",
    [
        "--preset mini-camvid",
        "--preset mini-camvid --model.head deeplabv3 --train.ohem_threshold 0.7 --train.ohem_min_kept 100",
        "--preset mini-camvid --model.head ocr --model.backbone hrnet_w18_small --train.class_weights none",
    ],
)
def test_no_loss_on_a_gpu_depends_on_a_value(arguments):
    """Such a tensor has a device and a shape and no content: what would wait for it, or mix it with a CPU's, raises."""
    config = parse(arguments.split()).config
    TrainedModel(config, (1,) * 11)  # timm's own account of the backbone is kept from here on
    with FakeTensorMode(), GPU:
        model = TrainedModel(config, (1000,) * 11).train()
        model.contrast._is_warm = True
        images = torch.randint(256, (2, 64, 64, 3)).to(torch.uint8)
        losses = model(images, torch.randint(11, (2, 64, 64)).to(torch.uint8))
    assert {loss.device.type for loss in losses[:3]} == {"cuda"}


@needs_gpu
@pytest.mark.parametrize("precision", ["auto", "float32", "float16", "bfloat16"])
def test_a_network_trains_and_its_checkpoint_predicts_on_a_cpu(tmp_path, precision):
    run = Run(tmp_path, WORKER).start(job("--train.precision", precision))
    assert [record["step"] for record in run.records] == [2, 3, 4, 6, 8]
    assert run.records[-1]["contrast"] > 0
    model = load_segmentor(tmp_path / "8").model
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    images = torch.from_numpy(next(batches(0)).images).permute(0, 3, 1, 2).float() / 255 - 0.5
    with torch.inference_mode():
        here = model(images).logits
        there = model.to(GPU)(images.to(GPU)).logits
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_going_on_from_a_checkpoint_ends_where_the_whole_run_does(tmp_path, precision):
    folders = tmp_path / "whole", tmp_path / "resumed"
    for folder in folders:
        folder.mkdir()
    given = job("--train.precision", precision)
    whole = Run(folders[0], WORKER).start(given)
    resumed = Run(folders[1], WORKER).start(given, start=folders[0] / "6")
    # A GPU adds up in any order: close, and not the same bits.
    for name in ("loss", "cross_entropy", "contrast"):
        assert resumed.records[-1][name] == pytest.approx(whole.records[-1][name], rel=2e-2), name


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "--preset mini-camvid",
        "--preset camvid-lite --model.pretrained false --contrast.warmup_steps 0",
        "--preset cityscapes-deeplabv3-r101 --model.pretrained false --ingest.crop 256 512",
        "--preset cityscapes-hrnet-w48 --model.pretrained false --ingest.crop 256 512 --train.precision float32",
    ],
)
def test_memory_is_what_the_dry_run_says(arguments):
    request = parse([*arguments.split(), "--train.batch_size", "4"])
    found, config = estimate(request), request.config
    set_up(GPU, 1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = TrainedModel(config, (1,) * found.classes).to(GPU).train()
    model.segmentor.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.train)
    model.contrast._is_warm = True
    height, width = config.ingest.crop
    images = torch.randint(256, (4, height, width, 3), dtype=torch.uint8, device=GPU)
    cells = torch.randint(found.classes, (4, -(-height // 32), -(-width // 32)), dtype=torch.uint8, device=GPU)
    labels = cells.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, :height, :width].contiguous()
    for _ in range(3):
        with autocast(config.train, GPU):
            losses = model(images, labels)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() - before
    print(f"\n{arguments}: {peak / 1e6:.0f} MB, estimated {found.memory.peak / 1e6:.0f}")
    assert found.device == "cuda"
    assert 0.8 < peak / found.memory.peak < 1.25
