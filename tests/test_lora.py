"""LoRA through the configuration and through a recipe, in every backbone."""

import peft
import pytest
import torch
from architecture_cases import CASES
from tolerances import assert_close, assert_gradients_close, depth_of

from re2tal_hf import Re2TALConfig, Re2TALModel
from re2tal_hf.lora import is_lora, merged_state

pytestmark = pytest.mark.usefixtures("exact_softmax")
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def model_of(case, rewiring="re2tal", **lora):
    torch.manual_seed(1)
    return Re2TALModel(Re2TALConfig(backbone_config=case.config, rewiring=rewiring, lora={"r": 2, **lora}))


def video(case):
    frames, height, width = case.shape
    return torch.randn(1, frames, 3, height, width, generator=torch.Generator().manual_seed(2))


def drawn(model):
    """With matrices that add something, in branches that do."""
    for name, parameter in model.backbone.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("weight") and not parameter.any():
            torch.nn.init.ones_(parameter)  # timm's ResNets begin with branches that are scaled by zero
    return model


@every_case
def test_new_lora_leaves_the_network_as_it_is(case):
    torch.manual_seed(1)
    bare, adapted = Re2TALModel(Re2TALConfig(backbone_config=case.config)).eval(), model_of(case).eval()
    bare.backbone.load_state_dict(merged_state(adapted.backbone))
    again = model_of(case).eval()
    assert_close(again(video(case))[0], bare(video(case))[0], depth=depth_of(bare))
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {
        n for n, _ in adapted.named_parameters() if is_lora(n)
    }


@pytest.mark.training
@every_case
@pytest.mark.parametrize("rewiring", ["none", "re2tal", "dr2net"])
def test_gradients_are_the_same_in_all_modes(case, rewiring):
    model = drawn(model_of(case, rewiring)).double().eval()
    if rewiring == "dr2net":
        model.set_coupling((1.0, 0.1))
    found = {}
    for backprop in ("plain", "checkpoint") if rewiring == "none" else ("plain", "checkpoint", "reversible"):
        model.backprop = backprop
        model.zero_grad()
        model(video(case).double())[0].square().mean().backward()
        found[backprop] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found["plain"] and all(map(is_lora, found["plain"]))
    assert all(gradient.any() for name, gradient in found["plain"].items() if ".lora_A" in name)
    for backprop in found.keys() - {"plain"}:
        assert_gradients_close(found[backprop], found["plain"])


@pytest.mark.training
@every_case
def test_lora_is_saved_and_loaded(case, tmp_path):
    model = drawn(model_of(case)).eval()
    model.save_pretrained(tmp_path)
    loaded, info = Re2TALModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, _ in loaded.named_parameters() if is_lora(n)
    }
    with torch.no_grad():
        expected = model(video(case))[0]
        assert_close(loaded.eval()(video(case))[0], expected, depth=depth_of(model))
        merged, loaded = Re2TALModel(Re2TALConfig(backbone_config=case.config)).double().eval(), loaded.double()
        merged.backbone.load_state_dict(merged_state(loaded.backbone))
        assert_close(merged(video(case).double())[0], loaded(video(case).double())[0], depth=depth_of(model))


def test_what_peft_is_told():
    case = next(case for case in CASES if case.name == "vjepa2")
    model = model_of(case, lora_alpha=4, lora_dropout=0.25, target_modules=["query", "mlp.fc1"])
    layers = {n: m for n, m in model.backbone.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert sorted(layers) == sorted(
        f"encoder.layer.{i}.{end}" for i in (0, 1) for end in ("attention.query", "mlp.fc1")
    )
    for layer in layers.values():
        assert (layer.r["default"], layer.scaling["default"], layer.lora_dropout["default"].p) == (2, 2.0, 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, "lora.rank: there is no such setting"),
        ({"r": 0}, "lora.r is 0"),
        ({"lora_dropout": 1.5}, "lora.lora_dropout is 1.5"),
        ({"target_modules": "query"}, "lora.target_modules is 'query'"),
        ({"target_modules": ["q_proj"]}, "no layer is called 'q_proj'; they end in .*query"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    case = next(case for case in CASES if case.name == "videomae")
    with pytest.raises(ValueError, match=message):
        Re2TALModel(Re2TALConfig(backbone_config=case.config, lora=settings))


def test_lora_stands_beside_adapters():
    case = next(case for case in CASES if case.name == "videomae")
    config = {**case.config, "adapter_width": 4}
    model = Re2TALModel(Re2TALConfig(backbone_config=config, lora={"r": 2, "target_modules": ["dense"]}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".adapters." in n or is_lora(n)}
    assert not any(is_lora(name) for name in trained if ".adapters." in name)
