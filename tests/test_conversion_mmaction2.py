"""Classifiers of mmaction2: converted ones give the logits of the network as its library computes them."""

from pathlib import Path

import pytest
import torch
from conversion_cases import SLOWFAST, SWIN, drawn, refusal, write
from tolerances import assert_close, depth_of
from torchvision.models.video.swin_transformer import SwinTransformer3d

from re2tal_hf import Re2TALForVideoClassification, Re2TALModel
from re2tal_hf.commands.convert import main
from re2tal_hf.conversion.names import SWIN_BACK, renamed
from re2tal_hf.network_slowfast import SlowFast
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.pretrained import load_backbone_weights

RATES = ["backbone_config.resample_rate=4", "backbone_config.speed_ratio=2"]


def swin() -> tuple[torch.nn.Module, dict]:
    sizes = {name: value for name, value in SWIN.items() if name != "model_type"}
    model = drawn(SwinTransformer3d(patch_size=[2, 4, 4], num_classes=7, **sizes))
    names = {name: renamed(name, [*SWIN_BACK, (r"^norm\.", "norm1.")]) for name in model.state_dict()}
    return model, with_prefix(model, names, "head.")


def slowfast() -> tuple[torch.nn.Module, dict]:
    sizes = {name: value for name, value in SLOWFAST.items() if name != "model_type"}
    model = drawn(SlowFast(num_classes=7, **sizes))
    return model, with_prefix(model, {name: name for name in model.state_dict()}, "cls_head.fc_cls.")


def with_prefix(model: torch.nn.Module, names: dict, head: str) -> dict:
    """A classifier's tensors as mmaction2 has them."""
    state = model.state_dict()
    return {
        f"cls_head.fc_cls.{name.removeprefix(head)}" if name.startswith(head) else f"backbone.{new}": state[name]
        for name, new in names.items()
    }


NETWORKS = {"swin": (swin, []), "slowfast": (slowfast, RATES)}


def convert(source: Path, *settings: str) -> Path:
    folder = source.parent / f"model{len(list(source.parent.iterdir()))}"
    assert main([str(source), "--from", "mmaction2", "--output", str(folder), *settings]) == 0
    return folder


@pytest.mark.parametrize("case", NETWORKS)
def test_a_classifier(case, tmp_path):
    build, settings = NETWORKS[case]
    network, state = build()
    folder = convert(write(tmp_path / "a.pth", state), *settings)
    model = Re2TALForVideoClassification.from_pretrained(folder)
    assert model.config.rewiring == "none" and model.config.num_labels == 7
    videos = torch.randn(2, 8, 3, 24, 32)
    with torch.no_grad():
        expected = network.double()(videos.double().transpose(1, 2))
        found = model.double()(videos.double()).logits
    assert_close(found, expected, depth=depth_of(network))
    # It begins the training of a localizer, rewired or not.
    backbone = SWIN if case == "swin" else SLOWFAST
    fresh = build_backbone(backbone)
    load_backbone_weights(fresh, str(folder))
    expected = {n.removeprefix("model.backbone."): t for n, t in model.float().state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize("case", NETWORKS)
def test_a_backbone_rewired(case, tmp_path):
    build, settings = NETWORKS[case]
    _, state = build()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("cls_head.")}
    model = Re2TALModel.from_pretrained(convert(write(tmp_path / "a.pth", state), *settings, "rewiring=re2tal"))
    assert model.config.rewiring == "re2tal" and model.backprop == "reversible"
    # Dr2Net's coefficients are in no weights of others; a new model computes what they do.
    (tmp_path / "dr2net").mkdir()
    source = write(tmp_path / "dr2net" / "a.pth", state)
    model = Re2TALModel.from_pretrained(convert(source, *settings, "rewiring=dr2net"))
    fresh = Re2TALModel(model.config)
    assert torch.equal(model.backbone.coupling, fresh.backbone.coupling)


def test_settings_of_a_config(tmp_path):
    _, state = slowfast()
    network = "dict(type='ResNet3dSlowFast', resample_rate=4, speed_ratio=2, slow_pathway=dict(fusion_kernel=3))"
    (config := tmp_path / "config.py").write_text(f"model = dict(type='Recognizer3D', backbone={network})\n")
    folder = convert(write(tmp_path / "a.pth", state), "--options", str(config))
    settings = Re2TALForVideoClassification.from_pretrained(folder).config.backbone_config
    assert (settings["resample_rate"], settings["speed_ratio"], settings["feature_stride"]) == (4, 2, 2)


def test_what_does_not_fit_is_refused(tmp_path, capsys):
    _, state = slowfast()
    source = write(tmp_path / "a.pth", state)
    message = refusal(capsys, source, kind="mmaction2")
    assert "does not say backbone_config.resample_rate, backbone_config.speed_ratio" in message
    source = write(tmp_path / "a.pth", state | {"backbone.slow_path.layer9_lateral.conv.weight": torch.ones(3)})
    assert "no place for 1 tensors" in refusal(capsys, source, *RATES, kind="mmaction2")
    source = write(tmp_path / "a.pth", {"backbone.conv1.weight": torch.ones(3)})
    assert "none of mmaction2's backbones" in refusal(capsys, source, kind="mmaction2")
