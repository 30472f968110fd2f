"""The examples of docs/library.md, on the models they are about."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixcon_core.contrast import PixelContrast


def projection_head(channels, dim=16):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, dim, 1)
    )


def make_contrast():
    return PixelContrast(3, 16, warmup_steps=1, memory_size=20)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


@pytest.fixture
def labels():
    labels = torch.randint(3, (2, 8, 8)).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    labels[:, :3] = 255
    return labels


def graph(model):
    return str(torch.export.export(model.eval(), (torch.randn(1, 3, 64, 64),)).graph)


def train(contrast, project, features, logits, labels):
    """Return the contrast loss of a step, after its backward pass."""
    term = contrast(project(features), labels, logits).loss
    (F.cross_entropy(logits, labels, ignore_index=255) + 0.1 * term).backward()
    return term.item()


@pytest.mark.slow
def test_torchvision_deeplabv3_learns_with_it_and_is_the_same_without_it(images, labels):
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3)
    plain = copy.deepcopy(model)
    project, contrast = projection_head(2048), make_contrast()
    features = {}
    hook = model.backbone.register_forward_hook(lambda module, inputs, output: features.update(output))
    terms = []
    for _ in range(2):
        model.zero_grad()
        logits = model(images)["out"]
        terms.append(train(contrast, project, features["out"], logits, labels))
    assert terms[0] == 0 < terms[1]
    assert project[0].weight.grad.abs().sum() > 0
    with_grad = model.backbone.layer4[2].conv3.weight.grad
    assert with_grad.isfinite().all()

    hook.remove()
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not model.backbone._forward_hooks
    assert graph(model) == graph(plain)


def test_segmentation_models_pytorch(images, labels):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=3)
    expected = graph(copy.deepcopy(model))
    project, contrast = projection_head(model.encoder.out_channels[-1]), make_contrast()
    features = []
    hook = model.encoder.register_forward_hook(lambda module, inputs, output: features.append(output[-1]))
    terms = []
    for _ in range(2):
        logits = model(images)
        terms.append(train(contrast, project, features.pop(), logits, labels))
    assert terms[0] == 0 < terms[1]
    hook.remove()
    assert graph(model) == expected


def test_transformers_segformer(images, labels):
    transformers = pytest.importorskip("transformers")
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=3))
    project, contrast = projection_head(model.config.hidden_sizes[-1]), make_contrast()
    terms = []
    for _ in range(2):
        output = model(pixel_values=images, labels=labels, output_hidden_states=True)
        term = contrast(project(output.hidden_states[-1]), labels, output.logits).loss
        (output.loss + 0.1 * term).backward()
        terms.append(term.item())
    assert terms[0] == 0 < terms[1]
