"""Backbones that `re2tal benchmark` measures or calculates."""

from __future__ import annotations

from typing import Any

SWINS: list[dict[str, Any]] = [
    {"model_type": "video_swin", "variant": "tiny", "depths": depths, "stochastic_depth_prob": 0.0}
    for depths in ([2, 2, 6, 2], [2, 2, 18, 2])
]
# VideoPrism's have 18 pixels, which divide few frame sizes of others.
PATCHES_OF_16 = {"tubelet_size": [1, 16, 16]}
FAMILIES: list[dict[str, Any]] = [
    SWINS[0],
    {"model_type": "mvit", "variant": "v2_s"},
    {"model_type": "slowfast", "variant": "101_8x8"},
    {"model_type": "slow_only", "variant": "50_8x8"},
    {"model_type": "fast_only", "variant": "50_8x8"},
    {"model_type": "video_resnet", "variant": "r3d_18"},
    {"model_type": "videomae", "variant": "base"},
    {"model_type": "vivit", "variant": "base"},
    {"model_type": "timesformer", "variant": "base"},
    {
        "model_type": "vjepa2",
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "frames_per_clip": 16,
    },
    {"model_type": "vjepa2_1", "variant": "base", "frames_per_clip": 16},
    {"model_type": "videoprism", "variant": "base", **PATCHES_OF_16},
    {"model_type": "image", "variant": "tf_efficientnet_lite0"},
    {"model_type": "image", "variant": "vit_small_patch14_dinov2"},
]
# Whose needs are calculated.
LARGE: list[dict[str, Any]] = [
    {"model_type": "video_swin", "variant": "tiny"},
    {"model_type": "video_swin", "variant": "base"},
    {"model_type": "mvit", "variant": "v2_s"},
    {"model_type": "slowfast", "variant": "101_8x8"},
    *[{"model_type": "videomae", "variant": variant} for variant in ("small", "base", "large")],
    {"model_type": "vjepa2", "variant": "large"},
    *[{"model_type": "vjepa2_1", "variant": variant} for variant in ("base", "large")],
    *[{"model_type": "videoprism", "variant": variant, **PATCHES_OF_16} for variant in ("base", "large")],
    {"model_type": "image", "variant": "tf_efficientnet_lite0"},
    {"model_type": "image", "variant": "vit_small_patch14_dinov2", "img_size": 224},
]
# What makes the stages deeper, of families that have a setting for it.
DEEPER: dict[str, dict[str, Any]] = {
    "video_swin": {"depths": [2, 2, 18, 2]},
    "slowfast": {"stage_blocks": [3, 8, 36, 3]},
    "slow_only": {"stage_blocks": [3, 4, 23, 3]},
    "fast_only": {"stage_blocks": [3, 4, 23, 3]},
    "video_resnet": {"layers": [3, 4, 6, 3]},
    **dict.fromkeys(("videomae", "vivit", "timesformer", "vjepa2", "vjepa2_1"), {"num_hidden_layers": 24}),
    "videoprism": {"num_spatial_layers": 24},
    "vit_small_patch14_dinov2": {"depth": 24},
}
# What says the frame size, of families whose models are made for one.
FRAME_SIZES = {
    "videomae": "image_size",
    "vivit": "image_size",
    "timesformer": "image_size",
    "vjepa2": "crop_size",
    "vjepa2_1": "crop_size",
    "videoprism": "image_size",
    "mvit": "spatial_size",
}


def sized(backbone: dict[str, Any], size: int) -> dict[str, Any]:
    """A `backbone_config` for frames of the size that is asked for."""
    if name := FRAME_SIZES.get(backbone["model_type"]):
        return {name: [size] * 2 if name == "spatial_size" else size, **backbone}
    return backbone
