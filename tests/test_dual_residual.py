"""Dr2Net: the coefficients, and the switch between stored inputs and the inverse."""

import copy
import logging

import pytest
import torch
from architecture_cases import CASES
from tolerances import assert_close, assert_gradients_close, depth_of
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from re2tal_hf import Re2TALConfig, Re2TALModel, rewire
from re2tal_hf.dual_residual import PROBE_INTERVAL, BackpropSwitch
from re2tal_hf.reversible import Coupling, Stage
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.pretrained import load_backbone_weights

SWIN = next(case for case in CASES if case.name == "video_swin").config


def backbone(rewiring="dr2net", coupling=None, **settings):
    torch.manual_seed(0)
    backprop = "reversible" if rewiring == "dr2net" else "plain"
    model = build_backbone({**SWIN, **settings}, rewiring, backprop, coupling)
    model.architecture.initialize(model)
    return model


@pytest.fixture
def video() -> torch.Tensor:
    return torch.randn(1, 3, 8, 32, 32)


@pytest.mark.parametrize(("coupling", "rewiring"), [((1.0, 0.0), "none"), ((0.0, 1.0), "re2tal")])
def test_its_ends_are_the_pretrained_and_the_rewired_network(video, coupling, rewiring):
    model = backbone(coupling=coupling).double()
    assert_close(model(video.double()), backbone(rewiring).double()(video.double()))


def test_it_starts_as_the_pretrained_network(video):
    assert_close(backbone().double()(video.double()), backbone("none").double()(video.double()))


@pytest.mark.parametrize("coupling", [(1.0, 0.0), (0.9, 0.1), (0.3, 0.7), [(0.5, 0.5), (0.2, 0.8)]])
def test_gradients_in_every_phase_are_those_of_plain_autograd(video, coupling):
    model = backbone(coupling=coupling, stochastic_depth_prob=0.3).double()
    reference = copy.deepcopy(model)
    reference.backprop = "plain"
    for step in range(3):  # the switch may act after the first
        grads = []
        for one in (model, reference):
            torch.manual_seed(step)
            one.zero_grad()
            one(video.double()).square().mean().backward()
            grads.append({name: p.grad for name, p in one.named_parameters()})
        assert_gradients_close(*grads)


@pytest.mark.training
def test_it_inverts_once_the_measured_error_allows_it(video, caplog):
    model = backbone(depths=[2, 6])
    modes = []
    with caplog.at_level(logging.INFO, "re2tal_hf.dual_residual"):
        for b in (0.0, 0.02, 1.0):
            model.set_coupling((1 - b, b))
            for _ in range(PROBE_INTERVAL + 1):
                model(video).mean().backward()
            modes.append(dict(model.backprop_switch.inverted))
    assert not any(modes[0].values())
    assert not modes[1].get(1, False)
    assert modes[2] == {0: True, 1: True}
    assert "inverts it" in caplog.text and "beta = 1.000" in caplog.text
    assert 0 < model.reconstruction_errors.largest() < 1e-5


def test_the_bound_grows_with_every_division():
    switch = BackpropSwitch(largest_error=1e-3)
    stages = [Stage(torch.nn.Identity(), [torch.nn.Identity()] * 4)]
    errors = {0: torch.tensor(1e-4)}
    assert switch.choose(stages, [Coupling(0.2, 0.8)], errors)[0] == ["reversible"]
    # The same measurement, taken at b = 0.8, promises 4.5 times the error at 0.55 and 51 times at 0.3.
    assert switch.choose(stages, [Coupling(0.5, 0.55)], errors)[0] == ["reversible"]
    assert switch.choose(stages, [Coupling(0.6, 0.3)], errors)[0] == ["checkpoint"]
    assert switch.choose(stages, [Coupling(0.6, 0.0)], errors)[0] == ["checkpoint"]


