"""SlowFast against its own plain forward and against the reference implementations."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from golden_weights import SLOWFAST, assert_gradients_of_reference, read_golden
from tolerances import assert_close, assert_gradients_close, depth_of
from torch import nn

from re2tal_hf import Re2TALConfig, Re2TALModel, rewire
from re2tal_hf.backbone_rates import at_feature_rate
from re2tal_hf.conversion.names import slowfast_name
from re2tal_hf.network_slowfast import FastOnly, SlowFast, SlowOnly
from re2tal_hf.reversible import run_stages
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training.memory import saved_for_backward

SMALL = {**SLOWFAST, "stage_blocks": [2, 2, 2, 2], "channel_ratio": 2, "fusion_kernel": 5}


def small_model(**settings) -> SlowFast:
    sizes = {name: value for name, value in SMALL.items() if name != "model_type"}
    return SlowFast(**{**sizes, "num_classes": 7, **settings})


def with_statistics_of_data(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, std=0.3)
    return model


def reference_weights(model_goldens, reference: str) -> dict:
    weights, _ = read_golden(model_goldens / f"{reference}.state.safetensors")
    return {slowfast_name(name): tensor for name, tensor in weights.items()}


def pathways(model, inputs):
    return run_stages(model.architecture.stages(model), inputs, model.couplings()[0], model.backprop)


@pytest.mark.parametrize("case", ["case0", "case1"])
@pytest.mark.parametrize(
    ("reference", "rewiring", "backprop"),
    [
        ("a2_slowfast_inv_r50a", "re2tal", "reversible"),
        ("a2_slowfast_inv_r50a", "re2tal", "checkpoint"),
        ("a2_slowfast_inv_r50a", "re2tal", "plain"),
        ("a3_slowfast_r50a", "none", "checkpoint"),
        ("a3_slowfast_r50a", "none", "plain"),
    ],
)
def test_reference_outputs_and_gradients(model_goldens, reference, case, rewiring, backprop):
    golden = read_golden(model_goldens / f"{reference}.{case}.safetensors")
    model = build_backbone(SLOWFAST, rewiring, backprop)
    model.load_state_dict(reference_weights(model_goldens, reference))
    model.train()

    for dtype in (torch.float64, torch.float32):
        model = copy.deepcopy(model).to(dtype)
        model.zero_grad()
        inputs = golden[0]["input"].to(dtype).requires_grad_()
        outputs = pathways(model, inputs)
        loss = sum((output * golden[0][f"R.{i}"].to(dtype)).sum() for i, output in enumerate(outputs))
        loss.backward()
        assert len(outputs) == 2
        depth = depth_of(model)
        for i, output in enumerate(outputs):
            assert_close(output, golden[0][f"f64.out.{i}"], depth=depth, what=i)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()} | {"input": inputs.grad}
        assert_gradients_of_reference(golden, gradients, slowfast_name, depth)


@pytest.mark.parametrize(("reference", "rewiring"), [("a2_slowfast_inv_r50a", "re2tal"), ("a3_slowfast_r50a", "none")])
def test_reference_stages(model_goldens, reference, rewiring):
    golden, _ = read_golden(model_goldens / f"{reference}.case0.safetensors")
    model = build_backbone(SLOWFAST, rewiring, "plain")
    model.load_state_dict(reference_weights(model_goldens, reference))
    stages = model.architecture.stages(model)
    with torch.no_grad():
        found = {"fast_path.maxpool": run_stages(stages[:1], golden["input"], model.couplings()[0], "plain")[0]}
        for level in range(1, 5):
            ends = run_stages(stages[: 2 * level + 1], golden["input"], model.couplings()[0], "plain")
            found |= {f"slow_path.layer{level}": ends[0], f"fast_path.layer{level}": ends[1]}
    for name, output in found.items():
        assert_close(output, golden[f"f64.stage.{name}.stored_as_f32"], depth=depth_of(model), what=name)


def test_names_are_mmaction2s(model_goldens):
    _, metadata = read_golden(model_goldens / "a3_slowfast_r50a.state.safetensors")
    names = json.loads(metadata["all_keys"])
    assert list(build_backbone(SLOWFAST).state_dict()) == names
    keymap = json.loads((model_goldens / "keymap_slowfast_r50a_nonrev_to_rev.json").read_text())
    assert {slowfast_name(theirs): ours for ours, theirs in keymap.items()} == {name: name for name in names}


# Millions of parameters in mmaction2's table of models, classifier of 400 classes included.
@pytest.mark.parametrize(
    ("variant", "millions"), [("50_4x16", 34.479), ("50_8x8", 34.566), ("101_8x8", 62.912), ("101_4x16", 62.826)]
)
def test_variants_have_the_published_sizes(variant, millions):
    with torch.device("meta"):
        model = build_backbone({"model_type": "slowfast", "variant": variant, "num_classes": 400})
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert model.architecture.feature_size(model) == 2048 + 256
    assert model.architecture.feature_stride(model) == {"4x16": 8, "8x8": 4}[variant.split("_")[1]]


def test_single_pathways_have_the_names_and_sizes_of_their_own():
    with torch.device("meta"):
        slow_only = build_backbone({"model_type": "slow_only", "variant": "50_8x8", "num_classes": 400})
        fast_only = build_backbone({"model_type": "fast_only", "variant": "50_8x8"})
        fast = SlowFast(50).fast_path
    assert sum(p.numel() for p in slow_only.parameters()) / 1e6 == pytest.approx(32.454, abs=5e-4)
    assert {n: t.shape for n, t in fast_only.state_dict().items()} == {n: t.shape for n, t in fast.state_dict().items()}
    for model, size in ((slow_only, 2048), (fast_only, 256)):
        assert model.architecture.feature_size(model) == size
        assert model.architecture.feature_stride(model) == 4


@pytest.mark.parametrize("model_class", [SlowFast, SlowOnly, FastOnly])
@pytest.mark.parametrize("frames", [16, 13, 1])
def test_no_rewiring_is_the_plain_forward(model_class, frames):
    model = with_statistics_of_data(model_class(stage_blocks=[2, 2, 2], base_channels=16, num_classes=7)).double()
    model.eval()
    inputs = torch.randn(2, 3, frames, 33, 47, dtype=torch.float64)
    expected = model(inputs)
    assert expected.shape == (2, 7)
    assert_close(rewire(model, "none", "plain")(inputs), expected)
    assert (rewire(model)(inputs) - expected).abs().max() > 1e-3


def test_the_classifier_takes_the_fast_pathway_first():
    model = small_model().double().eval()
    inputs = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    slow, fast = (output.mean((2, 3, 4)) for output in model.pathways(inputs))
    expected = F.linear(torch.cat((fast, slow), 1), model.cls_head.fc_cls.weight, model.cls_head.fc_cls.bias)
    assert_close(model(inputs), expected)


@pytest.mark.parametrize(("frames", "feature_stride"), [(16, 4), (16, 2), (16, 8), (16, 1)])
def test_features_are_pathways_interpolated_to_one_rate(frames, feature_stride):
    model = rewire(small_model(feature_stride=feature_stride), "none", "plain").double().eval()
    inputs = torch.randn(2, 3, frames, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        pooled = [output.mean((3, 4)) for output in model.pathways(inputs)]
        expected = [F.interpolate(x, size=frames // feature_stride, mode="linear") for x in pooled]
        features = model.temporal_features(inputs)
    assert_close(features, torch.cat(expected, 1).transpose(1, 2))


def test_features_lie_where_their_frames_do():
    frames = torch.arange(9.0).view(1, 9, 1)
    features = at_feature_rate(frames, 1, 4, 3).flatten()
    assert features.tolist() == [1.5, 5.5, 8.0]
    slow = torch.tensor([0.0, 4.0, 8.0]).view(1, 3, 1)
    assert at_feature_rate(slow, 4, 2, 5).flatten().tolist() == [0.0, 1.0, 3.0, 5.0, 7.0]
    assert torch.equal(at_feature_rate(slow, 4, 4, 3), slow)


@pytest.mark.parametrize("frames", [1, 5, 8, 9])
@pytest.mark.parametrize(("resample_rate", "speed_ratio", "feature_stride"), [(4, 4, None), (4, 2, 2), (2, 1, 4)])
def test_frames_need_not_divide(frames, resample_rate, speed_ratio, feature_stride):
    settings = {"resample_rate": resample_rate, "speed_ratio": speed_ratio, "feature_stride": feature_stride}
    model = rewire(small_model(**settings, stage_blocks=[2, 2]))
    inputs = torch.randn(1, 3, frames, 35, 41)
    with torch.no_grad():
        slow, fast = pathways(model, inputs)
        features = model.temporal_features(inputs)
    assert slow.shape[2] == -(-frames // resample_rate)
    assert fast.shape[2] == -(-frames // (resample_rate // speed_ratio))
    assert features.shape == (1, -(-frames // model.feature_stride), model.feature_size)


def test_norms_keep_their_statistics_and_train_their_parameters():
    model = rewire(small_model())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert not any(norm.training for norm in norms)
    model.train()
    assert model.training
    assert not any(norm.training for norm in norms)
    model(torch.randn(1, 3, 4, 32, 32)).sum().backward()
    assert all(norm.weight.grad is not None and norm.num_batches_tracked == 0 for norm in norms)
    assert all(m.training for m in small_model(norm_eval=False).modules())


def test_statistics_survive_saving(tmp_path):
    model = Re2TALModel(Re2TALConfig(backbone_config=SMALL))
    with_statistics_of_data(model)
    model.save_pretrained(tmp_path)
    loaded = Re2TALModel.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_initialization_covers_the_statistics():
    model = with_statistics_of_data(build_backbone(SMALL))
    model.architecture.initialize(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, torch.full_like(buffer, float(name.endswith("running_var")))), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "50_16x8"}, "variant"),
        ({"variant": "50"}, "variant"),
        ({"depth": 18, "stage_blocks": None}, "depth is 18"),
        ({"speed_ratio": 3}, "resample_rate is 4; choose a multiple of 3"),
        ({"channel_ratio": 3}, "base_channels is 8; choose a multiple of 3"),
        ({"speed_ratio": 2, "feature_stride": 3}, "feature_stride is 3; choose a multiple of 2"),
        ({"fusion_kernel": 4}, "choose an odd number"),
        ({"base_width": 8}, "base_width"),
    ],
)
def test_wrong_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_backbone({**SMALL, **change})


def test_a_deep_network_of_new_weights_can_be_inverted():
    model = build_backbone({**SMALL, "stage_blocks": [2, 2, 23]})
    model.temporal_features(torch.randn(1, 3, 8, 32, 32)).square().mean().backward()
    assert 0 < model.reconstruction_errors.largest() < 1e-5


def test_stages_without_reversible_blocks():
    """The reference's second size: one block in the last stage, two input frames for each of the fast pathway's."""
    settings = {"stage_blocks": [2, 3, 2, 1], "base_channels": 16, "channel_ratio": 8, "resample_rate": 8}
    model = with_statistics_of_data(build_backbone({**SMALL, **settings})).double()
    inputs = torch.randn(1, 3, 16, 32, 32, dtype=torch.float64)
    gradients = {}
    for backprop in ("plain", "reversible"):
        model.backprop = backprop
        model.zero_grad()
        model.temporal_features(inputs).square().sum().backward()
        gradients[backprop] = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert_gradients_close(gradients["reversible"], gradients["plain"])


@pytest.mark.training
def test_bytes_kept_by_the_published_network():
    """Input, fast stem and two streams a stage, whatever the depth: about a ninth of the plain network's."""
    inputs = torch.randn(1, 3, 32, 112, 112)
    kept = {}
    for variant in ("50_8x8", "101_8x8"):
        model = build_backbone({"model_type": "slowfast", "variant": variant})
        for rewiring, backprop in (("none", "plain"), ("re2tal", "reversible")):
            rewire(model, rewiring, backprop)
            with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
                model.temporal_features(inputs)
            kept[variant, backprop] = saved.total()
    slow = 8 * (256 * 28**2 + 512 * 14**2 + 1024 * 7**2 + 2048 * 4**2)
    fast = slow // 2
    floor = 4 * (3 * 32 * 112**2 + 8 * 32 * 28**2 + 2 * slow + 2 * fast)
    # Beside them only the places between which the features are interpolated.
    assert floor <= kept["50_8x8", "reversible"] == kept["101_8x8", "reversible"] <= floor + 1024
    assert kept["101_8x8", "plain"] > 9 * floor
