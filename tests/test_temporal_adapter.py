"""AdaTAD's adapters in transformers over clips: along all clips of a video, under every rewiring and mode."""

import pytest
import torch
from architecture_cases import CASES
from tolerances import assert_close, assert_gradients_close, depth_of
from torch.nn import functional

from re2tal_hf import Re2TALConfig, Re2TALModel
from re2tal_hf.architecture import BACKBONES
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.temporal_adapter import TemporalAdapter

CONFIGS = {case.name: case.config for case in CASES if case.name in ("videomae", "vjepa2", "vjepa2_1")}
every_family = pytest.mark.parametrize("family", CONFIGS)


def backbone(family, rewiring="re2tal", adapter_width=3, **settings):
    torch.manual_seed(1)
    model = build_backbone({**CONFIGS[family], "adapter_width": adapter_width, **settings}, rewiring, "plain").double()
    for parameter in model.parameters():
        if parameter.abs().max() < 1e-4:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def video(family, clips=3):
    side = CONFIGS[family].get("crop_size", 32)
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 4 * clips, 3, side, side, dtype=torch.float64, generator=generator)


def test_every_family_that_takes_adapters_is_tested():
    assert {name for name, family in BACKBONES.items() if getattr(family, "token_dims", None)} == CONFIGS.keys()


def test_an_adapter_computes_what_the_paper_says():
    """As OpenTAD's `Adapter` of `vit_adapter.py`, written out place by place, without the sum with its input."""
    torch.manual_seed(0)
    adapter = TemporalAdapter(6, 4).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 5, 3, 6, dtype=torch.float64)
    found = adapter(x)
    for batch in range(2):
        for place in range(3):
            hidden = functional.gelu(x[batch, :, place] @ adapter.down.weight.T + adapter.down.bias)
            padded = functional.pad(hidden, (0, 0, 1, 1))
            kernel = adapter.temporal.weight[:, 0]
            mixed = sum(padded[i : i + 5] * kernel[:, i] for i in range(3)) + adapter.temporal.bias
            mixed = mixed @ adapter.mix.weight[..., 0].T + adapter.mix.bias
            expected = adapter.scale * ((hidden + mixed) @ adapter.up.weight.T + adapter.up.bias)
            assert_close(found[batch, :, place], expected, depth=1)


@torch.no_grad()
def test_a_layer_that_is_not_rewired_is_adatads():
    """x + attention, x + MLP, x + adapter over all clips, layer by layer (OpenTAD's `Block` of `vit_adapter.py`)."""
    model, videos = backbone("videomae", "none"), video("videomae")
    x = model.embeddings(videos.reshape(6, 4, 3, 32, 32))
    for layer, adapter in zip(model.encoder.layer, model.adapters, strict=True):
        x = x + layer.attention(layer.layernorm_before(x))
        x = layer.output(layer.intermediate(layer.layernorm_after(x)), x)
        along = x.view(2, 3 * 2, 16, 24)
        x = (along + adapter(along)).view(x.shape)
    expected = x.view(2, 6, 16, 24).mean(2)
    assert_close(model.video_features(videos), expected, depth=depth_of(model))


@every_family
@pytest.mark.parametrize("rewiring", ["none", "re2tal", "dr2net"])
def test_new_adapters_leave_the_network_as_it_is(family, rewiring):
    adapted, bare = backbone(family, rewiring), backbone(family, rewiring, 0)
    adapted.architecture.initialize(adapted)
    bare.load_state_dict({n: t for n, t in adapted.state_dict().items() if not n.startswith("adapters.")})
    assert all(adapter.mix.weight.any() and not adapter.up.weight.any() for adapter in adapted.adapters)
    assert torch.equal(adapted.video_features(video(family)), bare.video_features(video(family)))


@every_family
@torch.no_grad()
def test_adapters_see_the_clips_beside(family):
    videos = video(family, clips=5)
    changed = videos.clone()
    changed[:, 8:12] += 1
    for width, moved in ((0, [4, 5]), (3, [1, 2, 3, 4, 5, 6, 7, 8])):  # by a step, its clip, and a step more
        model = backbone(family, adapter_width=width)
        assert model.architecture.clips_see_each_other(model) == bool(width)
        difference = (model.video_features(changed) - model.video_features(videos)).abs().amax((0, 2))
        assert difference.nonzero().flatten().tolist() == moved
    one = backbone(family, adapter_width=3)
    assert_close(one.video_features(videos[:, :4]), one.temporal_features(videos[:, :4]), depth=depth_of(one))


@every_family
@pytest.mark.parametrize("rewiring", ["none", "re2tal", "dr2net"])
def test_only_adapters_learn_in_a_frozen_network(family, rewiring):
    config = Re2TALConfig(backbone_config={**CONFIGS[family], "adapter_width": 3}, rewiring=rewiring)
    model = Re2TALModel(config).double()
    network = model.backbone
    for adapter in network.adapters:
        torch.nn.init.normal_(adapter.up.weight)
    if rewiring == "dr2net":
        network.set_coupling((1.0, 0.1))
    model.freeze(backbone=True)
    found, modes = {}, ("plain", "checkpoint") if rewiring == "none" else ("plain", "checkpoint", "reversible")
    for backprop in modes:
        model.backprop = backprop
        for _ in range(2):  # of Dr2Net the first pass measures the error of the inversion
            model.zero_grad()
            network.video_features(video(family)).square().mean().backward()
        found[backprop] = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert found["plain"].keys() == {n for n, _ in network.named_parameters() if n.startswith("adapters.")}
    assert all(gradient.any() for gradient in found["plain"].values())
    for backprop in modes[1:]:
        assert_gradients_close(found[backprop], found["plain"])
    if rewiring == "dr2net":
        assert 0 < network.reconstruction_errors.largest() < 1e-10


@every_family
def test_adapters_are_saved_and_loaded(family, tmp_path):
    model = Re2TALModel(Re2TALConfig(backbone_config={**CONFIGS[family], "adapter_width": 3})).eval()
    for adapter in model.backbone.adapters:
        torch.nn.init.normal_(adapter.up.weight)
    model.save_pretrained(tmp_path)
    loaded, info = Re2TALModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    videos = video(family).float()
    with torch.no_grad():
        assert_close(loaded.eval()(videos)[0], model(videos)[0], depth=depth_of(model))


@pytest.mark.parametrize(("stride", "length"), [(1, 11), (2, 6), (4, 3)])
@torch.no_grad()
def test_features_are_interpolated_over_the_joined_clips(stride, length):
    videos = video("videomae")[:, :11]
    found = backbone("videomae", feature_stride=stride).video_features(videos)
    whole = backbone("videomae").video_features(torch.cat([videos, videos[:, -1:]], dim=1))
    expected = functional.interpolate(whole.transpose(1, 2), size=12 // stride, mode="linear").transpose(1, 2)
    assert found.shape == (2, length, 24)
    assert_close(found, expected[:, :length], depth=4)


@pytest.mark.parametrize("family", ["vivit", "timesformer"])
def test_families_without_adapters_refuse_them(family):
    config = next(case.config for case in CASES if case.name == family)
    with pytest.raises(ValueError, match="adapter_width"):
        build_backbone({**config, "adapter_width": 3})