def test_it_goes_back_to_stored_inputs_with_a_warning(caplog):
    switch = BackpropSwitch(largest_error=1e-3)
    stages = [Stage(torch.nn.Identity(), [torch.nn.Identity()])]
    assert switch.choose(stages, [Coupling(0.0, 1.0)], {0: torch.tensor(1e-4)})[0] == ["reversible"]
    assert switch.choose(stages, [Coupling(0.0, 1.0)], {0: torch.tensor(1.5e-3)})[0] == ["reversible"]
    assert switch.choose(stages, [Coupling(0.0, 1.0)], {0: torch.tensor(float("nan"))})[0] == ["checkpoint"]
    assert "stored inputs" in caplog.text


@pytest.mark.training
def test_a_saved_model_keeps_its_coefficients(video, tmp_path):
    model = Re2TALModel(Re2TALConfig(backbone_config=SWIN, rewiring="dr2net")).eval()
    model.set_coupling((0.25, 0.75))
    model.save_pretrained(tmp_path)
    loaded = Re2TALModel.from_pretrained(tmp_path).eval()
    assert loaded.backbone.couplings() == [(0.25, 0.75)] * 2
    assert loaded.config.coupling is None
    videos = video.transpose(1, 2)
    expected = model(videos).last_hidden_state
    assert_close(loaded(videos).last_hidden_state, expected, depth=depth_of(model))
    half = Re2TALModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.backbone.coupling.dtype == torch.float32
    # Exported before it ran once.
    exported = torch.export.export(Re2TALModel.from_pretrained(tmp_path).eval(), (videos,)).module()
    assert_close(exported(videos).last_hidden_state, expected, depth=depth_of(model))


def test_the_coefficients_are_a_buffer(video):
    model = backbone()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert state.keys() - backbone("none").state_dict().keys() == {"coupling"}
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    model.set_coupling([(0.5, 0.25), (0.0, 1.0)])
    average.update_parameters(model)
    copied = copy.deepcopy(model)
    loaded = backbone()
    loaded.load_state_dict(model.state_dict())
    for other in (average.module, copied, loaded):
        assert other.couplings() == [(0.5, 0.25), (0.0, 1.0)]
        assert torch.equal(other.eval()(video), model.eval()(video))
    model.load_state_dict(state)
    assert model.couplings() == [(1.0, 0.0)] * 2


def test_weights_of_another_rewiring(tmp_path):
    pretrained, moving = backbone("none"), backbone(coupling=(0.5, 0.5))
    moving.load_state_dict(pretrained.state_dict())
    assert moving.couplings() == [(0.5, 0.5)] * 2
    pretrained.load_state_dict(moving.state_dict())
    rewire(moving, "re2tal")
    assert moving.state_dict().keys() == pretrained.state_dict().keys()
    model = Re2TALModel(Re2TALConfig(backbone_config=SWIN, rewiring="dr2net", coupling=[0.5, 0.5]))
    model.save_pretrained(tmp_path / "dr2net")
    rewired = Re2TALModel.from_pretrained(tmp_path / "dr2net", rewiring="re2tal", coupling=None)
    rewired.save_pretrained(tmp_path / "re2tal")
    again = Re2TALModel.from_pretrained(tmp_path / "re2tal", rewiring="dr2net", coupling=[0.25, 0.75])
    assert again.backbone.couplings() == [(0.25, 0.75)] * 2
    load_backbone_weights(rewired.backbone, str(tmp_path / "dr2net"))
    load_backbone_weights(again.backbone, str(tmp_path / "dr2net"))
    assert again.backbone.couplings() == [(0.25, 0.75)] * 2


@pytest.mark.parametrize(
    ("rewiring", "coupling", "message"),
    [
        ("dr2net", (1.5, 0.0), "between 0 and 1"),
        ("dr2net", (0.5,), "two coefficients"),
        ("re2tal", (0.0, 1.0), "fixed"),
        ("dr2nett", None, "choose one of"),
    ],
)
def test_bad_coefficients_are_refused(rewiring, coupling, message):
    with pytest.raises(ValueError, match=message):
        rewire(build_backbone(SWIN), rewiring, "checkpoint", coupling)


def test_a_coupling_for_each_stage():
    with pytest.raises(ValueError, match="1 couplings for 2 stages"):
        backbone(coupling=[(0.5, 0.5)])
    with pytest.raises(ValueError, match="3 couplings for 2 stages"):
        backbone().set_coupling([(0.5, 0.5)] * 3)
