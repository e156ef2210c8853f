"""ActionFormer's localization head: temporal features in, class scores and boundaries out.

Zhang, Wu and Li, "ActionFormer: Localizing Moments of Actions with Transformers", arXiv 2202.07925.
Every step of every pyramid level is a point that says which classes are active there and how far
away the start and the end of the action are.

Shapes: `B` sequences, `T` feature steps, `C` channels, `L` pyramid levels of strides 1, 2, 4, ...,
`P` points (the steps of all levels, finest level first), `K` classes. Masks are bool, True where a
step is real. Inside the head a sequence is `[B, T, C]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .temporal_layers import ConvLayer, TransformerBlock, convolve, standardize, zero_padding

Neck = Literal["identity", "fpn"]
Padding = Literal["isolated", "opentad", "actionformer"]


@dataclass
class LocalizationHeadOutput:
    """Raw predictions of a localization head.

    Attributes:
        logits: `[B, P, K]`, class scores before the sigmoid. Zero at padding.
        offsets: `[B, P, 2]`, distances from the point to start and end, not negative, in units of
            the point's own stride. Zero at padding.
        points: float32 `[P, 4]`, for each point its position, the smallest and the largest
            distance to a boundary that it is responsible for (all in feature steps), its stride.
        point_mask: bool `[B, P]`, True where a point is real and not padding.
    """

    logits: Tensor
    offsets: Tensor
    points: Tensor
    point_mask: Tensor


def decode_segments(output: LocalizationHeadOutput) -> Tensor:
    """Turns offsets into segments.

    Args:
        output: what a head returned.

    Returns:
        `[B, P, 2]` start and end in feature steps, float32 or wider; not clipped to the sequence.
    """
    position, stride = output.points[:, 0], output.points[:, 3]
    start = position - output.offsets[..., 0] * stride
    end = position + output.offsets[..., 1] * stride
    return torch.stack((start, end), dim=-1)


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


class PredictionBranch(nn.Module):
    """Convolutions shared by all levels, and the convolution that predicts."""

    def __init__(self, size: int, output_size: int, num_layers: int, norm_eps: float, mask_output: bool):
        super().__init__()
        self.layers = nn.ModuleList(ConvLayer(size, size, norm_eps, mask_output) for _ in range(num_layers))
        self.predictor = nn.Conv1d(size, output_size, kernel_size=3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, output_size]`, zero at padding."""
        for layer in self.layers:
            x = layer(x, mask)
        return convolve(self.predictor, x, mask)


