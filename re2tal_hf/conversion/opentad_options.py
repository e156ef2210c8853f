"""OpenTAD's configs as settings of ours."""

from __future__ import annotations

from typing import Any

from ..value_checks import shown
from .options_file import Options, attention_windows, perception_windows

Numbers = list[int] | list[float]
# Names of a setting there, in its part of the config, and here, with the default there.
_SWIN = [
    ("embed_dim", "embed_dim", int),
    ("depths", "depths", list[int]),
    ("num_heads", "num_heads", list[int]),
    ("patch_size", "patch_size", list[int]),
    ("window_size", "window_size", list[int]),
    ("mlp_ratio", "mlp_ratio", float),
    ("drop_rate", "dropout", float),
    ("attn_drop_rate", "attention_dropout", float),
    ("drop_path_rate", "stochastic_depth_prob", float),
]
_SLOWFAST = [
    ("resample_rate", "resample_rate", int),
    ("speed_ratio", "speed_ratio", int),
    ("channel_ratio", "channel_ratio", int),
    ("slow_pathway.depth", "depth", int),
    ("slow_pathway.base_channels", "base_channels", int),
    ("slow_pathway.fusion_kernel", "fusion_kernel", int),
]
_PYRAMID = [
    ("projection.out_channels", "hidden_size", int),
    ("projection.path_pdrop", "drop_path", float),
    ("projection.use_abs_pe", "use_position_embedding", bool),
    ("projection.max_seq_len", "max_length", int),
    ("rpn_head.num_convs", "num_head_layers", int),
    ("rpn_head.kernel_size", "branch_kernel_size", int),
    ("rpn_head.cls_prior_prob", "class_prior", float),
    ("rpn_head.prior_generator.regression_range", "regression_ranges", list[list[float]]),
]
_ACTIONFORMER = [
    ("projection.attn_cfg.n_head", "num_attention_heads", int),
    ("projection.conv_cfg.proj_pdrop", "dropout", float),
    ("projection.input_pdrop", "input_dropout", float),
]
_TRIDET = [
    ("projection.sgp_mlp_dim", "mlp_size", int),
    ("rpn_head.num_bins", "num_bins", int),
    ("rpn_head.boundary_kernel_size", "boundary_kernel_size", int),
    ("projection.input_noise", "input_noise", float),
    ("projection.init_conv_vars", "conv_std", float),
]
_VSGN = [
    ("projection.out_channels", "hidden_size", int),
    ("rpn_head.num_layers", "num_head_layers", int),
    ("rpn_head.anchor_generator.anchor_scale", "anchor_scales", list[float]),
    ("rpn_head.anchor_generator.tscale", "max_length", int),
    ("roi_head.roi_extractor.beta", "boundary_reach", float),
]
_LOSS = [
    ("loss_normalizer", "initial_normalizer", float),
    ("loss_normalizer_momentum", "normalizer_momentum", float),
    ("label_smoothing", "label_smoothing", float),
    ("loss_weight", "loss_weight", float),
    ("center_sample_radius", "center_radius", float),
]
_NMS = [
    ("sigma", "nms_sigma", float),
    ("iou_threshold", "nms_iou_threshold", float),
    ("min_score", "nms_min_score", float),
    ("max_seg_num", "max_detections", int),
    ("multiclass", "nms_per_class", bool),
]


_RESIZING = {"interpolate": "interpolated", "torchvision_align": "averaged"}


def opentad_settings(options: Options, head: str | None) -> dict[str, Any]:
    """Returns what a config of OpenTAD says, by the names of [`Settings`].

    Args:
        options: The config, or its `model` alone.
        head: `model_type` of the head; None for a backbone alone.

    Raises:
        ValueError: if it says what no model of ours does; names the file and the place.
    """
    if "model" not in options.values and {"projection", "rpn_head", "backbone"} & options.values.keys():
        options = Options({"model": options.values}, options.source)
    found = backbone_settings(options)
    if head is not None:
        found |= _head(options, head) | _loss(options, head) | _processor(options)
        if stride := _feature_stride(options):
            found |= stride
    return found


