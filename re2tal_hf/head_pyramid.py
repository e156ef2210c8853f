"""Heads on a feature pyramid: necks, branches, and what the heads of ActionFormer and TriDet share.

Every step of every pyramid level, of strides 1, 2, 4, ..., is a point that says which classes are active
there and how far away the start and the end of the action are. Shapes and masks as in `head`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .head import LocalizationHeadOutput, Padding, check_choice, prepare_features
from .head_layers import ConvLayer, draw_layers, zero_padding
from .head_memory import Method, in_chunks, run_block
from .value_checks import BELOW_ONE, COUNT, INSIDE_ONE, MAX_LEVELS, NOT_NEGATIVE, POSITIVE, Range, check_fields, shown

Neck = Literal["identity", "fpn"]


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Settings of every head on a feature pyramid.

    The public implementations differ in details that trained weights depend on. `norm_eps` is 1e-6
    in OpenTAD and 1e-5 in actionformer_release (the norms inside the transformer blocks have 1e-5
    in both), and `padding` says what is seen of the steps behind the end of a sequence:

    - `"isolated"`: zeros, everywhere. What is predicted at real steps does not depend on how much
      padding follows, hence not on the batch. For models trained here.
    - `"opentad"`: inside the blocks the padding that convolutions see is the layer norm's bias, and it takes
      part in means and pooling. Inputs are padded as there, to `max_length` or, if longer, to the next multiple
      of coarsest stride and window.
    - `"actionformer"`: in addition, padding is not set to zero again after the norm and ReLU of
      the embedding and the prediction branches.

    Args:
        hidden_size: channels inside the head.
        standardize_input: whether every feature channel gets mean 0 and variance 1 over the window
            before the first convolution. Not in the paper; for backbones trained from scratch, whose
            pooled features differ little from step to step and much from channel to channel.
        input_noise: in training, standard deviation of noise that is added to the features (`input_noise` of TriDet).
        input_dropout: in training, probability that a channel of the features is 0 in a whole sequence
            (`input_pdrop` of OpenTAD).
        num_embedding_layers: convolutions before the first block.
        num_stem_layers: blocks at full resolution.
        num_levels: pyramid levels; the strides are 1, 2, ..., `2 ** (num_levels - 1)`.
        max_length: feature steps of a training window. Longer inputs get its position table
            stretched.
        use_position_embedding: whether sinusoidal absolute positions are added after the embedding.
        neck: `"identity"` or `"fpn"`.
        regression_ranges: per level the smallest and largest distance to a boundary, in feature
            steps, that its points are responsible for; by default 0-4, 4-8, ..., the last to 10000.
        num_head_layers: convolutions before the predicting one in each branch.
        branch_size: channels inside the branches; None: as `hidden_size`.
        branch_kernel_size: steps that each convolution of a branch sees, odd.
        drop_path: probability that a sequence skips a branch of a block.
        branch_scale: initial value of the learnable scale of these branches.
        class_prior: initial probability of every class (arXiv 1708.02002, section 3.3).
        norm_eps: see above; of the norms of embedding, neck and branches.
        padding: see above.

    Raises:
        ValueError: if settings do not go together.
    """

    hidden_size: Annotated[int, COUNT] = 512
    standardize_input: bool = False
    input_noise: Annotated[float, NOT_NEGATIVE] = 0.0
    input_dropout: Annotated[float, BELOW_ONE] = 0.0
    num_embedding_layers: Annotated[int, NOT_NEGATIVE] = 2
    num_stem_layers: Annotated[int, NOT_NEGATIVE] = 2
    num_levels: Annotated[int, Range(1, MAX_LEVELS)] = 6
    max_length: Annotated[int, COUNT] = 2304
    use_position_embedding: bool = False
    neck: Neck = "identity"
    regression_ranges: Annotated[Sequence[Sequence[float]] | None, NOT_NEGATIVE] = None
    num_head_layers: Annotated[int, NOT_NEGATIVE] = 2
    branch_size: Annotated[int | None, COUNT] = None
    branch_kernel_size: Annotated[int, COUNT] = 3
    drop_path: Annotated[float, BELOW_ONE] = 0.1
    branch_scale: Annotated[float, NOT_NEGATIVE] = 1e-4
    class_prior: Annotated[float, INSIDE_ONE] = 0.01
    norm_eps: Annotated[float, POSITIVE] = 1e-6
    padding: Padding = "isolated"

    def __post_init__(self) -> None:
        """Checks what goes together."""
        check_fields(self)
        check_choice("padding", self.padding, get_args(Padding))
        if self.branch_kernel_size % 2 == 0:
            raise ValueError(f"branch_kernel_size is {self.branch_kernel_size}; it must be odd.")
        if any(len(pair) != 2 or not pair[0] < pair[1] < 2**63 for pair in self.regression_ranges or ()):
            raise ValueError(
                f"regression_ranges is {shown(self.regression_ranges)}; give (smallest, largest), which is larger, per "
                "level."
            )
        if len(self.ranges) != self.num_levels:
            raise ValueError(
                f"regression_ranges has {len(self.ranges)} entries for num_levels={self.num_levels}; "
                "give one (smallest, largest) per level."
            )

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The distances that each level is responsible for."""
        if self.regression_ranges:
            return [(float(low), float(high)) for low, high in self.regression_ranges]
        bounds = [0.0] + [4.0 * 2**level for level in range(self.num_levels - 1)] + [10000.0]
        return list(zip(bounds[:-1], bounds[1:], strict=True))

    @property
    def block_levels(self) -> list[int]:
        """The level of each block: of the stem, which is part of the finest, then of the pyramid."""
        return [0] * self.num_stem_layers + list(range(1, self.num_levels))

    @property
    def length_multiple(self) -> int:
        """What the references pad inputs longer than `max_length` to a multiple of."""
        return 2 ** (self.num_levels - 1)

    @property
    def isolate_padding(self) -> bool:
        """Whether the padding has no effect on the real steps."""
        return self.padding == "isolated"

    @property
    def mask_output(self) -> bool:
        """Whether embedding and branches set padding to zero again after the norm."""
        return self.padding != "actionformer"


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
    """One layer norm a level; of the finest `num_outputs` of them."""

    reach = 0

    def __init__(self, size: int, num_levels: int, norm_eps: float, isolate_padding: bool, num_outputs: int):
        super().__init__()
        self.isolate_padding = isolate_padding
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=norm_eps) for _ in range(num_outputs))

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """List of `[B, T_l, C]`, finest first -> the same shapes."""
        return [self.finished(x, masks[level], level) for level, x in enumerate(self.merged(levels, masks))]

    def merged(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """What comes before `finished`: nothing."""
        return levels[: len(self.norms)]

    def finished(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """`[B, T_l, C]` of a level -> the same shape."""
        x = self.norms[level](x)
        return zero_padding(x, mask) if self.isolate_padding else x


class FeaturePyramidNeck(nn.Module):
    """Top-down feature pyramid (arXiv 1612.03144) in actionformer_release's form.

    Per level a linear lateral connection; of the finest `num_outputs` a depthwise convolution and a layer norm.
    """

    reach = 1

    def __init__(self, size: int, num_levels: int, norm_eps: float, isolate_padding: bool, num_outputs: int):
        super().__init__()
        self.isolate_padding = isolate_padding
        outputs = range(num_outputs)
        self.laterals = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(num_levels))
        self.convs = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1, groups=size, bias=False) for _ in outputs)
        self.norms = nn.ModuleList(nn.LayerNorm(size, eps=norm_eps) for _ in outputs)

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """List of `[B, T_l, C]`, finest first -> the same shapes."""
        return [self.finished(x, masks[level], level) for level, x in enumerate(self.merged(levels, masks))]

    def merged(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """The lateral connections and, on each, the sum of all coarser ones."""
        merged = [zero_padding(lateral(x), mask) for lateral, x, mask in zip(self.laterals, levels, masks, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            coarser = merged[level].repeat_interleave(2, dim=1)
            merged[level - 1] = merged[level - 1] + coarser
        return merged[: len(self.norms)]

    def finished(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """`[B, T_l, C]` of a level, merged -> the same shape."""
        if self.isolate_padding:
            x = zero_padding(x, mask)
        x = self.convs[level](x.transpose(1, 2)).transpose(1, 2)
        x = self.norms[level](zero_padding(x, mask))
        return zero_padding(x, mask) if self.isolate_padding else x


class LevelScales(nn.Module):
    """A learnable factor for each level."""

    def __init__(self, num_levels: int):
        super().__init__()
        for level in range(num_levels):
            self.register_parameter(str(level), nn.Parameter(torch.empty(())))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Scales what a branch says of a level."""
        scale: Tensor = getattr(self, str(level))  # not get_parameter: a tensor may stand in its place
        return scale * x


