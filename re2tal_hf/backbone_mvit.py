"""MViT (arXiv 2104.11227) and MViTv2 (arXiv 2112.01526) as torchvision ships them, with its parameter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleAttention, MultiscaleBlock, MViT, PositionalEncoding

from .backbone_positions import check_clip, resize_positions
from .reversible import Stage
from .rewiring import Architecture, register_backbone

DEPTHS, WIDTHS, NUM_HEADS, POOLING = (1, 2, 11, 2), (96, 192, 384, 768), (1, 2, 4, 8), (8, 4, 2, 1)
"""Of the four stages of both published sizes: blocks, channels, heads, and the spatial stride of keys and values."""


def published_blocks(variant: str) -> list[MSBlockConfig]:
    """Returns the blocks of `"v1_b"` (arXiv 2104.11227, table 8) or `"v2_s"` (arXiv 2112.01526, table 1)."""
    stages = [stage for stage, depth in enumerate(DEPTHS) for _ in range(depth)]
    blocks = []
    for i, stage in enumerate(stages):
        pools = i > 0 and stage > stages[i - 1]
        if variant == "v1_b":  # the last block of a stage widens
            channels = WIDTHS[stage], WIDTHS[stages[min(i + 1, len(stages) - 1)]]
            kernel_q, stride_q = ([3, 3, 3], [1, 2, 2]) if pools else ([], [])
        else:  # the first block of a stage widens
            channels = WIDTHS[stages[max(i - 1, 0)]], WIDTHS[stage]
            kernel_q, stride_q = [3, 3, 3], [1, 2, 2] if pools else [1, 1, 1]
        stride_kv = [1, POOLING[stage], POOLING[stage]]
        blocks.append(MSBlockConfig(NUM_HEADS[stage], *channels, kernel_q, [3, 3, 3], stride_q, stride_kv))
    return blocks


VARIANTS: dict[str, dict[str, bool]] = {
    "v1_b": {"residual_pool": False, "rel_pos_embed": False, "proj_after_attn": False},
    "v2_s": {"residual_pool": True, "rel_pos_embed": True, "proj_after_attn": True},
}

Grid = tuple[int, int, int]
"""Patches over time, height and width."""


class GridEncoding(PositionalEncoding):
    """Class token and positions, which are interpolated where the frame size differs."""

    def forward(self, patches: Tensor) -> Tensor:
        """`[B, C, T, H, W]` -> `[B, 1 + T * H * W, C]`."""
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), 1, -1), tokens], dim=1)
        if self.spatial_pos is None:
            return tokens
        spatial = resize_positions(self.spatial_pos, (1, *self.spatial_size), (1, *patches.shape[3:]))
        positions = (self.temporal_pos.unsqueeze(1) + spatial).flatten(0, 1)
        return tokens + torch.cat([self.class_pos.unsqueeze(0), positions])


class PoolingBlock(nn.Module):
    """A block that changes the number of tokens or channels."""

    def __init__(self, block: MultiscaleBlock, grid: Grid):
        super().__init__()
        self.block = block
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1 + T' * H' * W', C]` -> the same with fewer tokens, more channels, or both."""
        return self.block(x, self.grid)[0]


class AttentionBranch(nn.Module):
    """Norm, pooling attention and stochastic depth: the first residual branch of a block of one shape."""

    def __init__(self, block: MultiscaleBlock, grid: Grid):
        super().__init__()
        self.norm = block.norm1
        self.attention = block.attn
        self.stochastic_depth = block.stochastic_depth
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 1 + T' * H' * W', C]` -> the same shape."""
        return self.stochastic_depth(self.attention(self.norm(x), self.grid)[0])


def convolution(layer: nn.Module) -> nn.Conv3d:
    """Returns the convolution itself, where an adapter may stand in its place."""
    return next(module for module in layer.modules() if isinstance(module, nn.Conv3d))