def _read(options: Options, part: str, section: str, table: list[tuple[str, str, Any]]) -> dict[str, Any]:
    values = {ours: options.get(f"{part}.{theirs}", kind | None) for theirs, ours, kind in table}
    return {f"{section}.{name}": value for name, value in values.items() if value is not None}


def backbone_settings(options: Options) -> dict[str, Any]:
    """Returns what a config of OpenTAD or mmaction2 says of the backbone, by the names of [`Settings`]."""
    # Of mmaction2's and OpenTAD's recognizers the network is a part; a config of the network alone has it outright.
    part = "model.backbone"
    if isinstance(options.get(f"{part}.backbone", Any), dict):
        part += ".backbone"
    kind = options.get(f"{part}.type", str, "")
    if "Swin" in kind:
        return _read(options, part, "backbone_config", _SWIN)
    if "SlowFast" in kind:
        found = _read(options, part, "backbone_config", _SLOWFAST)
        return {"backbone_config.resample_rate": 8, "backbone_config.speed_ratio": 8} | found
    return {}


def _head(options: Options, head: str) -> dict[str, Any]:
    if head == "vsgn":
        return _read(options, "model", "head_config", _VSGN)
    found = _read(options, "model", "head_config", _PYRAMID + (_TRIDET if head == "tridet" else _ACTIONFORMER))
    if options.get("model.projection", dict) is None:
        return found
    # Where a config leaves these out, they are so there.
    found = {"head_config.use_position_embedding": False, "head_config.max_length": 2304} | found
    strides = options.get("model.rpn_head.prior_generator.strides", list[int])
    if strides is not None and strides != [2**level for level in range(len(strides))]:
        raise ValueError(f"{options.source}: strides are {shown(strides)}; ours are 1, 2, 4 and so on.")
    if head == "tridet":
        return found | perception_windows(options, "model.projection.sgp_win_size")
    if options.get("model.projection.attn_cfg.n_mha_win_size", Any) is not None:
        found["head_config.attention_window"] = attention_windows(options, "model.projection.attn_cfg.n_mha_win_size")
    return found


def _loss(options: Options, head: str) -> dict[str, Any]:
    found = _read(options, "model.rpn_head", "loss_config", _LOSS if head != "vsgn" else [])
    shortest = options.get("model.rpn_head.filter_similar_gt", bool)
    if head != "vsgn" and shortest is not None:
        found["loss_config.all_classes"] = not shortest
    if head == "tridet":
        found |= _read(options, "model.rpn_head", "loss_config", [("iou_weight_power", "iou_weight_power", float)])
    if head == "vsgn":
        table = [("rpn_head.iou_thr", "min_anchor_iou", float), ("roi_head.iou_thr", "min_proposal_iou", float)]
        found |= _read(options, "model", "loss_config", table)
    sampling = options.get("model.rpn_head.center_sample", str, "radius")
    if sampling != "radius":
        raise ValueError(f"{options.source}: center_sample is {sampling!r}; ours is 'radius'.")
    return found


def _step(options: Options, kind: str) -> dict[str, Any]:
    """A step of the test pipeline, such as the one that reads frames."""
    steps = options.get("dataset.test.pipeline", list, [])
    return next((step for step in steps if isinstance(step, dict) and step.get("type") == kind), {})


def _feature_stride(options: Options) -> dict[str, Any]:
    """Frames of a feature, where the network's own features are interpolated to another number."""
    load = _step(options, "LoadFrames")
    factor = load.get("scale_factor", 1) if load else None
    kind = options.get("model.backbone.backbone.type", str, "")
    patch = options.get("model.backbone.backbone.patch_size", list[int], [2])
    if not isinstance(factor, int) or factor < 1 or ("Swin" in kind and factor == patch[0]):
        return {}
    return {"backbone_config.feature_stride": factor}


