"""timm's image networks taken apart: what begins them, their residual branches, what ends them.

Importing this file imports timm; `backbone_image` does so when an image network is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import named_apply
from timm.models._efficientnet_builder import efficientnet_init_weights
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, _init_weights
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva, EvaBlock
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from .architecture import adapters_of
from .reversible import Stage
from .temporal_adapter import AdaptedFrames, TemporalAdapter

CONVOLUTIONAL = (EfficientNet, ResNet, ConvNeXt)
TRANSFORMERS = (VisionTransformer, Eva)
# timm's default, which its configurations leave as it is (arXiv 2201.03545, table 5).
CONVNEXT_LAYER_SCALE = 1e-6


class ConvNeXtBranch(ConvNeXtBlock):
    """A ConvNeXt block (arXiv 2201.03545) without its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> the same shape."""
        x = self.conv_dw(x)
        if self.use_conv_mlp:
            x = self.mlp(self.norm(x))
        else:
            x = self.mlp(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.drop_path(x if self.gamma is None else x * self.gamma[:, None, None])


class EvaBranches(EvaBlock):
    """A block of Eva's, whose layer scale is its own: either of its two branches."""

    def forward(self, x: Tensor, rope: Tensor | None = None, mlp: bool = False) -> Tensor:
        """`[N, tokens, D]` -> the same shape."""
        if mlp:
            x, gamma, drop_path = self.mlp(self.norm2(x)), self.gamma_2, self.drop_path2
        else:
            x, gamma, drop_path = self.attn(self.norm1(x), rope=rope), self.gamma_1, self.drop_path1
        return drop_path(x if gamma is None else x * gamma)


RECAST: dict[type[nn.Module], type[nn.Module]] = {ConvNeXtBlock: ConvNeXtBranch, EvaBlock: EvaBranches}


