"""Video Swin (arXiv 2106.13230) as torchvision ships it, with torchvision's parameter names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d, SwinTransformer3d

from .architecture import Architecture, TemporalReach, register_backbone
from .backbone_rates import at_feature_rate
from .reversible import Stage
from .value_checks import BELOW_ONE, COUNT, POSITIVE, Range

VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}
SIZES = ("embed_dim", "depths", "num_heads")

# What torchvision adds to the logits of pairs that the cyclic shift has brought together.
SHIFT_PENALTY = -100.0


class WindowAttention(ShiftedWindowAttention3d):
    """torchvision's attention, computed by its modules.

    torchvision reads the weights past its projections, so that adapters in their place would not count.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, H, W, C]` -> the same shape."""
        return window_attention(self, x)


def window_attention(attention: ShiftedWindowAttention3d, x: Tensor) -> Tensor:
    """Shifted window attention (arXiv 2106.13230, section 3.2) of `[B, T, H, W, C]`."""
    *size, channels = x.shape[1:]
    window = [min(w, s) for w, s in zip(attention.window_size, size, strict=True)]
    fits = [s <= w for w, s in zip(attention.window_size, size, strict=True)]
    shift = [0 if fit else s for fit, s in zip(fits, attention.shift_size, strict=True)]
    missing = [-s % w for w, s in zip(window, size, strict=True)]
    x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
    padded = x.shape[1:4]
    if any(shift):
        x = x.roll([-s for s in shift], dims=(1, 2, 3))
    x = into_windows(x, window)  # [B, windows, tokens, C]

    heads = attention.num_heads
    qkv = attention.qkv(x).unflatten(-1, (3, heads, channels // heads))
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # [B, windows, heads, tokens, C / heads]
    bias = attention.get_relative_position_bias(window)  # [1, heads, tokens, tokens]
    joined = (0, 1)  # all windows have the bias in common
    if any(shift):
        regions = into_windows(shifted_regions(padded, window, shift, x.device), window)[0, :, :, 0]
        apart = regions[:, :, None] != regions[:, None, :]
        bias = (bias + (apart * SHIFT_PENALTY).unsqueeze(1).to(bias)).flatten(0, 1).unsqueeze(0)
        joined = (1, 2)
    dropout = attention.attention_dropout if attention.training else 0.0
    shape = query.shape
    query, key, value = (tensor.flatten(*joined) for tensor in (query, key, value))
    x = biased_attention(query, key, value, bias.to(query.dtype), dropout).view(shape)
    # Whether this is a copy depends on the kernel, and an exported graph must not.
    x = x.transpose(2, 3).clone(memory_format=torch.contiguous_format)
    x = attention.proj(x.flatten(3))
    x = out_of_windows(F.dropout(x, attention.dropout, attention.training), window, padded)
    if any(shift):
        x = x.roll(shift, dims=(1, 2, 3))
    return x[:, : size[0], : size[1], : size[2]].contiguous()


def biased_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Attention with a bias, by a fused kernel, which does not write the attention matrix to memory.

    Args:
        query: `[B, heads, tokens, channels]`, as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        bias: `[1, heads, tokens, tokens]`, added to the logits.
        dropout: Share of the attention that is dropped; above 0 there is no fused kernel.

    Returns:
        `[B, heads, tokens, channels]`.
    """
    if dropout > 0:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    if torch.is_grad_enabled() and bias.requires_grad:
        return _BiasedAttention.apply(query, key, value, bias)
    return _fused_attention(query, key, value, bias)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    # The choice of the kernel asks whether the bias requires a gradient, also where none is computed.
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.detach())


class _BiasedAttention(torch.autograd.Function):
    """PyTorch's fused kernels on a CPU give no gradient to a bias; here the backward pass makes the matrix anew."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        return _fused_attention(query, key, value, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        wide = torch.promote_types(grad.dtype, torch.float32)
        query, key, value, bias, grad = (tensor.to(wide) for tensor in (*inputs, grad))
        scale = query.shape[-1] ** -0.5
        logits = (query * scale) @ key.mT
        logits += bias
        shares = logits.softmax(-1)
        grad_logits = torch.ops.aten._softmax_backward_data(grad @ value.mT, shares, -1, wide)
        grads = (
            grad_logits @ key * scale,
            grad_logits.mT @ query * scale,
            shares.mT @ grad,
            grad_logits.sum(0, keepdim=True),
        )
        return tuple(grad.to(tensor.dtype) for grad, tensor in zip(grads, inputs, strict=True))


def into_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """`[B, T, H, W, C]` -> `[B, windows, tokens of a window, C]`; sizes are multiples of the window's."""
    (t, h, w), (_, *size, _) = window, x.shape
    counts = [s // n for s, n in zip(size, window, strict=True)]
    x = x.view(x.shape[0], counts[0], t, counts[1], h, counts[2], w, x.shape[-1])
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape[0], math.prod(counts), t * h * w, -1)


def out_of_windows(x: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of `into_windows`."""
    counts = [s // n for s, n in zip(size, window, strict=True)]
    x = x.view(x.shape[0], *counts, *window, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *size, -1)


def shifted_regions(size: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Numbers, `[1, T, H, W, 1]`, of the regions that were neighbours before a cyclic shift."""
    regions = torch.zeros(1, *size, 1, dtype=torch.int64, device=device)
    for dim, (length, width, moved) in enumerate(zip(size, window, shift, strict=True)):
        place = torch.arange(length, device=device)
        region = (place >= length - width).long() + (place >= length - moved).long()
        regions = 3 * regions + region.view([-1 if i == dim + 1 else 1 for i in range(5)])
    return regions


@register_backbone
class VideoSwin(Architecture):
    """torchvision's `swin3d_t`, `swin3d_s`, `swin3d_b` and free sizes."""

    model_type = "video_swin"
    model_class = SwinTransformer3d
    recast_modules = {ShiftedWindowAttention3d: WindowAttention}

    def build(
        self,
        *,
        variant: Literal["tiny", "small", "base"] | None = None,
        embed_dim: Annotated[int | None, COUNT] = None,
        depths: Annotated[Sequence[int] | None, COUNT] = None,
        num_heads: Annotated[Sequence[int] | None, COUNT] = None,
        patch_size: Annotated[Sequence[int], Range(low=1, length=3)] = (2, 4, 4),
        window_size: Annotated[Sequence[int], Range(low=1, length=3)] = (8, 7, 7),
        mlp_ratio: Annotated[float, POSITIVE] = 4.0,
        dropout: Annotated[float, BELOW_ONE] = 0.0,
        attention_dropout: Annotated[float, BELOW_ONE] = 0.0,
        stochastic_depth_prob: Annotated[float, BELOW_ONE] = 0.1,
        feature_stride: Annotated[int | None, COUNT] = None,
    ) -> SwinTransformer3d:
        """Builds a Video Swin without classifier.

        `variant` is `"tiny"`, `"small"` or `"base"` and sets `embed_dim`, `depths` and `num_heads`. With a
        `feature_stride`, a multiple of the patch's frames, the features are interpolated to one for so many frames. The
        other arguments are torchvision's own; they win over the variant's.
        """
        sizes = _sizes({"variant": variant, "embed_dim": embed_dim, "depths": depths, "num_heads": num_heads})
        model = SwinTransformer3d(
            patch_size=list(patch_size),
            window_size=list(window_size),
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            attention_dropout=attention_dropout,
            stochastic_depth_prob=stochastic_depth_prob,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            **sizes,
        )
        model.head = nn.Identity()
        model.feature_stride = feature_stride or patch_size[0]
        return model

    def check(self, settings: Mapping[str, Any], where: str = "backbone_config.") -> None:
        """As of every family; the sizes of the stages must go together."""
        super().check(settings, where)
        sizes = _sizes(settings)
        if missing := [name for name in SIZES if name not in sizes]:
            raise ValueError(f"{where}{missing[0]} is missing; give a variant, or {', '.join(SIZES)}.")
        width, depths, heads = (sizes[name] for name in SIZES)
        if len(depths) != len(heads):
            raise ValueError(f"{where}num_heads has {len(heads)} stages, and depths {len(depths)}.")
        if sum(depths) < 2:
            raise ValueError(f"{where}depths is {list(depths)}; there must be two blocks or more.")
        for stage, count in enumerate(heads):
            if width * 2**stage % count:
                raise ValueError(
                    f"{where}num_heads[{stage}] is {count}, which does not divide the stage's {width * 2**stage} "
                    f"channels, embed_dim times {2**stage}."
                )
        frames = settings.get("patch_size", (2,))[0]
        stride = settings.get("feature_stride") or frames
        if stride % frames:
            raise ValueError(
                f"{where}feature_stride is {stride}; choose a multiple of {frames}, the frames of a patch."
            )
        if int(width * settings.get("mlp_ratio", 4.0)) < 1:
            raise ValueError(f"{where}mlp_ratio is {settings['mlp_ratio']}; of {width} channels it leaves none.")

    def stages(self, model: SwinTransformer3d, size: Sequence[int] | None = None) -> list[Stage]:
        stages = []
        entry: nn.Module = nn.Sequential(model.patch_embed, model.pos_drop)
        for layer in model.features:
            if isinstance(layer, PatchMerging):
                entry = layer
                continue
            branches: list[nn.Module] = []
            for block in layer:
                branches.append(nn.Sequential(block.norm1, block.attn, block.stochastic_depth))
                branches.append(nn.Sequential(block.norm2, block.mlp, block.stochastic_depth))
            stages.append(Stage(entry, branches))
        return stages

    def norm(self, model: SwinTransformer3d, *outputs: Tensor) -> Tensor:
        return model.norm(*outputs)

    def classify(self, model: SwinTransformer3d, features: Tensor) -> Tensor:
        return model.head(torch.flatten(model.avgpool(features.permute(0, 4, 1, 2, 3)), 1))

    def initialize(self, model: SwinTransformer3d) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, ShiftedWindowAttention3d):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
            elif isinstance(module, (nn.Conv3d, nn.LayerNorm)):
                module.reset_parameters()

    def feature_size(self, model: SwinTransformer3d) -> int:
        return model.num_features

    def feature_stride(self, model: SwinTransformer3d) -> int:
        return cast(int, getattr(model, "feature_stride", model.patch_embed.tuple_patch_size[0]))

    def temporal_reach(self, model: SwinTransformer3d) -> TemporalReach:
        """Every second block moves the windows, so that what one end of a part is, others see through two windows."""
        before = after = window = 0
        for attention in (module for module in model.modules() if isinstance(module, ShiftedWindowAttention3d)):
            window, shift = attention.window_size[0], attention.shift_size[0]
            # At the ends of a part the windows are cut in two.
            before, after = _spread(before, window, shift), _spread(after, window, -shift % window)
        frames, stride = model.patch_embed.tuple_patch_size[0], self.feature_stride(model)
        interpolated = stride if stride != frames else 0
        # A part of less than a window would have a smaller one: one token of another window, at least.
        return TemporalReach(max(before, after, 1) * frames + interpolated, math.lcm(window * frames, stride))

    def temporal_features(self, model: SwinTransformer3d, features: Tensor) -> Tensor:
        """Pools over space, and brings the features to their rate."""
        pooled = super().temporal_features(model, features)
        frames, stride = model.patch_embed.tuple_patch_size[0], self.feature_stride(model)
        return at_feature_rate(pooled, frames, stride, -(-pooled.shape[1] * frames // stride))


def _spread(tokens: int, window: int, first: int) -> int:
    """How many tokens from an end see beyond it after a block whose window there has `first`; `tokens` did before."""
    return first + -(-max(tokens - first, 0) // window) * window


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the variant, and of the settings those that are given."""
    variant = settings.get("variant")
    given = {name: settings[name] for name in SIZES if settings.get(name) is not None}
    return {**(VARIANTS[variant] if variant else {}), **given}
