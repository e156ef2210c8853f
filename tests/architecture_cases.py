"""One small model of every registered architecture, for the tests that run over all of them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A small model of a family.

    Attributes:
        name: of the case in test reports.
        config: `backbone_config`, stochastic depth and dropout off.
        deeper: settings that make its stages twice as deep and leave their shapes as they are.
        stochastic: settings that turn stochastic depth and dropout on, as far as the family has them.
        shape: frames, height and width of its input.
        odd_shape: the same, not divisible by clips, patches or windows, as far as the family takes that.
        library_arguments: what the library's own forward needs beside the video.
        left_out: tensors at the end of what the library returns that ours does not.
    """

    name: str
    config: dict[str, Any]
    deeper: dict[str, Any]
    stochastic: dict[str, Any]
    shape: tuple[int, int, int]
    odd_shape: tuple[int, int, int]
    library_arguments: dict[str, Any] = field(default_factory=dict)
    left_out: int = 0


TRANSFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
JEPA = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def mvit_blocks(pooled: list[int], widened: list[int], repeats: int) -> list[dict[str, Any]]:
    """Blocks of 8 channels, of which some pool the queries, some double the channels, and the others are repeated."""
    blocks, channels = [], 8
    for i in range(5):
        ordinary = i not in pooled + widened
        block = {"num_heads": 2, "input_channels": channels, "kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3]}
        channels *= 2 if i in widened else 1
        block |= {"output_channels": channels, "stride_q": [1, 2, 2] if i in pooled else [1, 1, 1]}
        blocks += [{**block, "stride_kv": [1, 2, 2]}] * (repeats if ordinary else 1)
    return blocks


CASES = [
    Case(
        "video_swin",
        {
            "model_type": "video_swin",
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": [2, 3, 3],
            "stochastic_depth_prob": 0.0,
        },
        {"depths": [4, 4]},
        {"stochastic_depth_prob": 0.3, "dropout": 0.1, "attention_dropout": 0.1},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "mvit_v1",
        {
            "model_type": "mvit",
            "block_setting": mvit_blocks([1], [0, 3], 1),
            "spatial_size": [32, 32],
            "temporal_size": 4,
            "stochastic_depth_prob": 0.0,
            "residual_pool": False,
            "rel_pos_embed": False,
            "proj_after_attn": False,
        },
        {"block_setting": mvit_blocks([1], [0, 3], 2)},
        {"stochastic_depth_prob": 0.3, "attention_dropout": 0.1},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "mvit_v2",
        {
            "model_type": "mvit",
            "block_setting": mvit_blocks([1, 3], [1, 3], 1),
            "spatial_size": [32, 32],
            "temporal_size": 8,
            "stochastic_depth_prob": 0.0,
            "residual_pool": True,
            "rel_pos_embed": True,
            "proj_after_attn": True,
        },
        {"block_setting": mvit_blocks([1, 3], [1, 3], 2)},
        {"stochastic_depth_prob": 0.3, "attention_dropout": 0.1},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "videomae",
        {"model_type": "videomae", **TRANSFORMER, "image_size": 32, "patch_size": 8, "num_frames": 4},
        {"num_hidden_layers": 4},
        DROPOUT,
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "vivit",
        {"model_type": "vivit", **TRANSFORMER, "image_size": 32, "tubelet_size": [2, 8, 8], "num_frames": 4},
        {"num_hidden_layers": 4},
        DROPOUT,
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "timesformer",
        {"model_type": "timesformer", **TRANSFORMER, "image_size": 32, "patch_size": 8, "num_frames": 4},
        {"num_hidden_layers": 4},
        DROPOUT,
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "vjepa2",
        {"model_type": "vjepa2", **JEPA, "crop_size": 40, "frames_per_clip": 4},
        {"num_hidden_layers": 4},
        {"drop_path_rate": 0.3, "attention_probs_dropout_prob": 0.1},
        (8, 40, 40),
        (9, 35, 24),
        {"skip_predictor": True},
    ),
    *[
        Case(
            name,
            {"model_type": "vjepa2_1", **JEPA, "crop_size": 32, "pretrained_grid_size": 3, **clip},
            {"num_hidden_layers": 4},
            {"drop_path_rate": 0.3, "attention_probs_dropout_prob": 0.1},
            (8, 32, 32),
            (9, 35, 41),
        )
        for name, clip in (
            ("vjepa2_1", {"frames_per_clip": 4}),
            ("vjepa2_1_images", {"frames_per_clip": 1, "tubelet_size": 1}),
        )
    ],
    Case(
        "videoprism",
        {
            "model_type": "videoprism",
            "hidden_size": 24,
            "num_spatial_layers": 2,
            "num_temporal_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "tubelet_size": [1, 8, 8],
            "num_frames": 4,
        },
        {"num_spatial_layers": 4, "num_temporal_layers": 2},
        DROPOUT,
        (8, 32, 32),
        (9, 35, 41),
        left_out=2,
    ),
    Case(
        "image_efficientnet",
        {"model_type": "image", "variant": "mobilenetv2_035", "depth_multiplier": 2.0},
        {"depth_multiplier": 4.0},
        {"drop_path_rate": 0.3},
        (4, 64, 64),
        (5, 67, 73),
    ),
    Case(
        "image_resnet",
        {"model_type": "image", "variant": "resnet10t", "layers": [2, 2, 2, 2]},
        {"layers": [3, 3, 3, 3]},
        {"drop_path_rate": 0.3},
        (4, 64, 64),
        (5, 67, 73),
    ),
    Case(
        "image_convnext",
        {"model_type": "image", "variant": "convnext_atto", "depths": [2, 1, 2, 1], "dims": [8, 16, 24, 32]},
        {"depths": [4, 2, 4, 2]},
        {"drop_path_rate": 0.3},
        (4, 64, 64),
        (5, 67, 73),
    ),
    Case(
        "image_vit",
        {
            "model_type": "image",
            "variant": "vit_small_patch14_dinov2",
            "depth": 2,
            "embed_dim": 24,
            "num_heads": 2,
            "img_size": 28,
        },
        {"depth": 4},
        {"drop_path_rate": 0.3},
        (4, 28, 28),
        (5, 42, 56),
    ),
    Case(
        "image_eva",
        {
            "model_type": "image",
            "variant": "vit_small_patch16_dinov3",
            "depth": 2,
            "embed_dim": 24,
            "num_heads": 2,
            "img_size": 32,
        },
        {"depth": 4},
        {"drop_path_rate": 0.3},
        (4, 32, 32),
        (5, 48, 64),
    ),
    Case(
        "slowfast",
        {
            "model_type": "slowfast",
            "stage_blocks": [3, 3],
            "base_channels": 8,
            "channel_ratio": 4,
            "resample_rate": 4,
            "speed_ratio": 2,
        },
        {"stage_blocks": [5, 5]},
        {},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "slow_only",
        {"model_type": "slow_only", "stage_blocks": [3, 3, 3], "base_channels": 8, "resample_rate": 2},
        {"stage_blocks": [5, 5, 5]},
        {},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "fast_only",
        {"model_type": "fast_only", "stage_blocks": [3, 3], "base_channels": 4, "feature_stride": 4},
        {"stage_blocks": [5, 5]},
        {},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "r3d",
        {"model_type": "video_resnet", "variant": "r3d_18", "conv_makers": ["3d", "3d", "2d", "2d"]},
        {"layers": [3, 3, 3, 3]},
        {},
        (8, 32, 32),
        (9, 35, 41),
    ),
    Case(
        "r2plus1d",
        {
            "model_type": "video_resnet",
            "variant": "r2plus1d_18",
            "block": "bottleneck",
            "conv_makers": ["2plus1d", "2plus1d", "2d", "2d"],
        },
        {"layers": [3, 3, 3, 3]},
        {},
        (8, 32, 32),
        (9, 35, 41),
    ),
]
