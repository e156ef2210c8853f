"""Video Swin against torchvision's own forward and against the reference implementations."""

import copy

import pytest
import torch
from golden_weights import SWIN, assert_gradients_of_reference, read_golden
from tolerances import assert_close, assert_gradients_close, depth_of
from torch import nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from re2tal_hf import rewire
from re2tal_hf.backbone_swin import biased_attention, window_attention
from re2tal_hf.conversion.names import swin_name
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.memory import saved_for_backward


def torchvision_model(**settings) -> SwinTransformer3d:
    sizes = {k: v for k, v in SWIN.items() if k != "model_type"} | {
        "patch_size": [2, 4, 4],
        "num_classes": 7,
    }
    return SwinTransformer3d(**{**sizes, **settings})


def reference_state(model: nn.Module, golden: dict) -> dict:
    state = {swin_name(name): tensor for name, tensor in golden.items()}
    index = state["features.0.0.attn.relative_position_index"]
    repeated = {name: index for name in model.state_dict() if name.endswith("relative_position_index")}
    return state | repeated


@pytest.mark.parametrize("case", ["case0", "case1"])
@pytest.mark.parametrize(
    ("reference", "rewiring", "backprop"),
    [
        ("a1_swin_inv_w277", "re2tal", "reversible"),
        ("a1_swin_inv_w277", "re2tal", "checkpoint"),
        ("a1_swin_inv_w277", "re2tal", "plain"),
        ("a3_swin_w277", "none", "checkpoint"),
        ("a3_swin_w277", "none", "plain"),
    ],
)
def test_reference_outputs_and_gradients(model_goldens, reference, case, rewiring, backprop):
    weights, _ = read_golden(model_goldens / f"{reference}.state.safetensors")
    golden = read_golden(model_goldens / f"{reference}.{case}.safetensors")
    model = build_backbone(SWIN, rewiring, backprop)
    model.load_state_dict(reference_state(model, weights))

    for dtype in (torch.float64, torch.float32):
        model = copy.deepcopy(model).to(dtype)
        model.zero_grad()
        inputs = golden[0]["input"].to(dtype).requires_grad_()
        output = model.forward_features(inputs).permute(0, 4, 1, 2, 3)
        (output * golden[0]["R.0"].to(dtype)).sum().backward()
        assert_close(output, golden[0]["f64.out.0"], depth=depth_of(model))
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()} | {"input": inputs.grad}
        assert_gradients_of_reference(golden, gradients, swin_name, depth_of(model))


def test_stage_outputs(model_goldens):
    weights, _ = read_golden(model_goldens / "a1_swin_inv_w277.state.safetensors")
    golden, _ = read_golden(model_goldens / "a1_swin_inv_w277.case0.safetensors")
    model = build_backbone(SWIN)
    model.load_state_dict(reference_state(model, weights))
    found = {}
    model.patch_embed.register_forward_hook(lambda *a: found.update(patch_embed=a[-1]))
    for i in range(3):
        model.features[2 * i + 1].register_forward_hook(lambda *a, i=i: found.update({f"layers.{i}": a[-1]}))
    with torch.no_grad():
        model.forward_features(golden["input"])
    for name, output in found.items():
        expected = golden[f"f64.stage.{name}.stored_as_f32"]
        assert_close(output.permute(0, 4, 1, 2, 3), expected, depth=depth_of(model), what=name)
    assert len(found) == 4


def test_rewire_keeps_the_users_model():
    model = torchvision_model()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    rewired = rewire(model)
    assert rewired is model
    assert isinstance(model, RewiredModel)
    assert isinstance(model, SwinTransformer3d)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("backprop", ["plain", "checkpoint"])
