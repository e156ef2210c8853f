"""Detectors on features, of the releases of ActionFormer and TriDet and of OpenTAD, there and back.

That converted reference files compute what they hold is in the tests of the heads, which take them from the conversion.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from conversion_cases import ACTIONFORMER, DETECTORS, VSGN, drawn, refusal, told, write
from golden_weights import read_golden
from head_cases import stored_detections
from tolerances import assert_close, assert_same_detections

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALVideoProcessor
from re2tal_hf.commands.convert import main
from re2tal_hf.commands.evaluate import main as evaluate
from re2tal_hf.conversion.actionformer import actionformer_settings
from re2tal_hf.conversion.names import HEADS_BACK, renamed
from re2tal_hf.conversion.opentad_export import opentad_state
from re2tal_hf.conversion.options_file import Options
from re2tal_hf.head_actionformer import ActionFormerConfig
from re2tal_hf.head_pyramid import sinusoidal_positions
from re2tal_hf.head_tridet import TriDetConfig
from re2tal_hf.loss_points import LocalizationLoss, TriDetLoss
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.recipe_yaml import write_yaml
from re2tal_hf.value_checks import arguments_of

FEATURES = {"model_type": "features", "size": 12, "stride": 1}
RELEASE = {**ACTIONFORMER, "padding": "actionformer", "norm_eps": 1e-5}
TRIDET_RELEASE = RELEASE | {"model_type": "tridet", "num_levels": 3, "mlp_size": 24, "num_bins": 4}
del TRIDET_RELEASE["num_attention_heads"], TRIDET_RELEASE["attention_window"]
HEADS = {
    "full attention": RELEASE,
    "local attention": RELEASE | {"attention_window": 5, "use_position_embedding": True},
    "relative positions": RELEASE | {"attention_window": 5, "use_relative_position_bias": True},
    "windows by level": RELEASE | {"attention_window": [5, 3, None], "num_levels": 3, "num_stem_layers": 1},
    "places by level": RELEASE | {"attention_window": [None, 5], "use_relative_position_bias": True},
    "pyramid neck": RELEASE | {"neck": "fpn", "num_levels": 4},
    "sizes": RELEASE
    | {"num_embedding_layers": 3, "num_stem_layers": 0, "num_head_layers": 1, "num_attention_heads": 4},
}
# As the release's configurations for THUMOS-14, ActivityNet and HACS differ: windows, and what the branches are like.
TRIDETS = {
    "one step": TRIDET_RELEASE,
    "wide windows": TRIDET_RELEASE
    | {"window": [1, 15, 15], "window_factor": 1.3, "branch_size": 24, "use_position_embedding": True},
    "other branches": TRIDET_RELEASE
    | {"window": [1, 3, 3], "window_factor": 1, "branch_kernel_size": 5, "boundary_kernel_size": 1, "conv_std": 0.1},
}


def detector(head: dict) -> Re2TALForTemporalActionLocalization:
    config = Re2TALConfig(backbone_config=FEATURES, head_config=head, rewiring="none", num_labels=3)
    return drawn(Re2TALForTemporalActionLocalization(config))


def release_state(model: Re2TALForTemporalActionLocalization) -> dict:
    """The tensors of a detector as the releases have them."""
    state, tridet = {}, model.config.head_config["model_type"] == "tridet"
    for name, tensor in model.head.state_dict().items():
        new = renamed(name, HEADS_BACK["tridet_release" if tridet else "actionformer"])
        if new.endswith("rel_pe"):
            tensor = tensor[None, None]
        elif "norm" in new or ".ln" in new or "drop_path" in new:
            tensor = tensor.view(1, -1, 1)
        elif tensor.dim() == 2:
            tensor = tensor[..., None]
        state[new] = tensor
    return state


def assert_same(found: Re2TALForTemporalActionLocalization, expected: Re2TALForTemporalActionLocalization) -> None:
    ours, theirs = found.head.state_dict(), expected.head.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    features = torch.randn(2, 11, 12)
    mask = torch.arange(11) < torch.tensor([[11], [6]])
    with torch.no_grad():
        outputs = [model(temporal_features=features, feature_mask=mask) for model in (found, expected)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].pred_segments, outputs[1].pred_segments)


def tridet_release(state: dict, features: torch.Tensor, head: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What TriDet's release computes of features `[1, D, T]`, by its formulas and from its tensors.

    Returns:
        Logits `[P, K]`, offsets `[P, K, 2]` in strides and which points are real.
    """

    def conv(name, x, groups=1):
        weight = state[f"{name}.weight"]
        return functional.conv1d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, groups=groups)

    def norm(name, x, eps=1e-5):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def block(name, x, mask, stride):
        if stride == 2:
            x, mask = functional.max_pool1d(x, 3, 2, padding=1), mask[..., ::2]
        normed, size = norm(f"{name}.ln", x), x.shape[1]
        instant, gate, narrow, wide = (
            conv(f"{name}.{part}", normed, size) for part in ("fc", "psi", "convw", "convkw")
        )
        context = conv(f"{name}.global_fc", normed.mean(-1, keepdim=True), size).relu()
        added = instant * context + (narrow + wide) * gate + normed
        x = x * mask + added * state.get(f"{name}.drop_path_out.scale", 1)
        hidden = functional.group_norm(x, 16, state[f"{name}.gn.weight"], state[f"{name}.gn.bias"])
        hidden = conv(f"{name}.mlp.2", functional.gelu(conv(f"{name}.mlp.0", hidden)))
        return x + hidden * state.get(f"{name}.drop_path_mlp.scale", 1), mask

    def branch(name, predictor, x, mask):
        for layer in range(2):
            x = norm(f"{name}.norm.{layer}", conv(f"{name}.head.{layer}.conv", x) * mask).relu()
        return conv(f"{name}.{predictor}.conv", x) * mask

    length, padded = features.shape[-1], max(8, features.shape[-1])
    x = functional.pad(features, (0, padded - length))
    mask = (torch.arange(padded) < length).to(x)[None, None]
    for layer in range(2):
        x = norm(f"backbone.embd_norm.{layer}", conv(f"backbone.embd.{layer}.conv", x) * mask).relu()
    if head["use_position_embedding"]:
        x = x + sinusoidal_positions(8, 16).T[None].to(x) * mask
    for layer in range(2):
        x, mask = block(f"backbone.stem.{layer}", x, mask, 1)
    found, bins = [], 4
    for level in range(3):
        x, mask = block(f"backbone.branch.{level - 1}", x, mask, 2) if level else (x, mask)
        y = norm(f"neck.fpn_norms.{level}", x)
        scale = state[f"reg_head.scale.{level}.scale"]
        relative = (branch("reg_head", "offset_head", y, mask) * scale).relu()[0].unflatten(0, (2, bins + 1))
        sides = [branch(f"{side}_head", "cls_head", y, mask)[0] for side in ("start", "end")]
        start, end = functional.pad(sides[0], (bins, 0)), functional.pad(sides[1], (0, bins))
        offsets = torch.zeros(y.shape[-1], 3, 2, dtype=y.dtype)
        for step in range(y.shape[-1]):
            before = (start[:, step : step + bins + 1] + relative[0, :, step]).softmax(-1)
            after = (end[:, step : step + bins + 1] + relative[1, :, step]).softmax(-1)
            offsets[step, :, 0] = before @ torch.arange(bins, -1, -1).to(y)
            offsets[step, :, 1] = after @ torch.arange(bins + 1).to(y)
        found.append((branch("cls_head", "cls_head", y, mask)[0].T, offsets, mask[0, 0] > 0))
    logits, offsets, real = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, offsets, real