def _processor(options: Options) -> dict[str, Any]:
    found = _read(options, "post_processing.nms", "processor", _NMS)
    if (soft := options.get("post_processing.nms.use_soft_nms", bool)) is not None:
        found["processor.nms_method"] = "soft" if soft else "hard"
    if (voting := options.get("post_processing.nms.voting_thresh", float)) is not None:
        # Where segments of a class suppress their own class only, there is no voting there.
        per_class = found.get("processor.nms_per_class", False)
        found["processor.voting_threshold"] = None if per_class or not voting else voting
    for theirs, ours in (("mean", "image_mean"), ("std", "image_std")):
        if values := options.get(f"model.backbone.data_preprocessor.{theirs}", Numbers):
            found[f"processor.{ours}"] = [value / 255 for value in values]
    return (
        found | (_stored_features(options) if _step(options, "LoadFeats") else _windows(options)) | _frame_size(options)
    )


def _stored_features(options: Options) -> dict[str, Any]:
    """How features were cut, and how those of a test video are taken: resized, in windows or whole."""
    test = "dataset.test"
    if (every := options.get(f"{test}.sample_stride", int, 1)) != 1:
        raise ValueError(
            f"{options.source}: {test}.sample_stride is {every}; ours is 1: keep every {every}th feature in files of "
            "your own, and multiply feature_stride by it."
        )
    if (length := options.get(f"{test}.resize_length", int)) is not None:
        tool = _step(options, "ResizeFeat").get("tool", "interpolate")
        if not isinstance(tool, str) or tool not in _RESIZING:
            raise ValueError(
                f"{options.source}: features are resized by {shown(tool)}; ours by {' or '.join(_RESIZING)}: resize "
                "them in files of your own, and leave dataset out of the options."
            )
        resized: dict[str, Any] = {"sampling": "resized", "feature_resizing": _RESIZING[tool]}
        resized |= {"num_frames": length, "feature_offset": 0.0}
        return {f"processor.{name}": value for name, value in resized.items()}
    stride = options.get(f"{test}.feature_stride", float, -1)
    if stride <= 0:
        return {}
    rate, window = options.get(f"{test}.fps", float, -1), options.get(f"{test}.window_size", int)
    found = {
        "feature_stride": stride,
        "feature_offset": options.get(f"{test}.offset_frames", float, 0),
        "feature_rate": rate if rate > 0 else None,
        "sampling": "whole" if window is None else "sliding",
    }
    if window is not None:
        overlap = options.get(f"{test}.window_overlap_ratio", float, 0.25)
        found |= {"num_frames": window, "window_overlap": overlap}
    return {f"processor.{name}": value for name, value in found.items()}


def _windows(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {}
    load = _step(options, "LoadFrames")
    factor = load.get("scale_factor", 1)
    method = {"sliding_window": "sliding", "resize": "resized"}.get(str(load.get("method")))
    length = options.get(f"dataset.test.{'window_size' if method == 'sliding' else 'resize_length'}", int)
    if method and length and isinstance(factor, int):
        found |= {"processor.sampling": method, "processor.num_frames": length * factor}
    if method == "sliding" and (overlap := options.get("dataset.test.window_overlap_ratio", float)) is not None:
        found["processor.window_overlap"] = overlap
    return found


def _frame_size(options: Options) -> dict[str, Any]:
    """From the steps that resize and crop test frames."""
    found: dict[str, Any] = {}
    for step in options.get("dataset.test.pipeline", list, []):
        kind = str(step.get("type")) if isinstance(step, dict) else ""
        scale, crop = (step.get("scale"), step.get("crop_size")) if kind else (None, None)
        if kind.endswith("Resize") and isinstance(scale, list) and len(scale) == 2:
            edges = [edge for edge in scale if isinstance(edge, int) and edge > 0]
            if len(edges) == 1:
                found["processor.size"] = {"shortest_edge": edges[0]}
            elif len(edges) == 2 and step.get("keep_ratio") is False:
                found["processor.size"] = {"height": edges[1], "width": edges[0]}
        elif kind.endswith("CenterCrop") and isinstance(crop, int):
            found["processor.do_center_crop"] = True
            found["processor.crop_size"] = {"height": crop, "width": crop}
    return found
