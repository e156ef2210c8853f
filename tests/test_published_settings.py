"""The recipes of the benchmarks say what OpenTAD's configs say, field by field."""

import functools
from pathlib import Path

import pytest
import torch
from published_settings import EVERY, FEATURES, FEATURES_EVERY, PUBLISHED

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel, Re2TALVideoProcessor
from re2tal_hf.data.augmentation import Augmentation
from re2tal_hf.data.video_files import files_of_id, find_videos
from re2tal_hf.metrics.published_figures import PUBLISHED as PUBLISHED_FIGURES
from re2tal_hf.training.arguments import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "re2tal_hf/recipes"
THUMOS_FRAME_RATE = 30


@functools.cache
def built(name: str):
    recipe = load_recipe(name)
    data, backbone, rewired, published = PUBLISHED[name]
    labels = {0: "action"} if data["class_agnostic"] else {i: str(i) for i in range(20)}
    with torch.device("meta"):
        model = Re2TALForTemporalActionLocalization(Re2TALConfig(**recipe.model, id2label=labels))
    return recipe, EVERY | data, backbone, rewired, published, model


@pytest.mark.parametrize("name", PUBLISHED)
def test_frames(name):
    recipe, facts, *_, model = built(name)
    processor, augmentation = Re2TALVideoProcessor(**recipe.processor), recipe.augmentation
    assert processor.size.shortest_edge == facts["test.Resize"] and processor.do_center_crop
    assert processor.frame_size == (facts["test.CenterCrop"],) * 2 == (facts["crop"],) * 2
    assert augmentation["crop_edge"] == facts["Resize"]
    assert tuple(augmentation["crop_scale"]) == facts["RandomResizedCrop.area_range"]
    assert "crop_ratio" not in augmentation  # the default
    assert augmentation["flip_probability"] == facts["Flip.flip_ratio"]
    clips = Augmentation(**augmentation)
    assert (clips.random_operations, clips.operation_strength) == facts["ImgAug"]
    assert tuple(augmentation[part] for part in ("brightness", "contrast", "saturation", "hue")) == facts["ColorJitter"]
    for ours, theirs in ((processor.image_mean, facts["mean"]), (processor.image_std, facts["std"])):
        assert [255 * value for value in ours] == pytest.approx(theirs)
    length = facts.get("window_size", facts.get("resize_length"))
    assert processor.num_frames == length * facts["scale_factor"]
    assert processor.num_frames // model.model.feature_stride == length
    if "window_size" in facts:
        stride = facts["feature_stride"] / facts["scale_factor"]  # frames of the video for each that is read
        assert (processor.sampling, processor.frame_rate) == ("sliding", THUMOS_FRAME_RATE / stride)
        assert processor.window_overlap == facts["window_overlap_ratio"]
        assert recipe.data.truncation_threshold == facts["trunc_thresh"]
        assert tuple(recipe.data.crop_ratio) == facts["crop_ratio"]
    else:
        assert processor.sampling == "resized"
    assert recipe.data.class_agnostic == facts["class_agnostic"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_model(name):
    recipe, facts, backbone, rewired, _, model = built(name)
    assert (model.config.rewiring, model.backprop) == (("re2tal", "reversible") if rewired else ("none", "checkpoint"))
    network, head, loss = model.model.backbone, model.head, model.criterion
    assert model.model.feature_size == backbone["in_channels"]
    if "depths" in backbone:
        settings = recipe.model["backbone_config"]
        assert tuple(settings["window_size"]) == backbone["window_size"]
        assert settings["stochastic_depth_prob"] == backbone["drop_path_rate"]
        assert network.patch_embed.proj.weight.shape[0] == backbone["embed_dim"]
        assert network.patch_embed.proj.kernel_size == backbone["patch_size"]
        stages = network.features[::2]
        assert tuple(map(len, stages)) == backbone["depths"]
        assert tuple(stage[0].attn.num_heads for stage in stages) == backbone["num_heads"]
    elif "embed_dims" in backbone:
        settings = network.config
        assert (settings.hidden_size, settings.num_hidden_layers) == (backbone["embed_dims"], backbone["depth"])
        assert settings.num_attention_heads == backbone["num_heads"]
        assert settings.intermediate_size == backbone["mlp_ratio"] * backbone["embed_dims"]
        assert (settings.patch_size, settings.tubelet_size) == (backbone["patch_size"], backbone["tubelet_size"])
        assert settings.num_frames == backbone["num_frames"]
        assert len(network.adapters) == backbone["depth"]
        width = int(backbone["embed_dims"] * backbone["adapter.mlp_ratio"])
        assert {adapter.down.out_features for adapter in network.adapters} == {width}
        assert recipe.freeze.backbone
    else:
        assert (network.resample_rate, network.speed_ratio) == (backbone["resample_rate"], backbone["speed_ratio"])
        assert recipe.model["backbone_config"]["variant"] == f"{backbone['depth']}_8x8"
        laterals = network.slow_path.conv1_lateral.conv
        assert laterals.kernel_size[0] == backbone["fusion_kernel"]
        assert network.slow_path.conv1.conv.out_channels // laterals.in_channels == backbone["channel_ratio"]
    assert recipe.freeze.norms == facts["norm_eval"]
    settings = head.config
    assert settings.hidden_size == facts["out_channels"]
    assert (settings.drop_path, settings.class_prior) == (facts["path_pdrop"], facts["cls_prior_prob"])
    assert (len(head.embedding), len(head.stem), len(head.pyramid)) == facts["arch"]
    assert head.pyramid[0].attention.num_heads == facts["n_head"] and facts["n_mha_win_size"] == -1
    assert settings.attention_window is None
    assert settings.max_length == facts.get("window_size", facts.get("resize_length"))
    assert settings.use_position_embedding == facts["use_abs_pe"]
    assert len(head.classification.layers) == len(head.boundary.layers) == facts["num_convs"]
    assert settings.num_levels == facts["num_levels"]
    assert tuple(tuple(pair) for pair in head.config.ranges) == facts["regression_range"]
    assert loss.center_radius == facts["center_sample_radius"]
    assert loss.normalizer_momentum == facts["loss_normalizer_momentum"]
    assert (loss.label_smoothing, loss.loss_weight) == (facts["label_smoothing"], facts["loss_weight"])
    assert recipe.model["loss_config"]["initial_normalizer"] == facts["loss_normalizer"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_and_measurement(name):
    recipe, facts, _, _, published, _ = built(name)
    training, evaluation = recipe.training, recipe.evaluation
    assert (training.batch_size, training.learning_rate) == (facts["batch_size"], facts["lr"])
    assert training.backbone_learning_rate == facts["backbone.lr"] and training.weight_decay == facts["weight_decay"]
    assert training.max_gradient_norm == facts["clip_grad_norm"] and training.ema_decay == facts["ema"]
    assert (training.mixed_precision == "fp16") == facts["amp"]
    assert training.warmup_epochs == facts["warmup_epoch"] and training.epochs == facts["end_epoch"]
    assert (training.schedule_epochs or training.epochs) == facts["max_epoch"]
    # Theirs count from 0.
    assert (evaluation.epochs, evaluation.start_epoch) == (facts["val_eval_interval"], facts["val_start_epoch"] + 1)
    assert tuple(evaluation.tiou_thresholds) == facts["tiou_thresholds"]
    processor = Re2TALVideoProcessor(**recipe.processor)
    assert (processor.nms_method == "soft") == facts["use_soft_nms"] and processor.nms_sigma == facts["sigma"]
    assert (processor.nms_min_score, processor.max_detections) == (facts["min_score"], facts["max_seg_num"])
    assert processor.nms_per_class == facts["multiclass"]
    # Where suppression is for each class by itself, theirs leaves voting out.
    assert processor.voting_threshold == (None if facts["multiclass"] else facts["voting_thresh"])
    if facts["class_agnostic"]:
        assert processor.num_video_classes == facts["external_cls.topk"]
    assert PUBLISHED_FIGURES[name].figures[None] == published
    assert f"{published:.2f}" in (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("model:")[0]


@pytest.mark.parametrize("name", FEATURES)
def test_the_recipes_of_other_data_sets_say_what_the_configs_say(name):
    recipe = load_recipe(name)
    facts, processor = FEATURES_EVERY | FEATURES[name], Re2TALVideoProcessor(**recipe.processor)
    labels = {0: "action"} if facts["class_agnostic"] else {0: "a", 1: "b"}
    with torch.device("meta"):
        model = Re2TALForTemporalActionLocalization(Re2TALConfig(**recipe.model, id2label=labels))
    head, loss = model.head.config, model.criterion
    assert model.model.feature_size == facts["in_channels"]
    layers = (head.num_embedding_layers, head.num_stem_layers, len(model.head.pyramid))
    assert layers == facts["arch"] and head.hidden_size == facts["out_channels"]
    widths = facts["n_mha_win_size"]
    widths = [widths] * facts["num_levels"] if isinstance(widths, int) else widths
    assert head.windows == [width if width > 1 else None for width in widths]
    assert (head.num_attention_heads, head.padding) == (facts["n_head"], facts["padding"])
    assert (head.dropout, head.drop_path, head.norm_eps) == tuple(
        facts[n] for n in ("proj_pdrop", "path_pdrop", "norm_eps")
    )
    assert (head.input_dropout, head.input_noise) == (facts["input_pdrop"], 0)
    assert (head.max_length, head.use_position_embedding) == (facts["max_seq_len"], facts["use_abs_pe"])
    assert tuple(map(tuple, head.ranges)) == facts["regression_range"] and head.num_levels == facts["num_levels"]
    assert (loss.label_smoothing, loss.center_radius) == (facts["label_smoothing"], facts["center_sample_radius"])
    assert recipe.model["loss_config"]["initial_normalizer"] == facts["loss_normalizer"]
    assert (loss.loss_weight, loss.all_classes) == (facts["loss_weight"], not facts["filter_similar_gt"])
    assert recipe.data.class_agnostic == facts["class_agnostic"]
    if facts["class_agnostic"]:
        assert processor.num_video_classes == facts["external_cls.topk"]
    cut = (processor.feature_stride, processor.feature_offset, processor.feature_rate, processor.num_frames)
    assert cut == tuple(facts[name] for name in ("feature_stride", "offset_frames", "fps", "trunc_len"))
    assert processor.feature_resizing == ("averaged" if "ResizeFeat" in facts else "interpolated")
    assert processor.sampling == facts["sampling"] and processor.min_length == facts["duration_thresh"]
    assert processor.window_overlap == facts.get("window_overlap_ratio", processor.window_overlap)
    assert (
        recipe.data.truncation_threshold == facts["trunc_thresh"]
        and tuple(recipe.data.crop_ratio) == facts["crop_ratio"]
    )
    kept = (processor.nms_sigma, processor.nms_min_score, processor.max_candidates, processor.max_detections)
    assert kept == tuple(facts[name] for name in ("sigma", "min_score", "pre_nms_topk", "max_seg_num"))
    assert processor.nms_per_class == facts["multiclass"]
    assert processor.voting_threshold == (None if facts["multiclass"] else facts["voting_thresh"])
    training, evaluation = recipe.training, recipe.evaluation
    assert (training.batch_size, training.learning_rate) == (facts["batch_size"], facts["lr"])
    assert (training.weight_decay, training.ema_decay) == (facts["weight_decay"], facts["ema"])
    assert training.max_gradient_norm == facts["clip_grad_norm"] and training.warmup_epochs == facts["warmup_epoch"]
    assert (training.schedule_epochs or training.epochs, training.epochs) == (facts["max_epoch"], facts["end_epoch"])
    assert (training.mixed_precision == "fp16") == facts["amp"]
    if facts["val_start_epoch"] is None:
        assert evaluation.epochs == 0
    else:
        assert (evaluation.start_epoch, evaluation.epochs) == (facts["val_start_epoch"] + 1, 1)
    assert tuple(evaluation.tiou_thresholds) == facts["tiou_thresholds"]


# As torchvision's swin3d_s and swin3d_b have them, and SlowFast's paper.
OTHER_SIZES = {
    "swin_small": ("swin_tiny", (96, [2, 2, 18, 2], [3, 6, 12, 24])),
    "swin_base": ("swin_tiny", (128, [2, 2, 18, 2], [4, 8, 16, 32])),
    "slowfast_50": ("slowfast_101", [3, 4, 6, 3]),
    "slowfast_152": ("slowfast_101", [3, 8, 36, 3]),
}


@pytest.mark.parametrize("data", ["thumos14", "activitynet"])
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_the_recipes_of_other_sizes(size, data):
    base, sizes = OTHER_SIZES[size]
    recipe, other = load_recipe(f"{data}_{size}"), load_recipe(f"{data}_{base}")
    kept = (recipe.processor, recipe.augmentation, recipe.data, recipe.evaluation, recipe.freeze)
    assert kept == (other.processor, other.augmentation, other.data, other.evaluation, other.freeze)
    with torch.device("meta"):
        network = Re2TALModel(Re2TALConfig(**recipe.model)).backbone
    if "swin" in size:
        stages = network.features[::2]
        heads = [stage[0].attn.num_heads for stage in stages]
        assert (network.patch_embed.proj.weight.shape[0], [len(stage) for stage in stages], heads) == sizes
    else:
        layers = [getattr(network.slow_path, f"layer{number}") for number in range(1, 5)]
        assert [len(layer) for layer in layers] == sizes


def test_every_recipe_of_the_benchmarks_is_held_against_them():
    there = {path.stem for path in RECIPES.glob("*.yaml") if path.stem.startswith(("thumos", "activitynet"))}
    others = {f"{data}_{size}" for data in ("thumos14", "activitynet") for size in OTHER_SIZES}
    on_features = {"activitynet_actionformer", "activitynet_tridet"}
    assert there == PUBLISHED.keys() | others | on_features | {"activitynet_swin_tiny_classes"}


def test_the_variant_without_an_external_classifier_differs_where_it_must():
    own, published = (load_recipe(f"activitynet_swin_tiny{end}").to_dict() for end in ("_classes", ""))
    changed = {
        f"{section}.{field}": value
        for section, fields in own.items()
        if isinstance(fields, dict)
        for field, value in fields.items()
        if value != published[section][field]
    }
    assert changed == {
        "data.class_agnostic": False,
        "processor.nms_per_class": True,
        "processor.voting_threshold": None,
    }


def test_videos_of_activitynet_are_found_by_the_prefix(tmp_path):
    facts = PUBLISHED["activitynet_swin_tiny"][0]
    file = tmp_path / facts["data_path"] / f"{facts['prefix']}abc.mp4"
    file.parent.mkdir()
    file.touch()
    assert files_of_id("abc", find_videos(tmp_path), tmp_path) == [file]