def options_of(head: dict, path: Path) -> Path:
    """Settings as actionformer_release's file has them; defaults of its code are left out of it."""
    window = head["attention_window"]
    model = {"n_head": head["num_attention_heads"], "fpn_type": head.get("neck", "identity")}
    model |= {"use_abs_pe": head["use_position_embedding"], "use_rel_pe": "use_relative_position_bias" in head}
    if window:
        model["n_mha_win_size"] = [each or -1 for each in window] if isinstance(window, list) else window
    values = {"dataset": {"max_seq_len": head["max_length"]}, "model": model, "test_cfg": {"max_seg_num": 77}}
    path.write_text(write_yaml(values))
    return path


@pytest.mark.parametrize("case", HEADS)
def test_a_detector_of_actionformer_release(case, tmp_path):
    model = detector(HEADS[case])
    source = write(tmp_path / "epoch_035.pth.tar", release_state(model))
    options = options_of(HEADS[case], tmp_path / "thumos.yaml")
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(source), *arguments]) == 0
    back = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    assert_same(back, model)
    assert back.config.loss_config["initial_normalizer"] == float(back.criterion.normalizer) == 2000
    processor = Re2TALVideoProcessor.from_pretrained(tmp_path / "model")
    assert processor.max_detections == 77 and processor.voting_threshold is None and processor.nms_min_score == 0.01
    with pytest.raises(ValueError, match="give temporal_features"):
        back(torch.randn(1, 8, 3, 16, 16))


