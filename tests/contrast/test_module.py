"""`PixelContrast` as a training loop meets it."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from pixcon_core.contrast import PixelContrast
from pixcon_core.contrast.labels import resize_nearest


@pytest.fixture
def inputs():
    return torch.randn(2, 8, 8, 8, requires_grad=True), torch.randint(4, (2, 32, 32)), torch.randn(2, 4, 8, 8)


def make(**settings):
    return PixelContrast(4, 8, **({"warmup_steps": 0, "memory_size": 20} | settings))


def test_defaults_are_the_papers():
    module = PixelContrast(19, 256)
    assert module.memory.keys.shape == (19, 2, 5000, 256)
    assert (module.settings.max_anchors, module.settings.max_views) == (1024, 100)
    assert (module.settings.num_positives, module.settings.num_negatives) == (1024, 2048)
    assert module.settings.warmup_steps == 5000
    assert module.temperature.item() == pytest.approx(0.1)


def test_eval_computes_the_loss_and_changes_nothing(inputs):
    module = make(warmup_steps=3)
    module(*inputs)
    before = copy.deepcopy(module.state_dict())
    module.eval()
    assert module(*inputs).loss.item() > 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        assert not module(*inputs).loss.requires_grad


@pytest.mark.parametrize("label_mode", ["nearest", "majority"])
def test_an_ignored_label_among_the_class_ids_is_no_class(inputs, label_mode):
    embeddings, labels, logits = inputs
    as_void = torch.where(labels == 2, 255, labels)
    got, want = (make(ignore_index=ignored, label_mode=label_mode, min_share=0.3) for ignored in (2, 255))
    for _ in range(2):  # the second time with what the first has stored
        loss = got(embeddings, labels, logits).loss
        assert torch.equal(loss, want(embeddings, as_void, logits).loss)
        assert loss > 0
    assert torch.equal(got.memory.written, want.memory.written)
    assert got.memory.written[2].sum() == 0


@pytest.mark.parametrize("predictions", ["ids", "logits", "large logits"])
def test_predictions_decide_which_anchors_are_hard(inputs, predictions):
    embeddings, labels, _ = inputs
    ids = resize_nearest(labels, (8, 8))
    ids[..., ::2] = (ids[..., ::2] + 1) % 4
    logits = torch.nn.functional.one_hot(ids, 4).permute(0, 3, 1, 2).float()
    given = {
        "ids": ids,
        "logits": logits,
        "large logits": logits.repeat_interleave(4, 2).repeat_interleave(4, 3),
    }
    for ratio in (0.0, 0.5, 1.0):
        module = make(max_views=2, hard_anchor_ratio=ratio)
        share = module(embeddings, labels, given[predictions]).stats.hard_share.item()
        assert share == pytest.approx(ratio)


def test_the_same_seed_gives_the_same_result_and_another_another(inputs):
    losses = [make(seed=seed, max_anchors=20)(*inputs).loss.item() for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_a_generator_decides_all_draws(inputs):
    module = make(seed=0, max_anchors=20, keys="batch")
    losses = [module(*inputs, generator=torch.Generator().manual_seed(seed)).loss.item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_steps_differ_in_their_draws(inputs):
    module = make(max_anchors=20, keys="batch")
    assert module(*inputs).loss.item() != module(*inputs).loss.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_that_of_float32(inputs, dtype):
    embeddings, labels, logits = inputs
    embeddings = embeddings.detach().to(dtype)
    expected = make()(embeddings.float(), labels, logits).loss
    embeddings.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        module = make()
        loss = module(embeddings, labels, logits.to(dtype)).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert embeddings.grad.dtype == dtype
    assert embeddings.grad.abs().sum() > 0
    assert module.memory.keys.dtype == torch.float32


def test_channels_last_embeddings_give_the_same(inputs):
    embeddings, labels, logits = inputs
    other = embeddings.detach().to(memory_format=torch.channels_last).requires_grad_()
    outputs = [make()(x, labels, logits).loss for x in (embeddings, other)]
    for loss in outputs:
        loss.backward()
    assert outputs[0].item() == pytest.approx(outputs[1].item())
    torch.testing.assert_close(embeddings.grad, other.grad)


def test_the_state_survives_both_file_formats(inputs):
    module = make(learnable_temperature=True, seed=7)
    module(*inputs)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    expected = copy.deepcopy(module)(*inputs).loss.item()
    for state in (load(save(module.state_dict())), torch.load(buffer, weights_only=True)):
        again = make(learnable_temperature=True)
        again.load_state_dict(state)
        assert again(*inputs).loss.item() == expected


def test_the_state_loads_into_another_memory_size(inputs):
    module = make()
    module(*inputs)
    smaller = make(memory_size=3)
    smaller.load_state_dict(module.state_dict())
    assert smaller.memory.written.max() == 3
    assert smaller.step.item() == 1
    assert smaller(*inputs).loss.isfinite()


def test_a_sample_of_the_keys_stands_for_all(inputs):
    """The exact hardest tenth and that of a sample are near each other where keys are many."""
    embeddings, labels = torch.randn(2, 8, 16, 16), torch.randint(4, (2, 16, 16))
    losses = []
    for num_candidates in (None, 1000):
        module = make(
            memory_size=2000,
            pixels_per_class=2000,
            keys="pixel",
            num_candidates=num_candidates,
            num_negatives=70,
            num_positives=70,
            hard_anchor_ratio=None,
            max_anchors=64,
        )
        for seed in range(12):
            torch.manual_seed(seed)
            module(torch.randn(2, 8, 16, 16), torch.randint(4, (2, 16, 16)))
        assert module.memory.written.sum() > 5000
        out = module(embeddings, labels)
        assert out.stats.negatives.item() == 70
        losses.append(out.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "contrast.temperature must be > 0"),
        ({"memory_size": 0}, "contrast.keys=batch"),
        ({"max_anchors": 0}, "contrast.max_anchors must be >= 1"),
        ({"hard_anchor_ratio": 1.5}, "contrast.hard_anchor_ratio must be in"),
        ({"num_candidates": 0}, "num_candidates must be >= 1"),
        ({"min_share": 2.0}, "min_share must be in"),
        ({"num_negatives": 0}, "contrast.num_negatives must be >= 1"),
        ({"memory_dtype": torch.int8}, "memory_dtype must be of floats"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("num_classes", "dim", "message"),
    [(1, 8, "num_classes must be >= 2, but got 1: .* no negatives"), (4, 0, "dim must be >= 1, but got 0")],
)
def test_sizes_with_which_there_is_nothing_to_contrast_are_refused(num_classes, dim, message):
    with pytest.raises(ValueError, match=message):
        PixelContrast(num_classes, dim)


def test_wrong_inputs_are_named(inputs):
    embeddings, labels, logits = inputs
    module = make()
    with pytest.raises(ValueError, match="dim=8 channels, but got 5"):
        module(embeddings[:, :5], labels, logits)
    with pytest.raises(ValueError, match=r"predictions must be given.* set hard_anchor_ratio=None"):
        module(embeddings, labels)
    for mode in ("nearest", "majority"):
        with pytest.raises(ValueError, match="ignore_index=255, but got 9"):
            make(label_mode=mode)(embeddings, labels + (labels == 3) * 6, logits)
    for wrong, message in [
        (
            (embeddings[0], labels, logits),
            r"embeddings must be floats \(.*\), but got float32 \(8, 8, 8\)",
        ),
        ((embeddings[:0], labels[:0], logits[:0]), "embeddings must be of at least one image"),
        ((embeddings, labels[:, None], logits), r"labels must be integers .* but got int64 \(2, 1, 32, 32\)"),
        ((embeddings, labels.float(), logits), "labels must be integers .* but got float32"),
        ((embeddings, labels, logits.argmax(1, keepdim=True)), r"predictions must be .* but got int64 \(2, 1, 8, 8\)"),
        ((embeddings, labels, logits[:, :3]), "predictions must be logits, floats .batch, 4 or more classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            module._check_inputs(*wrong)  # from outside, beartype is first, in tests alone


def test_a_model_in_channels_last_keeps_the_order_of_its_keys(inputs):
    module, plain = make(), make()
    torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), module).to(memory_format=torch.channels_last)
    for _ in range(2):
        loss, expected = module(*inputs).loss, plain(*inputs).loss
    assert torch.equal(loss, expected)


def test_its_settings_are_printed_and_no_weight_which_is_the_callers():
    text = repr(make(ignore_index=0, num_candidates=77))
    for part in ("num_classes=4", "ignore_index=0", "num_candidates=77", "temperature=0.1"):
        assert part in text
    assert "weight" not in text


COMPILED = """
import torch
from pixcon_core.contrast import PixelContrast

torch.manual_seed(0)
settings = dict(warmup_steps=1, memory_size=20, max_anchors=40, num_positives=3, num_negatives=5)
eager, other = PixelContrast(4, 8, **settings), PixelContrast(4, 8, **settings)
compiled = torch.compile(other, backend="aot_eager")
for step in range(4):
    grads, losses = [], []
    for module in (eager, compiled):
        torch.manual_seed(step)
        x = torch.randn(2, 8, 8, 8, requires_grad=True)
        loss = module(x, torch.randint(4, (2, 16, 16)), torch.randn(2, 4, 8, 8)).loss
        loss.backward()
        grads.append(x.grad)
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) <= 1e-5 * losses[0], losses
    torch.testing.assert_close(*grads)
for name, value in eager.state_dict().items():
    torch.testing.assert_close(value, other.state_dict()[name])

counters = torch._dynamo.utils.counters
breaks = {reason.splitlines()[0]: count for reason, count in counters["graph_break"].items()}
print("graph breaks:", sum(breaks.values()), breaks)
print("graphs:", counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_compiled_it_does_the_same_with_one_graph_break_before_the_work():
    """In a process of its own: run-time type checks of the other tests are not part of the program."""
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "graph breaks: 1 " in run.stdout, run.stdout