def test_no_rewiring_is_torchvisions_forward(backprop):
    model = torchvision_model().double().eval()
    inputs = torch.randn(2, 3, 5, 33, 47, dtype=torch.float64)
    expected = model(inputs)
    assert_close(rewire(model, "none", backprop)(inputs), expected)
    assert (rewire(model)(inputs) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("shape", [(1, 3, 4, 32, 32), (2, 3, 7, 45, 61), (1, 3, 1, 4, 4)])
def test_gradients_with_dropout_and_stochastic_depth(shape):
    model = torchvision_model(stochastic_depth_prob=0.3, dropout=0.1, attention_dropout=0.1).double()
    inputs = torch.randn(shape, dtype=torch.float64)
    gradients = {}
    for backprop in ("plain", "checkpoint", "reversible"):
        rewire(model, "re2tal", backprop)
        model.zero_grad()
        torch.manual_seed(7)
        model(inputs).square().sum().backward()
        gradients[backprop] = {n: p.grad.clone() for n, p in model.named_parameters()}
    for backprop in ("checkpoint", "reversible"):
        assert_gradients_close(gradients[backprop], gradients["plain"])


def test_masks_change_from_step_to_step():
    model = rewire(torchvision_model(stochastic_depth_prob=0.5))
    inputs = torch.randn(2, 3, 4, 32, 32)
    first, second = model(inputs), model(inputs)
    assert not torch.equal(first, second)


def test_copies_and_pickles():
    import io

    model = rewire(torchvision_model()).eval()
    inputs = torch.randn(1, 3, 4, 32, 32)
    expected = model(inputs)
    assert torch.equal(copy.deepcopy(model)(inputs), expected)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(inputs), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "swim"}, "known are"),
        ({"variant": "huge"}, "variant"),
        ({"embed_dims": 12}, "embed_dims"),
        ({"embed_dim": None}, "embed_dim is missing; give a variant"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_backbone({**SWIN, **change})


def test_unknown_models_and_rewirings_are_named():
    with pytest.raises(ValueError, match="not a registered architecture"):
        rewire(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="rewiring is"):
        rewire(torchvision_model(), "magic")
    with pytest.raises(ValueError, match="cannot be inverted"):
        rewire(torchvision_model(), "none", "reversible")


@pytest.mark.parametrize("variant", ["tiny", "small", "base"])
def test_variants_have_torchvisions_keys(variant):
    import torchvision

    with torch.device("meta"):
        own = build_backbone({"model_type": "video_swin", "variant": variant}).state_dict()
        library = getattr(torchvision.models.video, f"swin3d_{variant[0]}")().state_dict()
    library = {name: tensor.shape for name, tensor in library.items() if not name.startswith("head.")}
    assert {name: tensor.shape for name, tensor in own.items()} == library


def test_a_bad_reconstruction_is_reported():
    model = rewire(torchvision_model())
    inputs = torch.randn(1, 3, 4, 32, 32)
    model(inputs).sum().backward()
    assert 0 < model.reconstruction_errors.largest() < 1e-4
    model.reconstruction_errors.by_stage[0] = torch.tensor(float("nan"))
    with pytest.warns(UserWarning, match="reconstructed its activations"):
        model(inputs)


def test_bytes_kept_for_backward():
    """Input and two streams a stage: the floor of the method, whatever the depth."""
    kept = {}
    for depths in ([2, 2, 2, 2], [2, 2, 6, 2]):
        for backprop in ("plain", "checkpoint", "reversible"):
            model = torchvision_model(depths=depths, embed_dim=24, num_heads=[1, 2, 4, 8])
            rewire(model, "re2tal", backprop)
            with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
                model.temporal_features(torch.randn(1, 3, 8, 64, 64))
            kept[depths[2], backprop] = saved.total()
    pixels, tokens = 3 * 8 * 64 * 64, 4 * 16 * 16
    streams = 2 * sum(tokens // 4**i * 24 * 2**i for i in range(4))
    merged_for_the_norm = 2 * tokens // 64 * 192 + 2 * tokens // 64
    assert kept[2, "reversible"] == kept[6, "reversible"] <= 4 * (pixels + streams + merged_for_the_norm)
    assert kept[6, "plain"] >= 14 * kept[6, "reversible"]
    assert kept[6, "checkpoint"] > 1.5 * kept[6, "reversible"]


@pytest.mark.parametrize("shape", [(2, 4, 14, 14), (1, 5, 9, 13), (2, 3, 7, 20), (1, 16, 5, 8), (3, 1, 1, 1)])
@pytest.mark.parametrize("shift", [[0, 0, 0], [1, 3, 3], [4, 3, 3]])
def test_window_attention_is_torchvisions(shape, shift):
    window = [8, 7, 7] if shift[0] == 4 else [2, 7, 7]
    attention = ShiftedWindowAttention3d(24, window, shift, num_heads=2).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(*shape, 24, dtype=torch.float64)
    expected = attention(x)
    assert_close(window_attention(attention, x), expected)


def attention_inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, 5, 4, dtype=dtype, generator=generator)
    bias = torch.randn(1, 2, 5, 5, dtype=dtype, generator=generator)
    return [tensor.requires_grad_() for tensor in (query, key, value, bias)]


def test_derivatives_of_attention_with_a_bias():
    inputs = attention_inputs()

    def attend(*tensors):
        return biased_attention(*tensors, dropout=0.0)

    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_is_the_same_with_and_without_gradients(precision):
    inputs = attention_inputs(precision)
    with torch.no_grad():
        expected = biased_attention(*inputs, dropout=0.0)
    assert torch.equal(biased_attention(*inputs, dropout=0.0), expected)
    inputs[3].requires_grad_(False)
    assert torch.equal(biased_attention(*inputs, dropout=0.0), expected)


def test_features_at_another_rate_are_those_of_the_network_interpolated():
    """As OpenTAD interpolates the 384 steps of an ActivityNet video to 192 features."""
    model, slow = build_backbone(SWIN).double(), build_backbone(SWIN | {"feature_stride": 4}).double()
    slow.load_state_dict(model.state_dict())
    videos = torch.randn(1, 16, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        features, found = model.video_features(videos), slow.video_features(videos)
    expected = nn.functional.interpolate(features.mT, 4, mode="linear", align_corners=False).mT
    assert_close(found, expected)
    with torch.no_grad():
        assert slow.video_features(videos[:, :9]).shape[1] == 3
    with pytest.raises(ValueError, match="feature_stride is 3; choose a multiple of 2"):
        build_backbone(SWIN | {"feature_stride": 3})
