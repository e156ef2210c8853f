"""MViT (arXiv 2104.11227) and MViTv2 (arXiv 2112.01526) as torchvision ships them, with its parameter names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.video.mvit import MSBlockConfig, MultiscaleAttention, MultiscaleBlock, MViT, PositionalEncoding

from .architecture import Architecture, register_backbone
from .backbone_positions import check_clip, resize_positions
from .reversible import Stage
from .value_checks import BELOW_ONE, COUNT, Arguments, Range, check_names, check_values

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


LENGTHS = Annotated[Sequence[int], Range(low=1, length=3)]
BLOCK = Arguments(
    {
        **dict.fromkeys(("num_heads", "input_channels", "output_channels"), Annotated[int, COUNT]),
        **dict.fromkeys(("kernel_q", "kernel_kv", "stride_q", "stride_kv"), LENGTHS),
    }
)
"""What a block in `block_setting` holds; kernels and strides may be empty."""

FLAGS = {"residual_pool": False, "rel_pos_embed": False, "proj_after_attn": False}
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
        variant: Literal["v1_b", "v2_s"] | None = None,
        block_setting: Sequence[Mapping[str, Any]] | None = None,
        spatial_size: Annotated[Sequence[int], Range(low=1, length=2)] = (224, 224),
        temporal_size: Annotated[int, COUNT] = 16,
        stochastic_depth_prob: Annotated[float, BELOW_ONE] = 0.2,
        residual_with_cls_embed: bool = False,
        patch_embed_kernel: LENGTHS = (3, 7, 7),
        patch_embed_stride: LENGTHS = (2, 4, 4),
        patch_embed_padding: Annotated[Sequence[int], Range(low=0, length=3)] = (1, 3, 3),
        dropout: Annotated[float, BELOW_ONE] = 0.5,
        attention_dropout: Annotated[float, BELOW_ONE] = 0.0,
        **flags: bool,
    ) -> MViT:
        """Builds an MViT without classifier.

        Args:
            variant: `"v1_b"` or `"v2_s"`: sets `block_setting`, `residual_pool`, `rel_pos_embed`, `proj_after_attn`.
            block_setting: In place of a variant, one mapping for each block with the fields of torchvision's
                `MSBlockConfig`.
            spatial_size: As torchvision's; these have the defaults of the published sizes.
            temporal_size: As torchvision's.
            stochastic_depth_prob: As torchvision's.
            residual_with_cls_embed: As torchvision's.
            patch_embed_kernel: As torchvision's, and those that follow.
            patch_embed_stride: As torchvision's.
            patch_embed_padding: As torchvision's.
            dropout: As torchvision's.
            attention_dropout: As torchvision's.
            flags: `residual_pool`, `rel_pos_embed`, `proj_after_attn` of torchvision; they win over the variant's.
        """
        model = MViT(
            spatial_size=(spatial_size[0], spatial_size[1]),
            temporal_size=temporal_size,
            block_setting=_blocks(variant, block_setting),
            stochastic_depth_prob=stochastic_depth_prob,
            residual_with_cls_embed=residual_with_cls_embed,
            patch_embed_kernel=tuple(patch_embed_kernel),
            patch_embed_stride=tuple(patch_embed_stride),
            patch_embed_padding=tuple(patch_embed_padding),
            dropout=dropout,
            attention_dropout=attention_dropout,
            **{**FLAGS, **(VARIANTS[variant] if variant else {}), **flags},
        )
        model.head = nn.Identity()
        return model

    def settings(self) -> Arguments:
        known = super().settings()
        return Arguments(known | dict.fromkeys(FLAGS, bool), defaults=known.defaults)

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; blocks must follow on each other, and clips be divided by patches."""
        super().check(settings, where)
        sizes = {**self.settings().defaults, **settings}
        if (sizes["variant"] is None) == (sizes["block_setting"] is None):
            raise ValueError(f"{where}block_setting: give either this or a variant.")
        for i, block in enumerate(sizes["block_setting"] or ()):
            _check_block(f"{where}block_setting[{i}].", block)
        grid = _patch_grid(where, sizes)
        blocks = _blocks(sizes["variant"], sizes["block_setting"])
        if len(blocks) < 2:
            raise ValueError(f"{where}block_setting has {len(blocks)} blocks; give two or more.")
        projected = sizes.get("proj_after_attn", VARIANTS.get(sizes["variant"], FLAGS)["proj_after_attn"])
        for i, block in enumerate(blocks):
            place = f"{where}block_setting[{i}]"
            if i and block.input_channels != blocks[i - 1].output_channels:
                raise ValueError(
                    f"{place}.input_channels is {block.input_channels}, but the block before has "
                    f"output_channels={blocks[i - 1].output_channels}."
                )
            if (width := block.output_channels if projected else block.input_channels) % block.num_heads:
                raise ValueError(f"{place}.num_heads is {block.num_heads}, which does not divide {width} channels.")
            strides = block.stride_q or [1, 1, 1]
            if grid[0] % strides[0] or any(side < stride for side, stride in zip(grid, strides, strict=True)):
                raise ValueError(f"{place}.stride_q is {block.stride_q}, too large for {grid} tokens.")
            grid = [side // stride for side, stride in zip(grid, strides, strict=True)]

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


def _blocks(variant: str | None, block_setting: Sequence[Mapping[str, Any]] | None) -> list[MSBlockConfig]:
    return published_blocks(variant) if variant else [MSBlockConfig(**block) for block in block_setting or ()]


def _check_block(where: str, block: Mapping[str, Any]) -> None:
    """Checks one of the mappings in `block_setting`; with `where` before the name of a setting in a message."""
    check_names(where, block, BLOCK)
    if missing := [name for name in BLOCK if name not in block]:
        raise ValueError(f"{where}{missing[0]} is missing; a block needs {', '.join(BLOCK)}.")
    check_values(where, {name: value for name, value in block.items() if value != []}, BLOCK)
    for kind in ("q", "kv"):
        kernel, stride = block[f"kernel_{kind}"], block[f"stride_{kind}"]
        if any(length % 2 == 0 for length in kernel):
            raise ValueError(f"{where}kernel_{kind} is {kernel}; choose odd numbers.")
        if len(kernel) != len(stride) and math.prod([*kernel, *stride]) > 1:
            raise ValueError(f"{where}stride_{kind} is {stride}, and the kernel {kernel}; give three numbers each.")
    # The library pools what goes past the attention by a window that is one larger.
    if any(length > 1 and length % 2 for length in block["stride_q"]):
        raise ValueError(f"{where}stride_q is {block['stride_q']}; choose 1 or even numbers.")


def _patch_grid(where: str, sizes: Mapping[str, Any]) -> list[int]:
    """The tokens of a clip, over time, height and width."""
    kernels, strides, paddings = (sizes[f"patch_embed_{name}"] for name in ("kernel", "stride", "padding"))
    clip, grid = [sizes["temporal_size"], *sizes["spatial_size"]], []
    for name, length, kernel, stride, padding in zip(
        ("temporal_size", "spatial_size", "spatial_size"), clip, kernels, strides, paddings, strict=True
    ):
        patches = length // stride
        if patches < 1 or (length + 2 * padding - kernel) // stride + 1 != patches:
            raise ValueError(
                f"{where}{name} is {sizes[name]}, which patches of patch_embed_stride={list(strides)}, "
                f"patch_embed_kernel={list(kernels)} and patch_embed_padding={list(paddings)} do not divide."
            )
        grid.append(patches)
    return grid
