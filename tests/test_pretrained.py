"""Weights of a backbone from every kind of source."""

import pytest
import torch
from architecture_cases import CASES
from safetensors.torch import save_file
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from re2tal_hf import Re2TALConfig, Re2TALForVideoClassification
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.pretrained import load_backbone_weights, load_classifier_weights

CONFIGS = {case.name: case.config for case in CASES}
SWIN = CONFIGS["video_swin"]


def backbone(config=SWIN):
    model = build_backbone(config)
    model.architecture.initialize(model)
    return model


def assert_loaded(model, expected):
    state = model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_files(tmp_path, prefix):
    expected = backbone().state_dict()
    named = {prefix + name: tensor for name, tensor in expected.items()} | {"cls_head.weight": torch.ones(2)}
    torch.save({"state_dict": named}, tmp_path / "weights.pth")
    save_file(named, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        model = backbone()
        load_backbone_weights(model, str(tmp_path / name))
        assert_loaded(model, expected)


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_the_result_of_the_classification_stage(tmp_path, max_shard_size):
    config = Re2TALConfig(backbone_config=SWIN, rewiring="none", id2label={0: "jump", 1: "run"})
    trained = Re2TALForVideoClassification(config)
    trained.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    model = backbone()
    load_backbone_weights(model, str(tmp_path))
    assert_loaded(model, trained.model.backbone.state_dict())
    other = Re2TALForVideoClassification(config)
    assert load_classifier_weights(other, ["jump", "run"], str(tmp_path))
    assert torch.equal(other.classifier.weight, trained.classifier.weight)
    assert not load_classifier_weights(other, ["run", "jump"], str(tmp_path))


def test_a_model_of_transformers_with_its_classifier(tmp_path):
    settings = {name: value for name, value in CONFIGS["videomae"].items() if name != "model_type"}
    library = VideoMAEForVideoClassification(VideoMAEConfig(**settings, num_labels=3))
    library.save_pretrained(tmp_path)
    model = backbone(CONFIGS["videomae"])
    load_backbone_weights(model, str(tmp_path))
    assert_loaded(model, library.videomae.state_dict())


def test_what_does_not_fit_is_named(tmp_path):
    save_file({name: tensor.clone() for name, tensor in backbone().state_dict().items()}, tmp_path / "w.safetensors")
    wider = backbone({**SWIN, "embed_dim": 16})
    with pytest.raises(ValueError, match="other shapes for"):
        load_backbone_weights(wider, str(tmp_path / "w.safetensors"))
    deeper = backbone({**SWIN, "depths": [2, 4]})
    with pytest.raises(ValueError, match=r"lacks .*features\.2"):
        load_backbone_weights(deeper, str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="neither .* name of torchvision weights"):
        load_backbone_weights(wider, "Swin3D_T_Weights.NO_SUCH")