def convolved(size: Sequence[int], layer: nn.Module) -> Grid:
    """Returns the size of what a convolution makes of an input of `size`."""
    conv = convolution(layer)
    sides = zip(size, conv.kernel_size, conv.stride, cast(tuple[int, ...], conv.padding), strict=True)
    time, height, width = ((side + 2 * pad - kernel) // stride + 1 for side, kernel, stride, pad in sides)
    return time, height, width


@register_backbone
class MultiscaleViT(Architecture):
    """torchvision's `mvit_v1_b`, `mvit_v2_s` and free sizes.

    Blocks that pool the queries or change the channels are ordinary: each is the entry of a stage.
    """

    model_type = "mvit"
    model_class = MViT
    recast_modules = {PositionalEncoding: GridEncoding}

    def build(
        self,
        *,
        variant: str | None = None,
        block_setting: Sequence[Mapping[str, Any]] | None = None,
        spatial_size: tuple[int, int] = (224, 224),
        temporal_size: int = 16,
        stochastic_depth_prob: float = 0.2,
        residual_with_cls_embed: bool = False,
        **settings: Any,
    ) -> MViT:
        """Builds an MViT without classifier.

        Args:
            variant: `"v1_b"` or `"v2_s"`: sets `block_setting`, `residual_pool`, `rel_pos_embed`, `proj_after_attn`.
            block_setting: In place of a variant, one mapping for each block with the fields of torchvision's
                `MSBlockConfig`.
            spatial_size: As torchvision's; these four have the defaults of the published sizes.
            temporal_size: As torchvision's.
            stochastic_depth_prob: As torchvision's.
            residual_with_cls_embed: As torchvision's.
            settings: Other arguments of torchvision's `MViT`; they win over the variant's.

        Raises:
            ValueError: if the variant is unknown, or not exactly one of variant and `block_setting` is given.
        """
        if variant is not None and variant not in VARIANTS:
            raise ValueError(f"backbone_config['variant'] is {variant!r}; choose one of {sorted(VARIANTS)}.")
        if (variant is None) == (block_setting is None):
            raise ValueError("backbone_config of 'mvit' needs either a variant or block_setting.")
        blocks = published_blocks(variant) if variant else [MSBlockConfig(**block) for block in block_setting or ()]
        flags = VARIANTS[variant] if variant else {}
        model = MViT(
            spatial_size=tuple(spatial_size),
            temporal_size=temporal_size,
            block_setting=blocks,
            stochastic_depth_prob=stochastic_depth_prob,
            residual_with_cls_embed=residual_with_cls_embed,
            **{**flags, **settings},
        )
        model.head = nn.Identity()
        return model

    def stages(self, model: MViT, size: Sequence[int] | None = None) -> list[Stage]:
        encoding = model.pos_encoding
        if size is None:
            grid = (encoding.temporal_size, *encoding.spatial_size)
        else:
            batch, channels, frames, height, width = size
            check_clip((batch, frames, channels, height, width), self.clip_length(model), (1, 1))
            grid = convolved((frames, height, width), model.conv_proj)
        stages = []
        entry: nn.Module = nn.Sequential(model.conv_proj, encoding)
        branches: list[nn.Module] = []
        for block in model.blocks:
            if block.pool_skip is None and block.project is None:
                branches.append(AttentionBranch(block, grid))
                branches.append(nn.Sequential(block.norm2, block.mlp, block.stochastic_depth))
                continue
            stages.append(Stage(entry, branches))
            entry, branches = PoolingBlock(block, grid), []
            if block.attn.pool_q is not None:
                grid = convolved(grid, block.attn.pool_q.pool)
        return [*stages, Stage(entry, branches)]

    def norm(self, model: MViT, *outputs: Tensor) -> Tensor:
        return model.norm(*outputs)

    def classify(self, model: MViT, features: Tensor) -> Tensor:
        return model.head(features[:, 0])

    def temporal_features(self, model: MViT, features: Tensor) -> Tensor:
        num_features = self.clip_length(model) // self.feature_stride(model)
        return features[:, 1:].unflatten(1, (num_features, -1)).mean(2)

    def initialize(self, model: MViT) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.Conv3d, nn.LayerNorm)):
                module.reset_parameters()
            elif isinstance(module, (PositionalEncoding, MultiscaleAttention)):
                for parameter in module.parameters(recurse=False):
                    nn.init.trunc_normal_(parameter, std=0.02)

    def feature_size(self, model: MViT) -> int:
        return model.norm.normalized_shape[0]

    def feature_stride(self, model: MViT) -> int:
        stride = convolution(model.conv_proj).stride[0]
        for block in model.blocks:
            if block.attn.pool_q is not None:
                stride *= convolution(block.attn.pool_q).stride[0]
        return stride

    def clip_length(self, model: MViT) -> int:
        return model.pos_encoding.temporal_size * convolution(model.conv_proj).stride[0]
