"""Pretrained models of the libraries, by their names, as backbones of ours."""

import json

import pytest
import torch
from torchvision.models.video import R3D_18_Weights, r3d_18
from transformers import VideoMAEConfig, VideoMAEModel

from re2tal_hf import Re2TALModel
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.commands.convert import main
from re2tal_hf.training.library_weights import TORCHVISION, backbone_of

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def convert(name, folder, *settings) -> int:
    return main([str(name), "--from", "library", "--output", str(folder), *settings])


def test_a_folder_of_transformers(tmp_path, capsys):
    network = VideoMAEModel(VideoMAEConfig(image_size=32, num_frames=4, **SMALL))
    network.save_pretrained(tmp_path / "videomae")
    assert convert(tmp_path / "videomae", tmp_path / "rewired") == 0
    assert "license: cc-by-nc-4.0" in capsys.readouterr().out
    model = Re2TALModel.from_pretrained(tmp_path / "rewired")
    assert model.config.rewiring == "re2tal" and model.config.origin["license"] == "cc-by-nc-4.0"
    assert convert(tmp_path / "videomae", tmp_path / "plain", "rewiring=none") == 0
    plain = Re2TALModel.from_pretrained(tmp_path / "plain").double()
    videos = torch.randn(1, 4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = network.double().eval()(videos).last_hidden_state.view(1, 2, -1, 24).mean(2)
        assert torch.allclose(plain(videos).last_hidden_state, expected, rtol=0, atol=1e-12)
    report = json.loads((tmp_path / "plain" / "conversion.json").read_text())
    assert report["settings"]["the library"]["backbone_config.hidden_size"] == 24


def test_a_name_of_torchvision(tmp_path, monkeypatch):
    network = r3d_18()
    monkeypatch.setattr(R3D_18_Weights, "get_state_dict", lambda self, **options: network.state_dict())
    assert convert("R3D_18_Weights.KINETICS400_V1", tmp_path / "r3d") == 0
    state = Re2TALModel.from_pretrained(tmp_path / "r3d").backbone.state_dict()
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("weights", TORCHVISION)
def test_names_of_torchvision_are_of_registered_variants(weights):
    settings = backbone_of(f"{weights}.DEFAULT")
    BACKBONES[settings.pop("model_type")].check(settings)


def test_a_name_of_timm():
    pytest.importorskip("timm")
    expected = {"model_type": "image", "variant": "tf_efficientnet_lite0"}
    for name in ("tf_efficientnet_lite0.in1k", "timm/tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0"):
        assert backbone_of(name) == expected


@pytest.mark.parametrize(("config", "message"), [("{", "broken JSON"), ('{"model_type": "bert"}', "is of type 'bert'")])
def test_other_models_are_refused(config, message, tmp_path, capsys):
    (folder := tmp_path / "other").mkdir()
    (folder / "config.json").write_text(config)
    assert convert(folder, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_name_that_nobody_knows_is_refused(tmp_path, capsys):
    pytest.importorskip("timm")
    assert convert("resnett", tmp_path / "out") == 1
    assert "none of timm's models" in capsys.readouterr().err
