"""AdaTAD's side variant: adapters beside a frozen transformer, along all clips of a video."""

import copy

import pytest
import torch
from architecture_cases import CASES
from test_temporal_adapter import CONFIGS, every_family, video
from tolerances import assert_close, assert_gradients_close, depth_of

from re2tal_hf import Re2TALConfig, Re2TALModel
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.memory import saved_for_backward

SIDE = {"adapter_width": 3, "adapter_side": True, "num_hidden_layers": 3}
every_rewiring = pytest.mark.parametrize("rewiring", ["none", "re2tal", "dr2net"])


def side_model(family: str, rewiring: str = "none", backprop: str = "plain", **settings) -> Re2TALModel:
    torch.manual_seed(1)
    config = Re2TALConfig(backbone_config={**CONFIGS[family], **SIDE, **settings}, rewiring=rewiring, backprop=backprop)
    model = Re2TALModel(config).double()
    for adapter in model.backbone.adapters:
        torch.nn.init.normal_(adapter.up.weight, std=0.1)
    if rewiring == "dr2net":
        model.backbone.set_coupling((0.5, 0.7))
    return model


def gradients(model: Re2TALModel, family: str) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.backbone.video_features(video(family)).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.backbone.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_it_is_adatads():
    """The last layer's output, and of it and the one before what an adapter makes of it over all clips."""
    model, videos = side_model("videomae").backbone.eval(), video("videomae")
    x = model.embeddings(videos.reshape(6, 4, 3, 32, 32))
    outputs = []
    for layer in model.encoder.layer:
        x = x + layer.attention(layer.layernorm_before(x))
        x = layer.output(layer.intermediate(layer.layernorm_after(x)), x)
        outputs.append(x.view(2, 3 * 2, 16, 24))
    first, second = model.adapters
    expected = (outputs[2] + first(outputs[1]) + second(outputs[2])).mean(2)
    assert_close(model.video_features(videos), expected, depth=depth_of(model))


@every_family
@every_rewiring
@torch.no_grad()
def test_new_adapters_leave_the_network_as_it_is(family, rewiring):
    model = side_model(family, rewiring).backbone.eval()
    model.architecture.initialize(model)
    bare = build_backbone({**CONFIGS[family], "num_hidden_layers": 3}, rewiring, "plain").double().eval()
    bare.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith(("adapters.", "coupling"))})
    if rewiring == "dr2net":
        bare.set_coupling((0.5, 0.7))
    assert_close(model.video_features(video(family)), bare.video_features(video(family)), depth=depth_of(model))


@every_family
@every_rewiring
def test_a_frozen_network_runs_once_and_without_a_graph(family, rewiring):
    model = side_model(family, rewiring)
    model.freeze(backbone=True)
    network: RewiredModel = model.backbone
    runs = []
    last = network.get_submodule("blocks.0.mlp" if family == "vjepa2_1" else "encoder.layer.0")
    last = last if family == "vjepa2_1" else next(m for n, m in last.named_modules() if n.endswith(("fc1", "dense")))
    last.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    found = {}
    for backprop in ("plain", "checkpoint") if rewiring == "none" else ("plain", "checkpoint", "reversible"):
        model.backprop = backprop
        runs.clear()
        found[backprop] = gradients(model, family)
        assert runs == [False]
    assert found["plain"].keys() == {name for name, _ in network.named_parameters() if name.startswith("adapters.")}
    assert all(gradient.any() for gradient in found["plain"].values())
    for backprop in found.keys() - {"plain"}:
        assert_gradients_close(found[backprop], found["plain"])


@every_family
@every_rewiring
def test_a_network_that_is_not_frozen_is_trained_too(family, rewiring):
    model = side_model(family, rewiring)
    found = {}
    for backprop in ("plain", "checkpoint") if rewiring == "none" else ("plain", "checkpoint", "reversible"):
        model.backprop = backprop
        found[backprop] = gradients(model, family)
    assert found["plain"].keys() == dict(model.backbone.named_parameters()).keys()
    for backprop in found.keys() - {"plain"}:
        assert_gradients_close(found[backprop], found["plain"])


@pytest.mark.parametrize("backprop", ["plain", "checkpoint"])
def test_what_is_kept_are_outputs_of_layers(backprop):
    """Of as many layers as there are adapters, however deep the network is before them."""
    kept = {}
    for depth in (3, 4):
        model = side_model("videomae", backprop=backprop, num_hidden_layers=depth)
        model.freeze(backbone=True)
        with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
            model.backbone.video_features(video("videomae"))
        kept[depth] = saved.total()
    assert kept[3] == kept[4]
    outputs = 2 * 6 * 16 * 24 * 2 * 8  # videos, steps, places, channels, layers, bytes
    assert kept[3] == outputs if backprop == "checkpoint" else kept[3] > outputs


@every_family
def test_it_is_saved_and_loaded(family, tmp_path):
    model = side_model(family, "re2tal").float().eval()
    model.save_pretrained(tmp_path)
    loaded, info = Re2TALModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    videos = video(family).float()
    with torch.no_grad():
        expected = model(videos)[0]
        assert_close(loaded.eval()(videos)[0], expected, depth=depth_of(model))
        assert torch.equal(copy.deepcopy(model)(videos)[0], expected)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="adapter_side: there are no adapters; set adapter_width to"):
        build_backbone({**CONFIGS["videomae"], "adapter_side": True})
    vivit = next(case.config for case in CASES if case.name == "vivit")
    with pytest.raises(ValueError, match="adapter_side"):
        build_backbone({**vivit, "adapter_side": True})