@pytest.mark.parametrize("case", TRIDETS)
def test_a_detector_of_the_release_of_tridet(case, tmp_path):
    head = TRIDETS[case]
    model = detector(head)
    source = write(tmp_path / "epoch_039.pth.tar", release_state(model))
    window = head.get("window", [1])[-1]
    values = {"model": {"backbone_type": "SGP", "n_sgp_win_size": window, "k": head.get("window_factor", 5)}}
    values["model"] |= {"input_noise": 0.3} | ({"init_conv_vars": head["conv_std"]} if head.get("conv_std") else {})
    values["model"] |= {"sgp_mlp_dim": 24, "num_bins": 4, "use_abs_pe": head["use_position_embedding"]}
    values["model"] |= {"head_kernel_size": head.get("branch_kernel_size", 3), "iou_weight_power": 0.2}
    values["model"] |= {"boudary_kernel_size": head.get("boundary_kernel_size", 3)}
    values["dataset"] = {"max_seq_len": 8, "feat_stride": 4, "num_frames": 16}
    (options := tmp_path / "a.yaml").write_text(write_yaml(values), encoding="utf-8")
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(source), *arguments]) == 0
    back = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    assert_same(back, model)
    assert back.config.loss_config["iou_weight_power"] == 0.2
    assert (back.head.config.input_noise, back.head.config.conv_std) == (0.3, head.get("conv_std", 0.0))
    processor = Re2TALVideoProcessor.from_pretrained(tmp_path / "model")
    assert processor.feature_stride == 4 and processor.feature_offset == 8 and processor.sampling == "whole"


# What configs/thumos_i3d.yaml of TriDet's release says (commit 70e774f), with what libs/core/config.py (10c133e) adds.
TRIDET_THUMOS = {
    "dataset": {"feat_stride": 4, "num_frames": 16, "trunc_thresh": 0.5, "crop_ratio": [0.9, 1.0], "max_seq_len": 2304},
    "model": {"n_sgp_win_size": 1, "num_bins": 16, "k": 5, "iou_weight_power": 0.2, "sgp_mlp_dim": 768},
    "opt": {"learning_rate": 1e-4, "warmup_epochs": 20, "epochs": 20, "weight_decay": 0.025},
    "train_cfg": {"init_loss_norm": 100, "clip_grad_l2norm": 1.0},
    "test_cfg": {"voting_thresh": 0.7, "pre_nms_topk": 2000, "max_seg_num": 2000, "min_score": 0.001},
    "loader": {"batch_size": 2},
}
RANGES = [[0, 4], [4, 8], [8, 16], [16, 32], [32, 64], [64, 10000]]
TRIDET_THUMOS["dataset"] |= {"input_dim": 2048, "num_classes": 20, "default_fps": None}
TRIDET_THUMOS["model"] |= {"input_noise": 5e-4, "regression_range": RANGES, "embd_dim": 512, "head_dim": 512}