class FrameByFrame(nn.Module):
    """A module of an image network, applied to every frame of a video; images go through it as they are.

    Args:
        module: From `[N, ...]` to `[N, ...]`.
        image_dims: Dimensions of what it takes of images, `N` included.
        temporal_shift: Share of the channels that come from the frame before, and again from the one after.
        constants: Further arguments of the module.
    """

    def __init__(self, module: nn.Module, image_dims: int, temporal_shift: float = 0.0, **constants: Any):
        super().__init__()
        self.module = module
        self.image_dims = image_dims
        self.temporal_shift = temporal_shift
        self.constants = constants

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` or `[N, ...]` -> the same with the module's output."""
        if x.dim() == self.image_dims:
            return self._of_images(x)
        if self.temporal_shift:
            x = shift_in_time(x, self.temporal_shift, channels=-1 if self.image_dims == 3 else 2)
        return self._of_images(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def _of_images(self, x: Tensor) -> Tensor:
        if self.image_dims == 4:  # convolutions are faster by a third or more in this order
            x = x.contiguous(memory_format=torch.channels_last)
        return self.module(x, **self.constants)


def shift_in_time(x: Tensor, share: float, channels: int) -> Tensor:
    """The temporal shift of TSM (arXiv 1811.08383, section 3.2), with zeros beyond the first and the last frame.

    Args:
        x: `[B, T, ...]`.
        share: Of the channels that come from the frame before, and of those from the frame after; up to one half.
        channels: Their dimension.
    """
    size = x.shape[channels]
    moved = int(size * share)
    before, after, rest = x.split([moved, moved, size - 2 * moved], dim=channels)
    nothing = torch.zeros_like(before[:, :1])
    before = torch.cat([nothing, before[:, :-1]], dim=1)
    after = torch.cat([after[:, 1:], nothing], dim=1)
    return torch.cat([before, after, rest], dim=channels)


class TokenEmbedding(nn.Module):
    """From an image to class token, register tokens and patches, with positions interpolated to the image's size."""

    def __init__(self, model: Any):
        super().__init__()
        self.patch_embed, self.pos_drop, self.norm_pre = model.patch_embed, model.pos_drop, model.norm_pre
        self.cls_token, self.reg_token, self.pos_embed = model.cls_token, model.reg_token, model.pos_embed
        self.of_patches_only = model.no_embed_class
        self.num_prefix_tokens = model.num_prefix_tokens

    def forward(self, images: Tensor) -> Tensor:
        """`[N, 3, H, W]` -> `[N, tokens, D]`."""
        patches = self.patch_embed(images)
        grid = [length // size for length, size in zip(images.shape[-2:], self.patch_embed.patch_size, strict=True)]
        prefix = [token.expand(len(images), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = patches.flatten(1, -2)
        if self.pos_embed is None:
            tokens = torch.cat([*prefix, tokens], dim=1)
        elif self.of_patches_only:
            tokens = torch.cat([*prefix, tokens + self._positions(grid, 0)], dim=1)
        else:
            tokens = torch.cat([*prefix, tokens], dim=1) + self._positions(grid, self.num_prefix_tokens)
        return self.norm_pre(self.pos_drop(tokens))

    def _positions(self, grid: list[int], num_prefix_tokens: int) -> Tensor:
        return resample_abs_pos_embed(
            self.pos_embed, grid, list(self.patch_embed.grid_size), num_prefix_tokens=num_prefix_tokens
        )


def stages_of(model: nn.Module, size: Sequence[int] | None, temporal_shift: float) -> list[Stage]:
    """Returns the stages of one of timm's networks, with its adapters behind the branches.

    Args:
        model: Of a class of `CONVOLUTIONAL` or `TRANSFORMERS`.
        size: Of the input, `[N, 3, H, W]` or `[B, T, 3, H, W]`.
        temporal_shift: Share of the channels that each branch takes from the frame before, and from the one after.

    Raises:
        ValueError: if a part of the network is not known, or the patches do not divide the size.
    """
    stages, adapters = _bare_stages(model, size, temporal_shift), iter(adapters_of(model))
    for stage in stages if adapters_of(model) else ():
        stage.branches = [AdaptedFrames(branch, next(adapters), branch.image_dims) for branch in _frame_branches(stage)]
    return stages


def new_adapters(model: nn.Module, width: int) -> nn.ModuleList:
    """Returns an adapter for each branch of one of timm's networks, of so many channels inside."""
    branches = [branch for stage in _bare_stages(model, None, 0.0) for branch in _frame_branches(stage)]
    return nn.ModuleList(TemporalAdapter(_channels(branch), width) for branch in branches)


def _frame_branches(stage: Stage) -> list[FrameByFrame]:
    return [branch for branch in stage.branches if isinstance(branch, FrameByFrame)]


def _channels(branch: nn.Module) -> int:
    """Channels of what a branch takes, by its first layer that is made for a number of them."""
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[-1]
    raise ValueError(f"{type(branch).__name__} has neither a convolution nor a norm: it can have no adapter.")


def _bare_stages(model: nn.Module, size: Sequence[int] | None, temporal_shift: float) -> list[Stage]:
    if isinstance(model, TRANSFORMERS):
        return _transformer_stages(model, size, temporal_shift)
    if isinstance(model, ResNet):
        begin: list[nn.Module] = [model.conv1, model.bn1, model.act1, model.maxpool]
        blocks = [*model.layer1, *model.layer2, *model.layer3, *model.layer4]
        if wrong := {type(block.act1).__name__ for block in blocks} - {"ReLU"}:
            raise ValueError(f"{type(model).__name__} has activations {sorted(wrong)}; only ReLU can be rewired.")
        return _stages(begin, blocks, _resnet_branch, temporal_shift, torch.relu)
    if isinstance(model, EfficientNet):
        begin = [model.conv_stem, model.bn1]
        blocks = [block for stage in model.blocks for block in stage]
        return _stages(begin, blocks, _efficientnet_branch, temporal_shift)
    convnext: Any = model
    blocks = [block for stage in convnext.stages for block in (stage.downsample, *stage.blocks)]
    return _stages([convnext.stem], blocks, _convnext_branch, temporal_shift)


def _stages(
    begin: list[nn.Module],
    blocks: Iterable[nn.Module],
    branch_of: Callable[[Any], nn.Module | None],
    temporal_shift: float,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> list[Stage]:
    """The runs of residual blocks; a block without a branch, since it changes the shape, begins the next stage."""
    stages: list[Stage] = []
    entry, branches = begin, []
    for block in blocks:
        branch = branch_of(block)
        if branch is not None:
            branches.append(FrameByFrame(branch, 4, temporal_shift))
            continue
        if branches:
            stages.append(Stage(FrameByFrame(nn.Sequential(*entry), 4), branches, activation=activation))
            entry, branches = [], []
        entry.append(block)
    return [*stages, Stage(FrameByFrame(nn.Sequential(*entry), 4), branches, activation=activation)]


def _efficientnet_branch(block: Any) -> nn.Module | None:
    # Of every block of timm's that EfficientNets are made of, the modules stand in the order of its forward pass.
    return nn.Sequential(*block.children()) if getattr(block, "has_skip", False) else None


def _resnet_branch(block: BasicBlock | Bottleneck) -> nn.Module | None:
    """A block without its shortcut and without the ReLU after the sum."""
    if block.downsample is not None:
        return None
    last = "act3" if isinstance(block, Bottleneck) else "act2"
    return nn.Sequential(*(module for name, module in block.named_children() if name != last))


def _convnext_branch(block: nn.Module) -> nn.Module | None:
    return block if isinstance(block, ConvNeXtBlock) else None


def _transformer_stages(model: Any, size: Sequence[int] | None, temporal_shift: float) -> list[Stage]:
    grid = None if size is None else _grid(model, size[-2:])
    branches: list[nn.Module] = []
    if isinstance(model, Eva):
        rope = None if model.rope is None or grid is None else model.rope.get_embed(shape=grid)
        for block in model.blocks:
            branches.append(FrameByFrame(block, 3, temporal_shift, rope=rope))
            branches.append(FrameByFrame(block, 3, temporal_shift, mlp=True))
    else:
        for block in model.blocks:
            attention = nn.Sequential(block.norm1, block.attn, block.ls1, block.drop_path1)
            mlp = nn.Sequential(block.norm2, block.mlp, block.ls2, block.drop_path2)
            branches += [FrameByFrame(attention, 3, temporal_shift), FrameByFrame(mlp, 3, temporal_shift)]
    return [Stage(FrameByFrame(TokenEmbedding(model), 4), branches)]


def _grid(model: Any, size: Sequence[int]) -> list[int]:
    """Rows and columns of patches."""
    patch = model.patch_embed.patch_size
    if any(length % side for length, side in zip(size, patch, strict=True)):
        raise ValueError(f"Frames of {list(size)} are not divisible into patches of {list(patch)}.")
    return [length // side for length, side in zip(size, patch, strict=True)]


def check_parts(model: nn.Module) -> None:
    """Raises a `ValueError` if a network has parts that the branches of `stages_of` would leave out."""
    name = type(model).__name__
    if isinstance(model, TRANSFORMERS):
        known = Block if isinstance(model, VisionTransformer) else (EvaBlock, EvaBranches)
        wrong = {type(block).__name__ for block in model.blocks if not isinstance(block, known)}
        if wrong:
            raise ValueError(f"{name} has blocks {sorted(wrong)}, of which it is not known what is residual in them.")
        if getattr(model, "rope_mixed", False):
            raise ValueError(f"{name} has rotary positions that are learned in each block; that is not supported.")
        if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
            raise ValueError(f"{name} leaves out patches in training (patch_drop_rate); build it without.")


def end(model: Any, x: Tensor) -> Tensor:
    """From the last stage to features, channels last: `[..., H', W', D]` or `[..., tokens, D]`."""
    if isinstance(model, TRANSFORMERS):
        return model.norm(x)
    last: Sequence[nn.Module] = ()
    if isinstance(model, EfficientNet):
        last = (model.conv_head, model.bn2)
    elif isinstance(model, ConvNeXt):
        last = (model.norm_pre,)
    return FrameByFrame(nn.Sequential(*last), 4)(x).movedim(-3, -1)


def are_of_images(model: nn.Module, features: Tensor) -> bool:
    """Whether features are of images `[N, ...]`, and not of videos `[B, T, ...]`."""
    return features.dim() == (3 if isinstance(model, TRANSFORMERS) else 4)


def as_of_timm(model: nn.Module, features: Tensor) -> Tensor:
    """From features, channels last, to the layout that timm's own have."""
    return features if isinstance(model, TRANSFORMERS) else features.movedim(-1, 1)


def initialize(model: Any) -> None:
    """Draws all weights anew as timm's constructors do."""
    model.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
    if isinstance(model, ConvNeXt):
        named_apply(_init_convnext_weights, model)
    elif isinstance(model, EfficientNet):
        efficientnet_init_weights(model)
    else:
        model.init_weights()
    for adapter in adapters_of(model):
        cast(TemporalAdapter, adapter).begin()


def _init_convnext_weights(module: nn.Module, name: str) -> None:
    _init_weights(module, name)
    if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
        nn.init.constant_(gamma, CONVNEXT_LAYER_SCALE)
