"""Masked layers over time: convolution, attention over all steps or a local window, transformer block.

Sequences are `[B, T, C]`, masks bool `[B, T]`, True where a step is real; padding comes out as zeros.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .head_memory import Method, in_chunks, run_block

SMALLEST_ATTENTION_BLOCK = 64


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Sets the padded steps of `[B, T, C]` to zero, whatever they held."""
    return x.masked_fill(~mask.unsqueeze(-1), 0)


def standardize(x: Tensor, mask: Tensor) -> Tensor:
    """Gives every channel of `[B, T, C]` mean 0 and variance 1 over the real steps; padding is zero."""
    count = mask.sum(dim=1).clamp_min(1)[:, None, None]
    mean = zero_padding(x, mask).sum(dim=1, keepdim=True) / count
    centred = zero_padding(x - mean, mask)
    variance = centred.square().sum(dim=1, keepdim=True) / count
    return centred * (variance + 1e-5).rsqrt()


def draw_layers(module: nn.Module, but: Tensor | None = None) -> None:
    """Draws the layers of a head anew: weights as PyTorch does, biases of 0, norms that change nothing.

    Args:
        module: the head.
        but: a bias that is drawn elsewhere: transformers guards parameters against being drawn twice.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
            if layer.bias is not None and layer.bias is not but:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def convolve(convolution: nn.Conv1d, x: Tensor, mask: Tensor) -> Tensor:
    """Convolves `[B, T, C]` over time; the output is zero at the padding left after its stride."""
    out = convolution(x.transpose(1, 2)).transpose(1, 2)
    return zero_padding(out, mask[:, :: convolution.stride[0]])


def max_pool(x: Tensor, mask: Tensor, stride: int, isolate_padding: bool) -> Tensor:
    """Maximum over three steps of `[B, T, C]` around every `stride`-th; `isolate_padding` leaves padded steps out."""
    if isolate_padding:
        x = x.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    return F.max_pool1d(x.transpose(1, 2), 3, stride, padding=1).transpose(1, 2)


def full_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of every step to every real step.

    Args:
        query: `[B, heads, T, channels]`, as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        mask: bool `[B, T]`. A sequence without real steps attends to its padding: finite numbers.

    Returns:
        `[B, heads, T, channels]`.
    """
    attended = mask | ~mask.any(dim=1, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attended[:, None, None])


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, radius: int, bias: Tensor | None = None
) -> Tensor:
    """Attention of every step to the real steps at most `radius` away; memory is linear in `T`.

    Queries are cut into blocks, and each block sees its own keys and `radius` more on both sides.

    Args:
        query: `[B, heads, T, channels]`, as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        mask: bool `[B, T]`. Every step sees itself, padding too, so that no row is empty.
        radius: in steps.
        bias: `[heads, 2 * radius + 1]`, added to the logits of a key so many steps, `radius` less, after its query.

    Returns:
        `[B, heads, T, channels]`.
    """
    batch, _, length, _ = query.shape
    block = min(max(2 * radius, SMALLEST_ATTENTION_BLOCK), length)
    num_blocks = math.ceil(length / block)
    tail = num_blocks * block - length
    reach = block + 2 * radius

    def neighbourhoods(x: Tensor) -> Tensor:
        windows = F.pad(x, (0, 0, radius, radius + tail)).unfold(2, reach, block)
        return windows.permute(0, 2, 1, 4, 3).flatten(0, 1)  # [B * blocks, heads, reach, channels]

    blocks = F.pad(query, (0, 0, 0, tail)).unflatten(2, (num_blocks, block))
    blocks = blocks.transpose(1, 2).flatten(0, 1)  # [B * blocks, heads, block, channels]
    real = F.pad(mask, (radius, radius + tail), value=False).unfold(1, reach, block)
    steps = torch.arange(reach, device=query.device)
    offset = steps[None, :] - radius - steps[:block, None]
    attended = ((offset.abs() <= radius) & real[:, :, None]) | (offset == 0)
    attended = attended.flatten(0, 1).unsqueeze(1)
    if bias is not None:
        biases = bias.to(query.dtype)[:, (offset + radius).clamp(0, 2 * radius)]  # [heads, block, reach]
        attended = biases.masked_fill(~attended, -torch.inf)
    out = F.scaled_dot_product_attention(blocks, neighbourhoods(key), neighbourhoods(value), attn_mask=attended)
    return out.unflatten(0, (batch, num_blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm over the channels of `[B, T, C]` and its real steps."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, T, C]` -> the same shape, where a mask is given in statistics of float32 or wider.

        Args:
            x: `[B, T, C]`.
            mask: bool `[B, T]`, the steps of which mean and variance are; None: of all. Padding is not zero afterwards.
        """
        if mask is None:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        mean = self.sums(x, mask) / self.counts(mask)
        return self.normalized(x, mask, mean, self.squares(x, mask, mean) / self.counts(mask))

    def counts(self, mask: Tensor) -> Tensor:
        """Bool `[B, T]` -> of how many numbers mean and variance are, `[B, 1, 1, 1]`."""
        return (mask.sum(dim=1) * (self.num_channels // self.num_groups)).clamp_min(1)[:, None, None, None]

    def sums(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> sums over the real steps and the channels of a group, `[B, 1, groups, 1]`."""
        return self._groups(x).where(mask[:, :, None, None], 0).sum(dim=(1, 3), keepdim=True)

    def squares(self, x: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
        """As `sums`, of the squared distances from the mean."""
        return (self._groups(x) - mean).where(mask[:, :, None, None], 0).square().sum(dim=(1, 3), keepdim=True)

    def normalized(self, x: Tensor, mask: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """`[B, T, C]` -> the same shape, given mean and variance `[B, 1, groups, 1]`."""
        centred = (self._groups(x) - mean).where(mask[:, :, None, None], 0)
        normed = (centred * (variance + self.eps).rsqrt()).flatten(2)
        return (normed * self.weight + self.bias).to(x.dtype)

    def _groups(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide.unflatten(-1, (self.num_groups, -1))  # [B, T, groups, C / groups]


class ConvLayer(nn.Module):
    """Convolution over time, layer norm over the channels, ReLU.

    Args:
        input_size: channels in.
        output_size: channels out.
        norm_eps: of the layer norm.
        mask_output: whether padding is zero again after the norm, whose bias makes it non-zero.
        kernel_size: steps that the convolution sees, odd.
    """

    def __init__(self, input_size: int, output_size: int, norm_eps: float, mask_output: bool, kernel_size: int = 3):
        super().__init__()
        self.mask_output = mask_output
        self.conv = nn.Conv1d(input_size, output_size, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.LayerNorm(output_size, eps=norm_eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, input_size]` -> `[B, T, output_size]`."""
        x = F.relu(self.norm(convolve(self.conv, x, mask)))
        return zero_padding(x, mask) if self.mask_output else x


class DepthwiseProjection(nn.Module):
    """Depthwise convolution over three steps, layer norm, linear map."""

    def __init__(self, size: int, stride: int):
        super().__init__()
        self.conv = nn.Conv1d(size, size, 3, stride=stride, padding=1, groups=size, bias=False)
        self.norm = nn.LayerNorm(size)
        self.linear = nn.Linear(size, size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T / stride, C]`."""
        return self.linear(self.norm(convolve(self.conv, x, mask)))


class TemporalAttention(nn.Module):
    """Multi-head self-attention whose queries, keys and values come from depthwise convolutions.

    The convolutions stand for relative positions and, with a stride, halve the sequence
    (arXiv 2202.07925, section 3.2).

    Args:
        size: channels.
        num_heads: attention heads; divides `size`.
        stride: 1, or 2 to halve the sequence.
        window: width of the local window in steps of the output, None for full attention.
        dropout: of the output.
        relative_positions: whether each head learns a bias for each place in the window, an odd one.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        stride: int,
        window: int | None,
        dropout: float,
        relative_positions: bool = False,
    ):
        super().__init__()
        self.relative_bias = None
        if relative_positions and window is not None:
            self.relative_bias = nn.Parameter(torch.empty(num_heads, window))
        self.num_heads = num_heads
        self.stride = stride
        self.window = window
        self.query = DepthwiseProjection(size, stride)
        self.key = DepthwiseProjection(size, stride)
        self.value = DepthwiseProjection(size, stride)
        self.output = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)

    def initialize_weights(self) -> None:
        """Draws the biases of relative positions, as actionformer_release does."""
        if self.relative_bias is not None:
            nn.init.trunc_normal_(self.relative_bias, std=(2 / self.output.in_features) ** 0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T / stride, C]`, zero at padding."""
        query, key, value = (
            projection(x, mask).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mask = mask[:, :: self.stride]
        if self.window is None:
            attended = full_attention(query, key, value, mask)
        else:
            attended = local_attention(query, key, value, mask, self.window // 2, self.relative_bias)
        x = self.output(attended.transpose(1, 2).flatten(2))
        return zero_padding(self.dropout(x), mask)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block, optionally halving the sequence.

    Both branches have a learnable scale per channel (LayerScale, arXiv 2103.17239) and are dropped
    per sequence (stochastic depth, arXiv 1603.09382).

    Args:
        size: channels.
        num_heads: attention heads.
        stride: 1 or 2.
        window: see `TemporalAttention`.
        dropout: of the attention's output and of the MLP.
        drop_path: probability that a sequence skips a branch.
        branch_scale: initial value of the scales.
        isolate_padding: whether convolution and pooling see nothing of the padding.
        relative_positions: see `TemporalAttention`.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        *,
        stride: int,
        window: int | None,
        dropout: float,
        drop_path: float,
        branch_scale: float,
        isolate_padding: bool,
        relative_positions: bool = False,
    ):
        super().__init__()
        self.stride = stride
        self.branch_scale = branch_scale
        self.isolate_padding = isolate_padding
        self.attention_norm = nn.LayerNorm(size)
        self.attention = TemporalAttention(size, num_heads, stride, window, dropout, relative_positions)
        self.attention_scale = nn.Parameter(torch.empty(size))
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * size, size),
            nn.Dropout(dropout),
        )
        self.mlp_scale = nn.Parameter(torch.empty(size))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def initialize_weights(self) -> None:
        """Sets the scales of the branches to their initial value, and draws biases of the attention."""
        self.attention.initialize_weights()
        nn.init.constant_(self.attention_scale, self.branch_scale)
        nn.init.constant_(self.mlp_scale, self.branch_scale)

    def _skip(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.stride > 1:
            x = max_pool(x, mask, self.stride, self.isolate_padding)
        return zero_padding(x, mask[:, :: self.stride])

    def forward(self, x: Tensor, mask: Tensor, *paths: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` and its mask -> `[B, T / stride, C]` and its mask.

        Args:
            x: `[B, T, C]`.
            mask: bool `[B, T]`.
            paths: Of `draw_paths`, where they are drawn before.
        """
        attention_path, mlp_path = paths or self.draw_paths(x) or (None, None)
        normed = self.attention_norm(x)
        if self.isolate_padding:
            normed = zero_padding(normed, mask)
        attended = self.attention(normed, mask)
        x = self._skip(x, mask) + _dropped(self.attention_scale * attended, attention_path)
        mask = mask[:, :: self.stride]
        refined = zero_padding(self.mlp(self.mlp_norm(x)), mask)
        return x + _dropped(self.mlp_scale * refined, mlp_path), mask

    def draw_paths(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each sequence's two branches count, `[B, 1, 1]` each; nothing where all count fully."""
        if not self.training or not self.drop_path.p:
            return ()
        return self.drop_path(x.new_ones(len(x), 1, 1)), self.drop_path(x.new_ones(len(x), 1, 1))

    @property
    def is_local(self) -> bool:
        """Whether `streamed` runs some steps at a time."""
        return self.attention.window is not None

    def streamed(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but keeps nothing but its input, and with a local attention runs some steps at a time."""
        window, stride = self.attention.window, self.stride
        if window is None:
            return run_block(self, x, mask, recomputes=True)
        reach = window // 2 * stride + 1
        return in_chunks(Method(self), (x, mask), self.draw_paths(x), reach=reach, stride=stride), mask[:, ::stride]


def _dropped(x: Tensor, path: Tensor | None) -> Tensor:
    return x if path is None else x * path
