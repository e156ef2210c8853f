"""TimeSformer's three kinds of attention, and what each adds."""

import pytest
import torch
from tolerances import assert_close, assert_gradients_close
from torch import nn
from transformers import TimesformerConfig, TimesformerModel
from transformers.models.timesformer.modeling_timesformer import TimesformerDropPath

from re2tal_hf import rewire

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def library_model(attention_type: str = "divided_space_time") -> TimesformerModel:
    torch.manual_seed(0)
    config = TimesformerConfig(**SMALL, image_size=32, patch_size=8, num_frames=4, attention_type=attention_type)
    model = TimesformerModel(config).double().eval()
    if attention_type != "space_only":
        nn.init.normal_(model.embeddings.time_embeddings, std=0.1)
    return model


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only", "joint_space_time"])
def test_without_rewiring_each_kind_is_the_librarys(attention_type):
    model = library_model(attention_type)
    videos = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    expected = model(videos).last_hidden_state
    found = rewire(model, "none", "plain")
    assert_close(found(videos).last_hidden_state, expected)
    assert found.video_features(videos[:, :3]).shape == (2, 3, 24)


def test_a_divided_layer_has_three_branches():
    model = rewire(library_model())
    videos = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    [stage] = model.architecture.stages(model, videos.shape)
    assert len(stage.branches) == 6
    x = torch.randn(2, 1 + 16 * 4, 24, dtype=torch.float64)
    for i in (0, 3):
        assert not stage.branches[i](x)[:, 0].any()  # attention over time has no class token
    parameters = [p for branch in stage.branches for p in branch.parameters()]
    assert len({id(p) for p in parameters}) == len(parameters)
    assert {id(p) for p in model.encoder.parameters()} == {id(p) for p in parameters}


def test_attention_over_time_stays_at_its_place():
    model = rewire(library_model())
    [stage] = model.architecture.stages(model)
    x = torch.randn(1, 1 + 16 * 4, 24, dtype=torch.float64)
    moved = x.clone()
    moved[:, 1 + 5 * 4 + 2] += 1.0  # place 5, frame 2
    changed = (stage.branches[0](moved) - stage.branches[0](x)).abs().amax(-1)[0, 1:].view(16, 4) > 0
    assert changed.any(1).nonzero().flatten().tolist() == [5]
    changed = (stage.branches[1](moved) - stage.branches[1](x)).abs().amax(-1)[0, 1:].view(16, 4) > 0
    assert changed.any(0).nonzero().flatten().tolist() == [2]


def test_stochastic_depth_is_replayed():
    model = rewire(library_model()).train()
    for layer in model.encoder.layer:
        layer.drop_path = TimesformerDropPath(0.5)
    videos = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    grads = {}
    for backprop in ("plain", "reversible"):
        model.backprop = backprop
        model.zero_grad()
        torch.manual_seed(3)
        model.video_features(videos).square().sum().backward()
        grads[backprop] = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert_gradients_close(grads["reversible"], grads["plain"])


def test_features_are_means_over_places():
    model = rewire(library_model())
    tokens = torch.zeros(1, 1 + 16 * 4, 24)
    tokens[:, 0] = 100.0  # the class token does not count
    tokens[:, 1:] = torch.arange(4.0).repeat(16)[:, None]
    assert model.architecture.temporal_features(model, tokens)[0, :, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(8, 16), (16, 40), (35, 41)])
def test_frames_of_other_sizes(size):
    model = rewire(library_model())
    assert model.video_features(torch.randn(1, 4, 3, *size, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize(("num_frames", "size"), [(5, (32, 32)), (4, (32, 15)), (4, (7, 32))])
def test_what_does_not_fit_is_named(num_frames, size):
    model = rewire(library_model())
    with pytest.raises(ValueError, match=f"{num_frames} frames of {size[0]}x{size[1]}.*4 frames of at least 8x16"):
        model(torch.randn(1, num_frames, 3, *size, dtype=torch.float64))
