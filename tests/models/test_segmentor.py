import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pixcon_core.config import ModelConfig
from pixcon_core.losses import segmentation_loss
from pixcon_core.models import build_segmentor, check_model

CLASSES = 5
MODELS = [
    pytest.param("resnet10t", "fcn", 8, id="resnet-fcn-8"),
    pytest.param("resnet10t", "fcn", 16, id="resnet-fcn-16"),
    pytest.param("mobilenetv3_small_050", "fcn", 32, id="mobilenet-fcn-32"),
    pytest.param("resnet10t", "deeplabv3", 16, id="resnet-deeplabv3"),
    pytest.param("hrnet_w18_small", "hrnet", 16, id="hrnet"),
    pytest.param("hrnet_w18_small", "ocr", 16, id="hrnet-ocr"),
    pytest.param("tf_efficientnet_lite0", "ocr", 16, id="efficientnet-ocr"),
]


def config(backbone="resnet10t", head="fcn", output_stride=16, **settings):
    settings = {"head_channels": 16, "projection_dim": 8, "pretrained": "false"} | settings
    return ModelConfig(backbone=backbone, head=head, output_stride=output_stride, **settings)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("backbone", "head", "output_stride"), MODELS)
def test_a_training_step_reaches_every_parameter(backbone, head, output_stride):
    settings = config(backbone, head, output_stride)
    check_model(settings, (64, 96))
    model = build_segmentor(settings, CLASSES)
    output = model(torch.randn(2, 3, 64, 96), with_embeddings=True)
    loss = segmentation_loss(output, torch.randint(CLASSES, (2, 64, 96)), aux_weight=0.4)
    (
        loss + output.embeddings.square().mean() + (output.embeddings * torch.randn_like(output.embeddings)).mean()
    ).backward()

    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    stride = {"hrnet": 4, "ocr": 4, "deeplabv3": output_stride, "fcn": 4 if output_stride == 8 else 8}[head]
    assert output.logits.shape == (2, CLASSES, 64 // stride, 96 // stride)
    assert output.embeddings.shape == (2, 8, 64 // stride, 96 // stride)
    torch.testing.assert_close(output.embeddings.norm(dim=1), torch.ones(2, 64 // stride, 96 // stride))
    assert (output.aux_logits is not None) == (head in ("deeplabv3", "ocr"))


@pytest.mark.parametrize("head", ["deeplabv3", "ocr"])
def test_without_auxiliary_loss_every_parameter_is_still_reached(head):
    model = build_segmentor(config(head=head, aux_weight=0.0), CLASSES)
    output = model(torch.randn(2, 3, 64, 64), with_embeddings=True)
    loss = segmentation_loss(output, torch.randint(CLASSES, (2, 64, 64)), aux_weight=0.0)
    (loss + output.embeddings.square().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("head", ["fcn", "deeplabv3", "ocr"])
def test_first_loss_is_that_of_a_guess(head):
    model = build_segmentor(config(head=head, head_channels=512), CLASSES)
    output = model(torch.randn(2, 3, 64, 64))
    loss = segmentation_loss(output, torch.randint(CLASSES, (2, 64, 64)), aux_weight=0.0)
    assert loss.item() == pytest.approx(torch.tensor(float(CLASSES)).log().item(), abs=0.3)


class Operations(TorchDispatchMode):
    """Names of the operations that run, with the shapes they run on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append((str(operation), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("backbone", "head", "output_stride"), MODELS)
def test_without_projection_it_is_the_same_model(backbone, head, output_stride):
    settings = config(backbone, head, output_stride)
    trained = build_segmentor(settings, CLASSES).eval()
    plain = build_segmentor(settings, CLASSES, projection=False).eval()
    state = trained.state_dict()
    plain.load_state_dict({key: value for key, value in state.items() if not key.startswith("projection.")})
    assert plain.projection is None
    assert any(key.startswith("projection.") for key in state)

    images = torch.randn(1, 3, 64, 64)
    runs = []
    for model in (trained, plain):
        with Operations() as operations, torch.no_grad():
            output = model(images)
        runs.append((output, operations.seen))
    (with_head, first), (without, second) = runs
    assert torch.equal(with_head.logits, without.logits)
    assert first == second
    assert with_head.embeddings is None
    assert with_head.aux_logits is None


def test_embeddings_are_asked_of_a_model_that_has_them():
    model = build_segmentor(config(), CLASSES, projection=False)
    with pytest.raises(ValueError, match="no projection head"):
        model(torch.randn(1, 3, 64, 64), with_embeddings=True)


def test_asking_for_embeddings_leaves_the_logits_as_they_are():
    model = build_segmentor(config(), CLASSES).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(images).logits, model(images, with_embeddings=True).logits)


@pytest.mark.parametrize("head", ["deeplabv3", "ocr"])
def test_a_batch_of_one_image_trains(head):
    model = build_segmentor(config(head=head), CLASSES).train()
    output = model(torch.randn(1, 3, 64, 64), with_embeddings=True)
    loss = segmentation_loss(output, torch.randint(CLASSES, (1, 64, 64)), aux_weight=0.4)
    (loss + output.embeddings.mean()).backward()
    assert loss.isfinite()


@pytest.mark.parametrize(("backbone", "head"), [("hrnet_w18_small", "ocr"), ("resnet10t", "fcn")])
@pytest.mark.parametrize("size", [(72, 100), (90, 61)])
def test_images_of_any_size_are_taken(backbone, head, size):
    model = build_segmentor(config(backbone, head), CLASSES).eval()
    stride = 4 if head == "ocr" else 8
    with torch.no_grad():
        output = model(torch.randn(1, 3, *size), with_embeddings=True)
    expected = tuple(-(-side // stride) for side in size)
    assert output.logits.shape[2:] == expected
    assert output.embeddings.shape[2:] == expected


def test_the_same_seed_gives_the_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_segmentor(config(head="deeplabv3"), CLASSES).state_dict())
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)


@pytest.mark.slow
def test_bfloat16_autocast_trains_and_embeds_in_float32():
    model = build_segmentor(config(head="ocr"), CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.randn(2, 3, 64, 64), with_embeddings=True)
        loss = segmentation_loss(output, torch.randint(CLASSES, (2, 64, 64)), aux_weight=0.4)
    (loss + output.embeddings.mean()).backward()
    assert output.embeddings.dtype == loss.dtype == torch.float32


def test_it_copies_and_its_backbone_can_be_told_from_the_rest():
    model = copy.deepcopy(build_segmentor(config(), CLASSES))
    prefixes = {name.split(".")[0] for name in model.state_dict()}
    assert prefixes == {"backbone", "head", "projection"}
    assert sum(p.numel() for p in model.backbone.parameters()) > 4e6