# configs/hacs_slowfast.yaml, likewise. One number for all windows stands for six here.
TRIDET_HACS = {
    "dataset": {"feat_stride": 8, "num_frames": 32, "trunc_thresh": 0.5, "crop_ratio": [0.9, 1.0], "max_seq_len": 960},
    "model": {"n_sgp_win_size": [3] * 6, "num_bins": 14, "k": 1.2, "iou_weight_power": 1, "sgp_mlp_dim": 1024},
    "opt": {"learning_rate": 1e-3, "eta_min": 5e-4, "warmup_epochs": 7, "epochs": 4, "weight_decay": 0.03},
    "train_cfg": {"init_loss_norm": 400, "clip_grad_l2norm": 0.5, "label_smoothing": 0.1},
    "test_cfg": {"pre_nms_topk": 2000, "max_seg_num": 250, "min_score": 0.001, "nms_sigma": 0.75},
    "loader": {"batch_size": 16},
}
TRIDET_HACS["dataset"] |= {"input_dim": 2304, "num_classes": 200, "default_fps": 15}
TRIDET_HACS["model"] |= {"use_abs_pe": True, "head_kernel_size": 5, "boudary_kernel_size": 1, "input_noise": 0.2}
TRIDET_HACS["model"] |= {"init_conv_vars": 0.1, "regression_range": RANGES, "embd_dim": 1024, "head_dim": 1024}

# configs/anet_tsp.yaml, likewise.
TRIDET_ANET = {
    "dataset": {"feat_stride": 16, "num_frames": 16, "trunc_thresh": 0.5, "crop_ratio": [0.9, 1.0], "max_seq_len": 768},
    "model": {"n_sgp_win_size": [15] * 6, "num_bins": 12, "k": 1.3, "iou_weight_power": 1, "sgp_mlp_dim": 2048},
    "opt": {"learning_rate": 1e-3, "eta_min": 5e-5, "warmup_epochs": 10, "epochs": 5, "weight_decay": 0.04},
    "train_cfg": {"init_loss_norm": 400, "clip_grad_l2norm": 0.4, "label_smoothing": 0.1},
    "test_cfg": {"voting_thresh": 0.95, "pre_nms_topk": 2000, "max_seg_num": 200, "min_score": 0.001, "nms_sigma": 0.7},
    "loader": {"batch_size": 16},
}
TRIDET_ANET["dataset"] |= {"input_dim": 512, "num_classes": 1, "default_fps": 15}
TRIDET_ANET["model"] |= {"use_abs_pe": True, "input_noise": 0.5, "init_conv_vars": 0.2, "regression_range": RANGES}
TRIDET_ANET["model"] |= {"embd_dim": 256, "head_dim": 512}
TRIDET_ANET["test_cfg"] |= {"multiclass_nms": False, "duration_thresh": 0.1}

# configs/epic_slowfast_verb.yaml and epic_slowfast_noun.yaml, likewise.
TRIDET_VERBS = {
    "dataset": {"feat_stride": 16, "num_frames": 32, "trunc_thresh": 0.3, "crop_ratio": [0.9, 1.0]},
    "model": {"n_sgp_win_size": [5] * 6, "num_bins": 16, "k": 2, "iou_weight_power": 0.25, "sgp_mlp_dim": 1024},
    "opt": {"learning_rate": 1e-4, "eta_min": 5e-5, "warmup_epochs": 5, "epochs": 22, "weight_decay": 0.05},
    "train_cfg": {"init_loss_norm": 250, "clip_grad_l2norm": 1.0},
    "test_cfg": {"pre_nms_topk": 5000, "max_seg_num": 2000, "min_score": 0.001, "nms_sigma": 0.4},
    "loader": {"batch_size": 2},
}
TRIDET_VERBS["dataset"] |= {"max_seq_len": 2304, "input_dim": 2304, "num_classes": 97, "default_fps": 30}
TRIDET_VERBS["model"] |= {"regression_range": [[0, 4], [2, 8], [4, 16], [8, 32], [16, 64], [32, 10000]]}
TRIDET_VERBS["model"] |= {"embd_dim": 512, "head_dim": 512}
TRIDET_NOUNS = TRIDET_VERBS | {
    "model": TRIDET_VERBS["model"] | {"n_sgp_win_size": 1, "k": 4},
    "opt": {"learning_rate": 1e-4, "warmup_epochs": 5, "epochs": 14, "weight_decay": 0.05},
    "train_cfg": TRIDET_VERBS["train_cfg"] | {"label_smoothing": 0.1},
}