class ActionFormerHead(nn.Module):
    """ActionFormer from features to predictions (arXiv 2202.07925).

    A convolutional embedding, a transformer stem, `num_levels - 1` transformer blocks that each
    halve the sequence, a neck, and classification and boundary branches shared by all levels.

    The public implementations differ in details that trained weights depend on. `norm_eps` is 1e-6
    in OpenTAD and 1e-5 in actionformer_release (the norms inside the transformer blocks have 1e-5
    in both), and `padding` says what convolutions see of the steps behind the end of a sequence:

    - `"isolated"`: zeros, everywhere. What is predicted at real steps does not depend on how much
      padding follows, hence not on the batch. For models trained here.
    - `"opentad"`: inside the transformer blocks the padding that convolutions see is the layer
      norm's bias. Inputs are padded as there, to `max_length` or, if longer, to the next multiple
      of coarsest stride and window.
    - `"actionformer"`: in addition, padding is not set to zero again after the norm and ReLU of
      the embedding and the prediction branches.

    Args:
        input_size: channels of the features.
        num_labels: classes; 1 for class-agnostic localization.
        hidden_size: channels inside the head.
        standardize_input: whether every feature channel gets mean 0 and variance 1 over the window
            before the first convolution. Not in the paper; for backbones trained from scratch, whose
            pooled features differ little from step to step and much from channel to channel.
        num_embedding_layers: convolutions before the transformer.
        num_stem_layers: transformer blocks at full resolution.
        num_levels: pyramid levels; the strides are 1, 2, ..., `2 ** (num_levels - 1)`.
        num_attention_heads: divides `hidden_size`.
        attention_window: width of the local attention in steps of the level, `w // 2` on either
            side of the step; None for full attention.
        max_length: feature steps of a training window. Longer inputs get its position table
            stretched.
        use_position_embedding: whether sinusoidal absolute positions are added after the embedding.
        neck: `"identity"` or `"fpn"`.
        regression_ranges: per level the smallest and largest distance to a boundary, in feature
            steps, that its points are responsible for; by default 0-4, 4-8, ..., the last to 10000.
        num_head_layers: convolutions before the predicting one in each branch.
        dropout: in the transformer blocks.
        drop_path: probability that a sequence skips a branch of a transformer block.
        branch_scale: initial value of the learnable scale of these branches.
        class_prior: initial probability of every class (arXiv 1708.02002, section 3.3).
        norm_eps: see above.
        padding: see above.

    Raises:
        ValueError: if arguments do not go together.
    """

    def __init__(
        self,
        input_size: int,
        num_labels: int,
        *,
        hidden_size: int = 512,
        standardize_input: bool = False,
        num_embedding_layers: int = 2,
        num_stem_layers: int = 2,
        num_levels: int = 6,
        num_attention_heads: int = 4,
        attention_window: int | None = None,
        max_length: int = 2304,
        use_position_embedding: bool = False,
        neck: Neck = "identity",
        regression_ranges: Sequence[Sequence[float]] | None = None,
        num_head_layers: int = 2,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        branch_scale: float = 1e-4,
        class_prior: float = 0.01,
        norm_eps: float = 1e-6,
        padding: Padding = "isolated",
    ):
        super().__init__()
        ranges = regression_ranges or default_regression_ranges(num_levels)
        _check_choice("neck", neck, get_args(Neck))
        _check_choice("padding", padding, get_args(Padding))
        if len(ranges) != num_levels:
            raise ValueError(
                f"regression_ranges has {len(ranges)} entries for num_levels={num_levels}; "
                "give one (smallest, largest) per level."
            )
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_attention_heads}."
            )
        if attention_window is not None and attention_window < 2:
            raise ValueError(
                f"attention_window={attention_window} is too narrow; give at least 2, or None for full attention."
            )
        self.input_size = input_size
        self.standardize_input = standardize_input
        self.num_levels = num_levels
        self.max_length = max_length
        self.use_position_embedding = use_position_embedding
        self.regression_ranges = [(float(low), float(high)) for low, high in ranges]
        self.attention_window = attention_window
        self.class_prior = class_prior
        self.padding = padding

        isolate = padding == "isolated"
        mask_output = padding != "actionformer"
        self.embedding = nn.ModuleList(
            ConvLayer(hidden_size if i else input_size, hidden_size, norm_eps, mask_output)
            for i in range(num_embedding_layers)
        )
        strides = [1] * num_stem_layers + [2] * (num_levels - 1)
        blocks = [
            TransformerBlock(
                hidden_size,
                num_attention_heads,
                stride=stride,
                window=attention_window,
                dropout=dropout,
                drop_path=drop_path,
                branch_scale=branch_scale,
                isolate_padding=isolate,
            )
            for stride in strides
        ]
        self.stem = nn.ModuleList(blocks[:num_stem_layers])
        self.pyramid = nn.ModuleList(blocks[num_stem_layers:])
        neck_class = IdentityNeck if neck == "identity" else FeaturePyramidNeck
        self.neck = neck_class(hidden_size, num_levels, norm_eps, isolate)
        branch = (num_head_layers, norm_eps, mask_output)
        self.classification = PredictionBranch(hidden_size, num_labels, *branch)
        self.boundary = PredictionBranch(hidden_size, 2, *branch)
        self.level_scales = nn.ParameterList(torch.empty(()) for _ in range(num_levels))
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Draws all parameters anew, by functions of `torch.nn.init` only."""
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                # Once for each parameter: transformers guards them against a second time.
                if module.bias is not None and module is not self.classification.predictor:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, TransformerBlock):
                nn.init.constant_(module.attention_scale, module.branch_scale)
                nn.init.constant_(module.mlp_scale, module.branch_scale)
        for scale in self.level_scales:
            nn.init.ones_(scale)
        prior_logit = math.log(self.class_prior / (1 - self.class_prior))
        bias = self.classification.predictor.bias
        assert bias is not None
        nn.init.constant_(bias, prior_logit)

    def forward(self, features: Tensor, mask: Tensor) -> LocalizationHeadOutput:
        """Predicts classes and boundaries at every point.

        Args:
            features: `[B, input_size, T]`; padded steps may hold anything (with `padding` other than
                `"isolated"` the first convolution sees it).
            mask: bool `[B, T]`, True where a step is real.

        Returns:
            The predictions. Any `T` is accepted; points that the head added at the end to complete
            its coarsest step are masked.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        levels, masks = self.extract_pyramid(features, mask)
        levels = self.neck(levels, masks)
        logits = [self.classification(x, m) for x, m in zip(levels, masks, strict=True)]
        offsets = [
            F.relu(scale * self.boundary(x, m)) for scale, x, m in zip(self.level_scales, levels, masks, strict=True)
        ]
        return LocalizationHeadOutput(
            logits=torch.cat(logits, dim=1),
            offsets=torch.cat(offsets, dim=1),
            points=self._points([m.shape[1] for m in masks], features.device),
            point_mask=torch.cat(masks, dim=1),
        )

    def extract_pyramid(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of all levels before the neck.

        Args:
            features: as in `forward`.
            mask: as in `forward`.

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
        batch, channels, length = features.shape
        if channels != self.input_size or mask.shape != (batch, length):
            raise ValueError(
                f"features {tuple(features.shape)} and mask {tuple(mask.shape)} must be "
                f"[B, {self.input_size}, T] and [B, T]."
            )
        mask = mask.bool()
        x = features.transpose(1, 2)
        if self.standardize_input:
            x = standardize(x, mask)
        elif self.padding == "isolated":
            x = zero_padding(x, mask)
        missing = self._padded_length(length) - length
        return F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)

    def _padded_length(self, length: int) -> int:
        multiple = 2 ** (self.num_levels - 1)
        if self.padding != "isolated":
            length = max(length, self.max_length)
            if self.attention_window is not None:
                multiple *= 2 * (self.attention_window // 2)
        return math.ceil(length / multiple) * multiple

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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {choices}.")
