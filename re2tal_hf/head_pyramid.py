"""Heads on a feature pyramid: necks, branches, and what the heads of ActionFormer and TriDet share.

Every step of every pyramid level, of strides 1, 2, 4, ..., is a point that says which classes are active
there and how far away the start and the end of the action are. Shapes and masks as in `head`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .head import Padding, check_choice, prepare_features
from .head_layers import ConvLayer, zero_padding

Neck = Literal["identity", "fpn"]


def default_regression_ranges(num_levels: int) -> list[tuple[float, float]]:
    """Boundary distances each level is responsible for: 0-4, 4-8, 8-16, ..., the last open."""
    bounds = [0.0] + [4.0 * 2**level for level in range(num_levels - 1)] + [10000.0]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def sinusoidal_positions(length: int, size: int) -> Tensor:
    """Sinusoidal position table of "Attention Is All You Need" (arXiv 1706.03762, section 3.5).

    Returns:
        float32 `[length, size]` on the CPU, divided by `sqrt(size)` as ActionFormer does.
    """
    # float64, because an angle of thousands of radians in float32 is off by 1e-4; on the CPU,
    # because not every accelerator has float64.
    position = torch.arange(length, dtype=torch.float64, device="cpu")[:, None]
    channel = torch.arange(size, dtype=torch.float64, device="cpu")
    angle = position / 10000 ** (2 * (channel // 2) / size)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return table.float() / size**0.5


class IdentityNeck(nn.Module):
    """One layer norm a level."""

    def __init__(self, size: int, num_levels: int, norm_eps: float, isolate_padding: bool):
        super().__init__()
        self.isolate_padding = isolate_padding
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=norm_eps) for _ in range(num_levels))

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """List of `[B, T_l, C]`, finest first -> the same shapes."""
        normed = [norm(x) for norm, x in zip(self.norms, levels, strict=True)]
        if self.isolate_padding:
            normed = [zero_padding(x, mask) for x, mask in zip(normed, masks, strict=True)]
        return normed


class FeaturePyramidNeck(nn.Module):
    """Top-down feature pyramid (arXiv 1612.03144) in actionformer_release's form.

    Per level a linear lateral connection, a depthwise convolution and a layer norm.
    """

    def __init__(self, size: int, num_levels: int, norm_eps: float, isolate_padding: bool):
        super().__init__()
        self.isolate_padding = isolate_padding
        levels = range(num_levels)
        self.laterals = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in levels)
        self.convs = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1, groups=size, bias=False) for _ in levels)
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=norm_eps) for _ in levels)

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """List of `[B, T_l, C]`, finest first -> the same shapes."""
        merged = [zero_padding(lateral(x), mask) for lateral, x, mask in zip(self.laterals, levels, masks, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            coarser = merged[level].repeat_interleave(2, dim=1)
            merged[level - 1] = merged[level - 1] + coarser
        outputs = []
        for conv, norm, x, mask in zip(self.convs, self.norms, merged, masks, strict=True):
            if self.isolate_padding:
                x = zero_padding(x, mask)
            x = norm(zero_padding(conv(x.transpose(1, 2)).transpose(1, 2), mask))
            outputs.append(zero_padding(x, mask) if self.isolate_padding else x)
        return outputs


class LevelScales(nn.Module):
    """A learnable factor for each level."""

    def __init__(self, num_levels: int):
        super().__init__()
        for level in range(num_levels):
            self.register_parameter(str(level), nn.Parameter(torch.empty(())))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Scales what a branch says of a level."""
        return self.get_parameter(str(level)) * x


