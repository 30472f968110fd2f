"""The contrast on a GPU: as on a CPU, and without a wait. Most of it is skipped where there is none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from contrast.reference import reference
from pixcon_core.contrast import PixelContrast

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda")
SAMPLINGS = [("random", 30, 60), ("hardest", 30, 60), ("semi_hard", 30, 60), ("semi_hard", None, None)]


@pytest.fixture(autouse=True)
def _precise():
    """Products in full float32, whatever was set before; seeded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    yield
    torch.set_float32_matmul_precision(before)


def made(num_classes=5, dim=16, **settings):
    return PixelContrast(num_classes, dim, **({"warmup_steps": 0, "memory_size": 100, "max_anchors": 256} | settings))


def blobs(num_classes=5, dim=16, cells=6, cell=8):
    """Embeddings that lean towards their class, labels at twice their size with some ignored, and logits."""
    size = cells * cell
    labels = torch.randint(num_classes, (2, cells, cells)).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    centres = torch.randn(num_classes, dim, dtype=torch.float64)
    embeddings = centres[labels].permute(0, 3, 1, 2) + torch.randn(2, dim, size, size, dtype=torch.float64)
    full = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    full[:, :9] = 255
    logits = F.one_hot(labels, num_classes).permute(0, 3, 1, 2) + torch.randn(2, num_classes, size, size)
    return embeddings.float(), full, logits


@pytest.mark.parametrize("keys", ["batch", "pixel+region"])
@pytest.mark.parametrize("label_mode", ["nearest", "majority"])
@pytest.mark.parametrize(("key_sampling", "positives", "negatives"), SAMPLINGS)
def test_nothing_on_a_gpu_depends_on_a_value(keys, label_mode, key_sampling, positives, negatives):
    """Such a tensor has a device and a shape and no content: what would wait for it, or mix it with a CPU's, raises."""
    with FakeTensorMode():
        module = made(
            keys=keys,
            label_mode=label_mode,
            key_sampling=key_sampling,
            num_positives=positives,
            num_negatives=negatives,
            num_candidates=100,
        ).to(GPU)
        module._is_warm = True  # the one look, after which it is known
        embeddings = torch.randn(2, 16, 48, 48, device=GPU)
        labels, logits = torch.randint(5, (2, 96, 96), device=GPU), torch.randn(2, 5, 48, 48, device=GPU)
        loss, stats = module(embeddings, labels, logits)
        assert {tensor.device.type for tensor in (loss, *stats, *module.state_dict().values())} == {"cuda"}
        with pytest.raises(DataDependentOutputException):
            loss.item()


@needs_gpu
@pytest.mark.parametrize("keys", ["batch", "pixel", "pixel+region"])
@pytest.mark.parametrize(("key_sampling", "positives", "negatives"), SAMPLINGS)
def test_contrast_is_that_of_the_cpu(keys, key_sampling, positives, negatives):
    module = made(keys=keys, key_sampling=key_sampling, num_positives=positives, num_negatives=negatives)
    modules = module, copy.deepcopy(module).to(GPU)
    for step in range(4):
        torch.manual_seed(step)
        given, found = blobs(), []
        for module in modules:
            embeddings, labels, logits = (tensor.detach().to(module.step.device) for tensor in given)
            embeddings.requires_grad_()
            loss, stats = module(embeddings, labels, logits)
            loss.backward()
            found.append((loss.detach(), embeddings.grad, torch.stack([value.float() for value in stats])))
        for here, there in zip(*found, strict=True):
            torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)
    for (name, here), there in zip(modules[0].state_dict().items(), modules[1].state_dict().values(), strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6, msg=name)


@needs_gpu
def test_contrast_is_that_of_the_formula():
    module = made(
        num_classes=3,
        dim=4,
        keys="pixel+region",
        key_sampling="hardest",
        num_positives=20,
        num_negatives=40,
        max_anchors=10_000,
        max_views=10_000,
        hard_anchor_ratio=None,
        pixels_per_class=100,
        memory_dtype=torch.float64,
    ).to(GPU)

    def batch():
        embeddings = torch.randn(2, 4, 4, 5, dtype=torch.float64, device=GPU)
        return embeddings, torch.randint(3, (2, 4, 5), device=GPU)

    for _ in range(2):
        module(*batch())
    filled = module.memory.is_filled()
    stored = module.memory.keys[filled].tolist()
    stored_labels = torch.arange(3, device=GPU)[:, None, None].expand(filled.shape)[filled].tolist()
    embeddings, labels = batch()
    loss = module(embeddings, labels).loss
    rows = embeddings.permute(0, 2, 3, 1).flatten(0, 2).tolist()
    expected = reference(
        rows, labels.flatten().tolist(), stored, stored_labels, 0.1, positives=20, negatives=40, key_sampling="hardest"
    )
    assert loss.item() == pytest.approx(expected[0], rel=1e-6)


@needs_gpu
@pytest.mark.parametrize("key_sampling", ["random", "hardest", "semi_hard"])
@pytest.mark.parametrize("label_mode", ["nearest", "majority"])
def test_contrast_never_waits_for_the_gpu(key_sampling, label_mode):
    module = made(key_sampling=key_sampling, label_mode=label_mode, num_positives=30, num_negatives=60).to(GPU)
    embeddings, labels, logits = (tensor.to(GPU) for tensor in blobs())
    embeddings.requires_grad_()
    module(embeddings, labels, logits).loss.backward()  # the first step looks up whether warm-up is over
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(embeddings, labels, logits).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(embeddings.grad).all()


@needs_gpu
def test_labels_that_are_no_classes_are_ignored():
    module = made().to(GPU)
    embeddings, labels, logits = (tensor.to(GPU) for tensor in blobs())
    expected = module.eval()(embeddings, labels, logits).loss
    strange = torch.where(labels == 255, 77, labels)
    assert torch.equal(module(embeddings, strange, logits).loss, expected)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_of_16_bits_come_close_to_those_of_32(dtype):
    embeddings, labels = (tensor.to(GPU) for tensor in blobs()[:2])
    module = made(hard_anchor_ratio=None).to(GPU).eval()
    with torch.autocast("cuda", dtype=dtype):
        loss = module(embeddings.to(dtype), labels).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(module(embeddings, labels).loss.item(), rel=2e-2)