class PredictionBranch(nn.Module):
    """Convolutions shared by all levels, and the convolution that predicts."""

    def __init__(self, config: PyramidConfig, output_size: int, kernel_size: int):
        super().__init__()
        inside = config.branch_size or config.hidden_size
        sizes = [config.hidden_size, *[inside] * config.num_head_layers]
        self.layers = nn.ModuleList(
            ConvLayer(size, inside, config.norm_eps, config.mask_output, kernel_size) for size in sizes[:-1]
        )
        self.predictor = nn.Conv1d(sizes[-1], output_size, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, output_size]`; what it says at padding means nothing."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.predictor(x.transpose(1, 2)).transpose(1, 2)


class _Prediction(nn.Module):
    """What a head says of a level that its neck has not finished."""

    def __init__(self, head: PyramidHead, what: str):
        super().__init__()
        self.head = head
        self.what = what

    def forward(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        return getattr(self.head, self.what)(self.head.neck.finished(x, mask, level), mask, level)


class PyramidHead(nn.Module):
    """A head whose points are the steps of a feature pyramid.

    A convolutional embedding, stem blocks at full resolution, one block a level that halves the
    sequence, a neck, and classification and boundary branches shared by all levels. Subclasses say
    which blocks, and may turn what the branches say into another output.

    Args:
        input_size: channels of the features.
        num_labels: classes; 1 for class-agnostic localization.
        config: the settings.
        blocks: one for each of `config.block_levels`. A block maps `[B, T, C]` and its mask to the next ones, and
            draws its own scales in `initialize_weights()`.
        boundary_size: channels that the boundary branch predicts.

    Attributes:
        predicted_levels: how many of the finest levels have points; None for all.
        recomputes: whether blocks and branches keep their inputs only, and the backward pass runs them again; where
            their reach is finite, some steps at a time (`head_memory`).
    """

    output_class: ClassVar[type[LocalizationHeadOutput]] = LocalizationHeadOutput
    predicted_levels: ClassVar[int | None] = None
    recomputes = False

    def __init__(
        self,
        input_size: int,
        num_labels: int,
        config: PyramidConfig,
        *,
        blocks: Sequence[nn.Module],
        boundary_size: int = 2,
    ):
        super().__init__()
        self.input_size = input_size
        self.config = config
        self.num_levels = config.num_levels
        self.length_multiple = 2 ** (config.num_levels - 1) if config.isolate_padding else config.length_multiple

        size = config.hidden_size
        self.embedding = nn.ModuleList(
            ConvLayer(size if i else input_size, size, config.norm_eps, config.mask_output)
            for i in range(config.num_embedding_layers)
        )
        self.stem = nn.ModuleList(blocks[: config.num_stem_layers])
        self.pyramid = nn.ModuleList(blocks[config.num_stem_layers :])
        neck_class = IdentityNeck if config.neck == "identity" else FeaturePyramidNeck
        num_outputs = self.predicted_levels or config.num_levels
        self.neck = neck_class(size, config.num_levels, config.norm_eps, config.isolate_padding, num_outputs)
        self.classification = PredictionBranch(config, num_labels, config.branch_kernel_size)
        self.boundary = PredictionBranch(config, boundary_size, config.branch_kernel_size)
        self.level_scales = LevelScales(num_outputs)

    def initialize_weights(self) -> None:
        """Draws all parameters anew, by functions of `torch.nn.init` only."""
        predictor_bias = self.classification.predictor.bias
        assert predictor_bias is not None
        draw_layers(self, but=predictor_bias)
        for block in (*self.stem, *self.pyramid):
            cast(Any, block).initialize_weights()
        for scale in self.level_scales.parameters():
            nn.init.ones_(scale)
        prior = self.config.class_prior
        nn.init.constant_(predictor_bias, math.log(prior / (1 - prior)))

    def forward(self, features: Tensor, mask: Tensor) -> LocalizationHeadOutput:
        """Predicts classes and boundaries at every point.

        Args:
            features: `[B, input_size, T]` of any length; padded steps may hold anything (with `padding` other
                than `"isolated"` the first convolution sees it).
            mask: bool `[B, T]`, True where a step is real.

        Returns:
            The predictions; points that the head added at the end to complete its coarsest step are masked.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        levels, masks = self.extract_pyramid(features, mask)
        streams = self.recomputes and torch.is_grad_enabled()
        levels = self.neck.merged(levels, masks) if streams else self.neck(levels, masks)
        masks = masks[: len(levels)]
        logits, offsets = [], []
        for level, (x, m) in enumerate(zip(levels, masks, strict=True)):
            if streams:
                logits.append(self._streamed("class_logits", x, m, level))
                offsets.append(self._streamed("offsets", x, m, level))
            else:
                logits.append(self.class_logits(x, m, level))
                offsets.append(self.offsets(x, m, level))
        return self.output_class(
            logits=torch.cat(logits, dim=1),
            offsets=torch.cat(offsets, dim=1),
            points=self._points([m.shape[1] for m in masks], features.device),
            point_mask=torch.cat(masks, dim=1),
        )

    @property
    def streams(self) -> bool:
        """Whether what it computes of long sequences, if it recomputes, is of some steps at a time."""
        return all(getattr(block, "is_local", False) for block in (*self.stem, *self.pyramid))

    def _streamed(self, what: str, x: Tensor, mask: Tensor, level: int) -> Tensor:
        reach = self.neck.reach + self.prediction_reach
        return in_chunks(_Prediction(self, what), (x, mask), (), level, reach=reach)

    @property
    def prediction_reach(self) -> int:
        """Steps of a level to either side on which a prediction rests."""
        return (self.config.num_head_layers + 1) * (self.config.branch_kernel_size // 2)

    def class_logits(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """Features `[B, T, C]` of a level -> class scores `[B, T, K]`."""
        return zero_padding(self.classification(x, mask), mask)

    def offsets(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """Features `[B, T, C]` of a level -> distances `[B, T, 2]` to start and end, in steps of the level."""
        return self.boundary_values(x, mask, level)

    def boundary_values(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """`[B, T, C]` of a level -> `[B, T, boundary_size]`, not negative, zero at padding."""
        return F.relu(self.level_scales(zero_padding(self.boundary(x, mask), mask), level))

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
        config, coarsest = self.config, 2 ** (self.num_levels - 1)
        x, mask = prepare_features(
            features,
            mask,
            self.input_size,
            standardized=config.standardize_input,
            isolated=config.isolate_padding,
            length_multiple=self.length_multiple,
            min_length=0 if config.isolate_padding else math.ceil(config.max_length / coarsest) * coarsest,
        )
        x = self._disturbed(x, mask)
        if self.recomputes and torch.is_grad_enabled():
            x = in_chunks(Method(self, "embedded"), (x, mask), reach=len(self.embedding))
        else:
            x = self.embedded(x, mask)
        if config.use_position_embedding:
            positions = self._positions(x.shape[1], x.shape[2]).to(x)
            x = x + zero_padding(positions.expand_as(x), mask)
        for block in self.stem:
            x, mask = self._run(block, x, mask)
        levels, masks = [x], [mask]
        for block in self.pyramid:
            x, mask = self._run(block, x, mask)
            levels.append(x)
            masks.append(mask)
        return levels, masks

    def _disturbed(self, x: Tensor, mask: Tensor) -> Tensor:
        """In training `[B, T, C]` with noise, some channels 0."""
        config = self.config
        if not self.training or not (config.input_noise or config.input_dropout):
            return x
        if config.input_noise:
            x = x + config.input_noise * torch.randn_like(x)
        x = F.dropout1d(x.transpose(1, 2), config.input_dropout).transpose(1, 2)
        return zero_padding(x, mask) if config.isolate_padding else x

    def embedded(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, input_size]` -> `[B, T, C]`."""
        for layer in self.embedding:
            x = layer(x, mask)
        return x

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.recomputes and torch.is_grad_enabled() and hasattr(block, "streamed"):
            return cast(Any, block).streamed(x, mask)
        return run_block(block, x, mask, recomputes=self.recomputes)

    def _positions(self, length: int, size: int) -> Tensor:
        if length <= self.config.max_length:
            return sinusoidal_positions(length, size)
        table = sinusoidal_positions(self.config.max_length, size).T.unsqueeze(0)
        return F.interpolate(table, length, mode="linear", align_corners=False)[0].T

    def _points(self, lengths: list[int], device: torch.device) -> Tensor:
        levels = []
        for level, (length, bounds) in enumerate(zip(lengths, self.config.ranges, strict=True)):
            stride = 2**level
            position = torch.arange(length, dtype=torch.float32, device=device) * stride
            constants = [torch.full_like(position, value) for value in (*bounds, stride)]
            levels.append(torch.stack((position, *constants), dim=1))
        return torch.cat(levels)
