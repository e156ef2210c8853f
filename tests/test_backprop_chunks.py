"""`backprop="clips"` where features see a part of the video: those of one graph over all of it, chunk by chunk."""

import contextlib
import re

import pytest
import torch
from architecture_cases import CASES
from test_architectures import gradients, video
from tolerances import assert_close, assert_gradients_close
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, backprop_parts
from re2tal_hf.backprop_plan import BackpropPlan
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.memory import saved_for_backward
from re2tal_hf.training.memory_budget import plan_backprop

BY_NAME = {case.name: case for case in CASES}
SWIN = BY_NAME["video_swin"].config
# Settings by name: every family that has a reach, and what changes it.
CONFIGS = {
    "swin": SWIN,
    "swin_wide": {**SWIN, "window_size": [8, 2, 2], "depths": [2, 4]},
    "swin_odd": {**SWIN, "window_size": [3, 3, 3], "depths": [3, 2]},
    "swin_rate": {**SWIN, "feature_stride": 6},
    "swin_patch": {**SWIN, "patch_size": [1, 4, 4], "depths": [1, 1]},
    "slowfast": BY_NAME["slowfast"].config,
    "slowfast_rate": {**BY_NAME["slowfast"].config, "feature_stride": 2},
    "slow_only": BY_NAME["slow_only"].config,
    "fast_only": BY_NAME["fast_only"].config,
    "r3d": BY_NAME["r3d"].config,
    "r2plus1d": BY_NAME["r2plus1d"].config,
    **{
        name: {**BY_NAME[name].config, "temporal_shift": 0.125}
        for name in ("image_efficientnet", "image_resnet", "image_convnext", "image_vit")
    },
}
every_config = pytest.mark.parametrize("name", CONFIGS)


def frozen(name: str, **settings: object) -> RewiredModel:
    """A backbone in fp64 whose batch norms are frozen."""
    torch.manual_seed(0)
    model = build_backbone({**CONFIGS[name], **settings}).double().train()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # scales that begin at zero would close the branches
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def size_of(name: str) -> tuple[int, int]:
    """Height and width of small frames: only time counts here."""
    return {"image_vit": (28, 28), "image_convnext": (32, 32)}.get(name, (16, 16))


def several_chunks(model: RewiredModel, monkeypatch: pytest.MonkeyPatch, name: str = "swin") -> Tensor:
    """Two videos of three chunks of the shortest length, the last of them not whole."""
    monkeypatch.setattr(backprop_parts, "CHUNK_FRAMES", 1)
    monkeypatch.setattr(backprop_parts, "CHUNK_HALOS", (1,))
    [length] = backprop_parts.chunk_lengths(model, 2)
    return video((3 * length - 1, *size_of(name))).double()


@pytest.mark.training
@every_config
def test_features_see_no_farther_than_the_family_says(name):
    model = frozen(name).eval()
    reach, stride = model.architecture.temporal_reach(model), model.architecture.feature_stride(model)
    place = (2 * reach.frames // reach.alignment + 2) * reach.alignment
    videos = video((2 * place + reach.alignment, *size_of(name)))[:1].double()
    other = videos.clone()
    other[:, place : place + reach.alignment] += 1.0
    with torch.no_grad():  # one after the other, which gives equal bits
        moved = (model.video_features(videos) != model.video_features(other)).any(-1).nonzero()[:, 1]
    first, last = int(moved[0]) * stride, int(moved[-1] + 1) * stride
    assert place - reach.frames < first + stride and last - stride < place + reach.alignment + reach.frames
    assert last - first >= 0.7 * (2 * reach.frames + reach.alignment) - 2 * reach.alignment  # nor does it say far more


@pytest.mark.training
@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if name != "image_efficientnet"]
)  # deep, and shifts as others do
def test_gradients_and_features_are_those_of_one_graph(name, monkeypatch):
    model = frozen(name)
    videos = several_chunks(model, monkeypatch, name)
    model.backprop = "plain"
    features, expected = model.video_features(videos).detach(), gradients(model, videos)
    state = torch.get_rng_state()
    model.backprop, model.memory_budget = "clips", 2**40
    found = gradients(model, videos)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.plan.shape[0] == 2 and model.plan.together == 1
    assert_gradients_close(found, expected, bound=1e-10)
    with torch.no_grad():
        assert_close(model.video_features(videos), features)


def test_the_gradient_of_the_video_and_the_reversible_mode(monkeypatch):
    model = frozen("swin")
    videos, found = several_chunks(model, monkeypatch), {}
    for backprop in ("plain", "clips"):
        model.backprop, model.memory_budget = backprop, 2**40
        if backprop == "clips":
            leanest = model.plan_for(videos.shape, videos.dtype).choices[0][0]
            model.memory_budget = leanest
        own = videos.clone().requires_grad_()
        found[backprop] = gradients(model, own) | {"videos": own.grad}
    assert set(model.plan.modes) == {"reversible"}
    assert_gradients_close(found["clips"], found["plain"], bound=1e-10)
    model.memory_budget = leanest - 1
    with pytest.raises(ValueError, match="take a smaller batch, fewer or smaller frames, or a larger budget"):
        gradients(model, videos)


@pytest.mark.parametrize("bits", [16, 24])
def test_streams_on_a_grid(bits, monkeypatch):
    model = frozen("swin")
    model.stream_bits = bits
    videos, found = several_chunks(model, monkeypatch), {}
    for backprop in ("plain", "clips"):
        model.backprop, model.memory_budget = backprop, 2**40
        found[backprop] = gradients(model, videos)
    # In fp64 both round alike, unless a number lies within 1e-15 of a border.
    assert_gradients_close(found["clips"], found["plain"], bound=1e-10)