class PredictionBranch(nn.Module):
    """Convolutions shared by all levels, and the convolution that predicts."""

    def __init__(
        self, size: int, output_size: int, num_layers: int, norm_eps: float, mask_output: bool, kernel_size: int = 3
    ):
        super().__init__()
        self.layers = nn.ModuleList(ConvLayer(size, size, norm_eps, mask_output) for _ in range(num_layers))
        self.predictor = nn.Conv1d(size, output_size, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, output_size]`; what it says at padding means nothing."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.predictor(x.transpose(1, 2)).transpose(1, 2)


class PyramidHead(nn.Module):
    """A head whose points are the steps of a feature pyramid.

    A convolutional embedding, stem blocks at full resolution, one block a level that halves the
    sequence, a neck, and classification and boundary branches shared by all levels. Subclasses say
    which blocks, and turn what the branches say into an output.

    The arguments are those of `ActionFormerHead`, and:

    Args:
        stem: blocks at full resolution. A block maps `[B, T, C]` and its mask to the next ones, and
            draws its own scales in `initialize_weights()`.
        pyramid: a block for each further level.
        boundary_size: channels that the boundary branch predicts.
        length_multiple: inputs are padded to a multiple of this, with the reference paddings also to
            `max_length`.
    """

    def __init__(
        self,
        input_size: int,
        num_labels: int,
        *,
        stem: Sequence[nn.Module],
        pyramid: Sequence[nn.Module],
        boundary_size: int,
        length_multiple: int,
        hidden_size: int,
        standardize_input: bool,
        num_embedding_layers: int,
        max_length: int,
        use_position_embedding: bool,
        neck: Neck,
        regression_ranges: Sequence[Sequence[float]] | None,
        num_head_layers: int,
        class_prior: float,
        norm_eps: float,
        padding: Padding,
    ):
        super().__init__()
        num_levels = 1 + len(pyramid)
        ranges = regression_ranges or default_regression_ranges(num_levels)
        check_choice("neck", neck, get_args(Neck))
        check_choice("padding", padding, get_args(Padding))
        if len(ranges) != num_levels:
            raise ValueError(
                f"regression_ranges has {len(ranges)} entries for num_levels={num_levels}; "
                "give one (smallest, largest) per level."
            )
        self.input_size = input_size
        self.standardize_input = standardize_input
        self.num_levels = num_levels
        self.max_length = max_length
        self.length_multiple = length_multiple
        self.use_position_embedding = use_position_embedding
        self.regression_ranges = [(float(low), float(high)) for low, high in ranges]
        self.class_prior = class_prior
        self.padding = padding

        mask_output = padding != "actionformer"
        self.embedding = nn.ModuleList(
            ConvLayer(hidden_size if i else input_size, hidden_size, norm_eps, mask_output)
            for i in range(num_embedding_layers)
        )
        self.stem = nn.ModuleList(stem)
        self.pyramid = nn.ModuleList(pyramid)
        neck_class = IdentityNeck if neck == "identity" else FeaturePyramidNeck
        self.neck = neck_class(hidden_size, num_levels, norm_eps, padding == "isolated")
        branch = (num_head_layers, norm_eps, mask_output)
        self.classification = PredictionBranch(hidden_size, num_labels, *branch)
        self.boundary = PredictionBranch(hidden_size, boundary_size, *branch)
        self.level_scales = LevelScales(num_levels)

    def initialize_weights(self) -> None:
        """Draws all parameters anew, by functions of `torch.nn.init` only."""
        predictor_bias = self.classification.predictor.bias
        assert predictor_bias is not None
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                # Once for each parameter: transformers guards them against a second time.
                if module.bias is not None and module.bias is not predictor_bias:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for block in (*self.stem, *self.pyramid):
            block.initialize_weights()
        for scale in self.level_scales.parameters():
            nn.init.ones_(scale)
        nn.init.constant_(predictor_bias, math.log(self.class_prior / (1 - self.class_prior)))

    def extract_pyramid(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels before the neck.

        Args:
            features: `[B, input_size, T]`; padded steps may hold anything (with `padding` other than
                `"isolated"` the first convolution sees it).
            mask: bool `[B, T]`, True where a step is real.

        Returns:
            Per level, finest first, `[B, T_l, hidden_size]` and its mask `[B, T_l]`.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        x, mask = self._pad(features, mask)
        for layer in self.embedding:
            x = layer(x, mask)
        if self.use_position_embedding:
            positions = self._positions(x.shape[1], x.shape[2]).to(x)
            x = x + zero_padding(positions.expand_as(x), mask)
        for block in self.stem:
            x, mask = block(x, mask)
        levels, masks = [x], [mask]
        for block in self.pyramid:
            x, mask = block(x, mask)
            levels.append(x)
            masks.append(mask)
        return levels, masks

    def _pad(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, mask = prepare_features(
            features, mask, self.input_size, standardized=self.standardize_input, isolated=self.padding == "isolated"
        )
        missing = self._padded_length(mask.shape[1]) - mask.shape[1]
        return F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)

    def _padded_length(self, length: int) -> int:
        if self.padding != "isolated":
            length = max(length, self.max_length)
        return math.ceil(length / self.length_multiple) * self.length_multiple

    def _positions(self, length: int, size: int) -> Tensor:
        if length <= self.max_length:
            return sinusoidal_positions(length, size)
        table = sinusoidal_positions(self.max_length, size).T.unsqueeze(0)
        return F.interpolate(table, length, mode="linear", align_corners=False)[0].T

    def _points(self, lengths: list[int], device: torch.device) -> Tensor:
        levels = []
        for level, (length, bounds) in enumerate(zip(lengths, self.regression_ranges, strict=True)):
            stride = 2**level
            position = torch.arange(length, dtype=torch.float32, device=device) * stride
            constants = [torch.full_like(position, value) for value in (*bounds, stride)]
            levels.append(torch.stack((position, *constants), dim=1))
        return torch.cat(levels)
