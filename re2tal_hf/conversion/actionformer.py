"""Checkpoints on features: of actionformer_release and of TriDet's release, which builds on its code.

https://github.com/happyharrycn/actionformer_release, https://github.com/dingfengshi/TriDet
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..value_checks import shown
from .converted_model import Plan
from .heads import FILLS, NEEDED, features_settings, head_settings
from .names import head_name
from .options_file import Options, attention_windows, perception_windows
from .settings import Settings
from .source import Source

ADVICE = "give --options, the .yaml that it was trained with, or name them, as in head_config.max_length=2304."
OF_THE_CODE = {"head_config.padding": "actionformer", "head_config.norm_eps": 1e-5}
# Their name of a setting, ours, the type, and what their libs/core/config.py has where a file is silent.
_HEAD = [
    ("dataset.max_seq_len", "max_length", int, 2304),
    ("model.use_abs_pe", "use_position_embedding", bool, False),
    ("model.regression_range", "regression_ranges", list[list[float]], None),
    ("model.head_kernel_size", "branch_kernel_size", int, 3),
    ("train_cfg.droppath", "drop_path", float, 0.1),
    ("train_cfg.cls_prior_prob", "class_prior", float, 0.01),
]
_ACTIONFORMER = [
    ("model.n_head", "num_attention_heads", int, 4),
    ("train_cfg.dropout", "dropout", float, 0.0),
]
_TRIDET = [
    ("model.sgp_mlp_dim", "mlp_size", int, None),
    ("model.num_bins", "num_bins", int, 16),
    ("model.boudary_kernel_size", "boundary_kernel_size", int, 3),
    ("model.input_noise", "input_noise", float, 0.0),
    ("model.init_conv_vars", "conv_std", float, 0.0),
]
_LOSS = [
    ("train_cfg.init_loss_norm", "initial_normalizer", float, 2000.0),
    ("train_cfg.loss_weight", "loss_weight", float, 1.0),
    ("train_cfg.label_smoothing", "label_smoothing", float, 0.0),
    ("train_cfg.center_sample_radius", "center_radius", float, 1.5),
]
_TRIDET_LOSS = [("model.iou_weight_power", "iou_weight_power", float, 1.0)]
_PROCESSOR = [
    ("test_cfg.pre_nms_thresh", "score_threshold", float, 0.001),
    ("test_cfg.pre_nms_topk", "max_candidates", int, 5000),
    ("test_cfg.duration_thresh", "min_length", float, 0.05),
    ("test_cfg.iou_threshold", "nms_iou_threshold", float, 0.1),
    ("test_cfg.min_score", "nms_min_score", float, 0.01),
    ("test_cfg.max_seg_num", "max_detections", int, 1000),
    ("test_cfg.nms_method", "nms_method", str, "soft"),
    ("test_cfg.nms_sigma", "nms_sigma", float, 0.5),
    ("test_cfg.multiclass_nms", "nms_per_class", bool, True),
]


def plan_actionformer(source: Source, options: Options | None, given: Mapping[str, Any]) -> Plan:
    """Plans the conversion of a detector on features, by its tensors ActionFormer or TriDet.

    Segments of the model are in steps of the features.

    Args:
        source: The checkpoint.
        options: Settings of its training.
        given: Settings that the user or a recipe names.

    Raises:
        ValueError: if the checkpoint is of another network, or a setting is contradicted or not known.
    """
    tridet = any(name.endswith(".psi.weight") for name in source.tensors)
    head, project = ("tridet", "tridet_release") if tridet else ("actionformer", "actionformer")
    ours = {name: head_name(project, name) for name in source.tensors}
    tensors = {new: source.tensors[name] for name, new in ours.items()}
    settings = Settings(source.name)
    settings.add(head_settings(source.name, head, tensors), "the weights")
    settings.add(features_settings(tensors), "the weights")
    settings.add(OF_THE_CODE, "the release's code")
    if options is not None:
        settings.add(actionformer_settings(options, head), options.name)
    settings.add(given, "the settings given")
    settings.need([f"head_config.{name}" for name in NEEDED[head]], ADVICE)
    names = {name: f"head.{new}" for name, new in ours.items()}
    return Plan(
        source.name,
        Re2TALForTemporalActionLocalization,
        source.tensors,
        names,
        settings,
        source.origin,
        fills=FILLS,
    )


def actionformer_settings(options: Options, head: str) -> dict[str, Any]:
    """Returns what a settings file of actionformer_release or of TriDet's release says, by the names of [`Settings`].

    Args:
        options: The file.
        head: `model_type` of the head.

    Raises:
        ValueError: if it says what no model of ours does; names the file and the place.
    """
    tridet = head == "tridet"
    for place, ours in (
        ("model.backbone_type", "SGP" if tridet else "convTransformer"), ("model.scale_factor", 2),
        ("model.embd_kernel_size", 3), ("train_cfg.center_sample", "radius"), ("model.use_trident_head", True),
        ("model.downsample_type", "max"),
    ):  # fmt: skip
        if (value := options.get(place, type(ours), ours)) != ours:
            raise ValueError(f"{options.source}: {place} is {shown(value)}; ours is {ours!r}.")
    found = {
        f"{section}.{name}": options.get(place, kind | None, default)
        for section, table in (
            ("head_config", _HEAD + (_TRIDET if tridet else _ACTIONFORMER)),
            ("loss_config", _LOSS + (_TRIDET_LOSS if tridet else [])),
            ("processor", _PROCESSOR),
        )
        for place, name, kind, default in table
    }
    found = {name: value for name, value in found.items() if value is not None}
    found["head_config.neck"] = options.get("model.fpn_type", str, "identity")
    found |= perception_windows(options, "model.n_sgp_win_size") if tridet else _attention(options)
    found |= _features(options)
    # Where segments of a class suppress their own class only, there is no voting there.
    voting = options.get("test_cfg.voting_thresh", float, 0.75)
    found["processor.voting_threshold"] = None if found["processor.nms_per_class"] or not voting > 0 else voting
    return found


def _attention(options: Options) -> dict[str, Any]:
    windows = attention_windows(options, "model.n_mha_win_size")
    relative = windows is not None and options.get("model.use_rel_pe", bool, False)
    found = {"attention_window": windows} | ({"use_relative_position_bias": True} if relative else {})
    return {f"head_config.{name}": value for name, value in found.items()}


def _features(options: Options) -> dict[str, Any]:
    """How far the features stand apart, and where the first one does; whole videos are localized in."""
    stride, frames = options.get("dataset.feat_stride", float), options.get("dataset.num_frames", float)
    if stride is None or frames is None:
        return {}
    if (every := options.get("dataset.downsample_rate", int, 1)) != 1:
        raise ValueError(
            f"{options.source}: dataset.downsample_rate is {every}; ours is 1: keep every {every}th feature in files "
            f"of your own, and say dataset.feat_stride {every * stride:g}."
        )
    upsampled = stride <= 0 and options.get("dataset.force_upsampling", bool, False)
    found = {
        "feature_stride": stride if stride > 0 else None,
        "feature_offset": frames / 2,
        "feature_rate": options.get("dataset.default_fps", float | None, None),
        "sampling": "resized" if upsampled else "whole",
    }
    return {f"processor.{name}": value for name, value in found.items()}