def test_stochastic_depth_draws_the_same_for_every_chunk(monkeypatch):
    model = frozen("swin", stochastic_depth_prob=0.5)
    videos, found, states = several_chunks(model, monkeypatch), {}, {}
    for backprop in ("plain", "clips"):
        model.backprop, model.memory_budget = backprop, 2**40
        torch.manual_seed(3)
        found[backprop] = gradients(model, videos)
        states[backprop] = torch.rand(1)
    assert_gradients_close(found["clips"], found["plain"], bound=1e-10)
    assert torch.equal(states["clips"], states["plain"])


def test_nothing_is_kept_but_the_video(monkeypatch):
    model = frozen("swin").float()
    model.backprop, model.memory_budget = "clips", 2**40
    videos = several_chunks(model, monkeypatch).float()
    with saved_for_backward([videos, *model.parameters(), *model.buffers()]) as saved:
        model.video_features(videos)
    assert saved.total() == 0


@pytest.mark.training
def test_longer_chunks_where_there_is_memory():
    model = frozen("swin").float()
    model.backprop = "clips"
    assert backprop_parts.chunk_lengths(model, 1) == [64]
    deep = frozen("swin", depths=[2, 26]).float()
    deep.backprop, deep.memory_budget = "clips", 2**40
    lengths = backprop_parts.chunk_lengths(deep, 1)
    halo = 56
    assert lengths == [4 * halo, 2 * halo, 64]
    shape = (1, 1000, 3, 32, 32)
    assert deep.plan_for(shape).shape[2] == lengths[0] + 2 * halo
    parts = [chunk.frames for chunk in backprop_parts.chunks_of(deep, 1000, lengths[0])]
    computed = sum(part.stop - part.start for part in parts) / 1000
    assert 1.3 < computed < 1.5 and deep.plan.step == pytest.approx(computed * 4 / 3, abs=0.01)
    deep.memory_budget = deep.plan.choices[0][0] - 1
    assert deep.plan_for(shape).shape[2] == lengths[1] + 2 * halo


def test_auto_goes_by_chunks_where_the_whole_is_too_large():
    model = frozen("swin").float()
    model.backprop, model.memory_budget = "auto", 2**40
    shape = (1, 2000, 3, 32, 32)
    whole = model.plan_for(shape)
    assert whole.chunk == 0
    model.memory_budget = whole.choices[0][0] - 1
    plan = model.plan_for(shape)
    assert plan.chunk == 64 and plan.kept < model.memory_budget and "By clips" in plan.reason
    assert "chunks of 64 frames" in str(plan) and plan.to_dict()["chunk_frames"] == 64


@pytest.mark.training
def test_a_training_takes_the_chunks_for_which_there_is_room():
    torch.manual_seed(0)
    head = {"hidden_size": 16, "num_levels": 2, "num_head_layers": 1, "num_attention_heads": 2}
    config = {"backbone_config": {**SWIN, "depths": [2, 26]}, "head_config": head, "num_labels": 2}
    model = Re2TALForTemporalActionLocalization(Re2TALConfig(**config, backprop="clips"))
    lengths = backprop_parts.chunk_lengths(model.model.backbone, 1)

    def planned(budget: int) -> BackpropPlan:
        arguments = OptimizationArguments(memory_budget=f"{budget}B")
        return plan_backprop(model, (1, 1000, 3, 32, 32), arguments, budget, contextlib.nullcontext)

    assert planned(10**10).chunk == lengths[0]
    with pytest.raises(ValueError, match="in the leanest way") as refused:
        planned(10**6)
    needed = float(re.search(r"needs ([\d.]+) MB", str(refused.value))[1]) * 1e6
    plan = planned(int(needed) + 10**5)
    assert plan.chunk == lengths[-1] and "By clips" in plan.reason
    with pytest.raises(ValueError, match="in the leanest way"):
        planned(int(needed) - 10**5)


@pytest.mark.parametrize("frames", [1, 5, 63, 64, 65, 200])
def test_chunks_cover_a_video_once(frames):
    model = frozen("slowfast")
    stride = model.architecture.feature_stride(model)
    chunks = list(backprop_parts.chunks_of(model, frames, 64))
    counts = [chunk.features.stop - chunk.features.start for chunk in chunks]
    assert sum(counts) == -(-frames // stride) and min(counts) > 0
    begins = [chunk.frames.start + chunk.features.start * stride for chunk in chunks]
    assert begins == list(range(0, frames, 64)) and chunks[-1].frames.stop == frames


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("swin", {"dropout": 0.1}, r"pos_drop \(p=0.1\) drops numbers of each frame"),
        ("swin", {"attention_dropout": 0.2}, r"\(attention_dropout=0.2\) drops numbers"),
        ("image_convnext", {"drop_path_rate": 0.3}, r"drop_path \(drop_prob=.*\) drops numbers"),
    ],
)
def test_what_is_drawn_for_each_frame_is_refused(name, settings, message):
    model = frozen(name, **settings)
    model.backprop = "clips"
    with pytest.raises(ValueError, match=message):
        model.video_features(video((8, 32, 32)).double())
    with torch.no_grad():  # where nothing is dropped
        model.eval().video_features(video((8, 32, 32)).double())


def test_norms_must_be_frozen():
    model = frozen("r3d").train()
    model.backprop = "clips"
    with pytest.raises(ValueError, match="the batch norm 'stem.1' takes its statistics"):
        model.video_features(video((8, 32, 32)).double())