TRIDET_RECIPES = {
    "features_tridet": TRIDET_THUMOS,
    "hacs_tridet": TRIDET_HACS,
    "activitynet_tridet": TRIDET_ANET,
    "epic_verbs_tridet": TRIDET_VERBS,
    "epic_nouns_tridet": TRIDET_NOUNS,
}


def held_against(recipe, facts, head, config_class, loss_class):
    """Asserts that a recipe says what the release's file does; returns head and processor."""
    settings = {field: value for field, value in recipe.model["head_config"].items() if field != "model_type"}
    processor, config = Re2TALVideoProcessor(**recipe.processor), config_class(**settings)
    loss = arguments_of(loss_class).defaults | recipe.model["loss_config"]
    said = actionformer_settings(Options(facts, "the release's settings"), head)
    assert config.ranges == [tuple(pair) for pair in said.pop("head_config.regression_ranges")]
    del said["processor.nms_iou_threshold"]  # of hard suppression
    ours = {"loss_config": loss, "head_config": vars(config), "processor": vars(processor)}
    for place, value in said.items():
        section, _, field = place.partition(".")
        if not (field.startswith("feature_") and recipe.name.startswith("features_")):  # there those are of the folder
            assert ours[section][field] == value, place
    return config, processor


@pytest.mark.parametrize("name", TRIDET_RECIPES)
def test_the_recipes_of_tridet_have_the_settings_of_its_release(name):
    facts, recipe = TRIDET_RECIPES[name], load_recipe(name)
    config, processor = held_against(recipe, facts, "tridet", TriDetConfig, TriDetLoss)
    model, cut = facts["model"], facts["dataset"]
    assert (config.window_factor, config.num_levels, config.hidden_size) == (model["k"], 6, model["embd_dim"])
    assert (config.branch_size or config.hidden_size) == model["head_dim"]
    assert recipe.model["backbone_config"].get("size", 2048) == cut["input_dim"]
    assert processor.num_frames == cut["max_seq_len"] and recipe.data.class_agnostic == (cut["num_classes"] == 1)
    if recipe.data.class_agnostic:
        assert processor.num_video_classes == 2  # `postprocess_results` of actionformer_release
    training, opt = recipe.training, facts["opt"]
    assert training.final_learning_rate == opt.get("eta_min", 0)
    assert (training.epochs, training.warmup_epochs) == (opt["epochs"] + opt["warmup_epochs"], opt["warmup_epochs"])
    assert (training.learning_rate, training.weight_decay) == (opt["learning_rate"], opt["weight_decay"])
    assert training.max_gradient_norm == facts["train_cfg"]["clip_grad_l2norm"]
    assert training.batch_size == facts["loader"]["batch_size"]
    assert (recipe.data.truncation_threshold, recipe.data.crop_ratio) == (cut["trunc_thresh"], cut["crop_ratio"])


# configs/thumos_i3d.yaml of actionformer_release (commit 88f6110), which 66.83 was measured with.
ACTIONFORMER_THUMOS = {
    "dataset": {"max_seq_len": 2304},
    "model": {"n_mha_win_size": 19, "regression_range": RANGES},
    "train_cfg": {"init_loss_norm": 100, "cls_prior_prob": 0.01},
    "test_cfg": {"voting_thresh": 0.7, "pre_nms_topk": 2000, "max_seg_num": 200, "min_score": 0.001},
}


def test_the_recipe_of_actionformer_has_the_settings_of_its_release():
    recipe = load_recipe("features_actionformer")
    held_against(recipe, ACTIONFORMER_THUMOS, "actionformer", ActionFormerConfig, LocalizationLoss)
    training, data = recipe.training, recipe.data
    assert (training.epochs, training.warmup_epochs, training.batch_size) == (30 + 5, 5, 2)
    assert (training.learning_rate, training.weight_decay, training.max_gradient_norm) == (1e-4, 0.05, 1.0)
    assert (data.truncation_threshold, data.crop_ratio) == (0.5, [0.9, 1.0])


@pytest.mark.parametrize("case", TRIDETS)
def test_the_release_of_tridet_computes_what_its_head_does(case):
    model = detector(TRIDETS[case]).double()
    features = torch.randn(1, 12, 6, dtype=torch.float64)
    with torch.no_grad():
        output = model.head(features, torch.ones(1, 6, dtype=torch.bool))
        logits, offsets, real = tridet_release(release_state(model), features, TRIDETS[case])
    assert_close(output.logits[0, real], logits[real])
    assert_close(output.offsets[0, real], offsets[real])


@pytest.mark.parametrize("head", [DETECTORS["swin"][2], DETECTORS["tridet windows"][2], VSGN])
def test_a_detector_of_opentad_on_features(head, tmp_path):
    model = detector(head)
    source = write(tmp_path / "a.pth", opentad_state(model))
    assert main([str(source), "--from", "opentad", "--output", str(tmp_path / "model"), *told(model)]) == 0
    assert_same(Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model"), model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"backbone_type": "conv"}}, "model.backbone_type is 'conv'; ours is 'convTransformer'"),
        ({"model": {"n_head": "two"}}, "model.n_head is 'two'"),
        ({"model": {"n_mha_win_size": [5, 9, 5]}}, "attention_window is [5, 9, 5] for num_levels=2"),
        ({"model": {"fpn_type": "fpn"}}, "head_config.neck is 'fpn' by a.yaml, and 'identity' by the weights"),
        ({"dataset": {"max_seq_len": -3}}, "max_length is -3"),
    ],
)
def test_settings_that_do_not_fit(values, message, tmp_path, capsys):
    source = write(tmp_path / "a.pth", release_state(detector(RELEASE)))
    (options := tmp_path / "a.yaml").write_text(write_yaml(values))
    assert message in refusal(capsys, source, "--options", str(options), kind="actionformer")


def test_other_checkpoints_are_refused(tmp_path, capsys):
    state = release_state(detector(RELEASE))
    source = write(tmp_path / "a.pth", state | {"backbone.stem.0.psi.weight": torch.ones(3)})
    assert "looks like tridet, but is not complete" in refusal(capsys, source, kind="actionformer")
    source = write(tmp_path / "a.pth", {"layer.weight": torch.ones(3)})
    assert "looks like actionformer, but is not complete" in refusal(capsys, source, kind="actionformer")
    source = write(tmp_path / "a.pth", state | {"backbone.proj.0.conv.weight": torch.ones(3)})
    lines = refusal(capsys, source, *told(detector(RELEASE)), kind="actionformer")
    assert "no place for 1 tensors (backbone.proj.0.conv.weight)" in lines


def test_a_reference_by_the_command(model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / "a5_actionformer_release_full.safetensors")
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    (options := tmp_path / "a.yaml").write_text(write_yaml(json.loads(metadata["config"])))
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(write(tmp_path / "a.pth", state)), *arguments]) == 0
    model = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, state[name]) for name, tensor in release_state(model).items())


@pytest.mark.training
def test_detections_of_a_reference_by_the_command(model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / "a5_actionformer_release_full.safetensors")
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    (options := tmp_path / "a.yaml").write_text(write_yaml(json.loads(metadata["config"])), encoding="utf-8")
    arguments = ["--from", "actionformer", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(write(tmp_path / "a.pth", state)), *arguments]) == 0
    (tmp_path / "features").mkdir()
    database = {}
    for index in range(4):
        np.save(tmp_path / "features" / f"v{index}.npy", tensors[f"feats.{index}"].numpy().T)
        rate, duration = (25, 8) if index == 3 else (30, 10 + index)  # as in the reference
        actions = [{"segment": [1, 2], "label": f"LABEL_{index}"}]
        database[f"v{index}"] = {"subset": "test", "fps": rate, "duration": duration, "annotations": actions}
    (annotations := tmp_path / "a.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    places = ["--model", str(tmp_path / "model"), "--features", str(tmp_path / "features"), "--subset", "test"]
    target = tmp_path / "detections.json"
    assert evaluate([*places, "--annotations", str(annotations), "--detections", str(target)]) == 0
    results = json.loads(target.read_text(encoding="utf-8"))["results"]
    for index in range(4):
        expected = stored_detections(tensors, f"det.{index}")
        inside = expected[0][:, 1] - expected[0][:, 0] > 1e-4  # what lies behind the video is dropped here
        rows = [row for row in results[f"v{index}"] if row["segment"][1] - row["segment"][0] > 1e-4]
        segments, scores = (torch.tensor([row[name] for row in rows]) for name in ("segment", "score"))
        labels = torch.tensor([int(row["label"].removeprefix("LABEL_")) for row in rows])
        assert_same_detections((segments, scores, labels), [value[inside] for value in expected], 2e-4, 1e-5)


@pytest.mark.training
@pytest.mark.parametrize("name", ["a4_actionformer_opentad_full", "a6_tridet_opentad"])
def test_detections_of_opentad_by_its_options(name, model_goldens, tmp_path):
    tensors, metadata = read_golden(model_goldens / f"{name}.safetensors")
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    meta, count = json.loads(metadata["metas"])[0], int(tensors["masks"][0].sum())
    test = {"feature_stride": meta["snippet_stride"], "offset_frames": meta["offset_frames"]}
    config = {"model": json.loads(metadata["config"]), "post_processing": json.loads(metadata["post_cfg"])}
    config["dataset"] = {"test": test | {"pipeline": [{"type": "LoadFeats", "feat_format": "npy"}]}}
    (options := tmp_path / "a.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = ["--from", "opentad", "--output", str(tmp_path / "model"), "--options", str(options)]
    assert main([str(write(tmp_path / "a.pth", state)), *arguments]) == 0
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "vid_a.npy", tensors["input"][0, :, :count].numpy().T)
    video = {"subset": "test", "fps": meta["fps"], "duration": meta["duration"]}
    video["annotations"] = [{"segment": [1, 2], "label": "LABEL_0"}]
    (annotations := tmp_path / "b.json").write_text(json.dumps({"database": {"vid_a": video}}), encoding="utf-8")
    places = ["--model", str(tmp_path / "model"), "--features", str(tmp_path / "features"), "--subset", "test"]
    target = tmp_path / "detections.json"
    assert evaluate([*places, "--annotations", str(annotations), "--detections", str(target)]) == 0
    rows = json.loads(target.read_text(encoding="utf-8"))["results"]["vid_a"]
    segments, scores = (torch.tensor([row[name] for row in rows]) for name in ("segment", "score"))
    labels = torch.tensor([int(row["label"].removeprefix("LABEL_")) for row in rows])
    expected = stored_detections(tensors, "det.nosliding.vid_a")
    inside = expected[0][:, 1] > expected[0][:, 0]  # what lies behind the video is dropped here
    # Times are rounded to hundredths there, and scores to ten-thousandths.
    assert_same_detections((segments, scores, labels), [value[inside] for value in expected], 0.011, 1.1e-4)
