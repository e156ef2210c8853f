"""TriDet's localization head: a pyramid without attention, boundaries as distributions over bins.

Shi et al., "TriDet: Temporal Action Detection with Relative Boundary Modeling", arXiv 2303.07347.
Shapes and masks as in `head`; `N` bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .head import LocalizationHeadOutput, ScoredSegments, register_head
from .head_layers import MaskedGroupNorm, max_pool, zero_padding
from .head_memory import Method, in_chunks
from .head_pyramid import PredictionBranch, PyramidConfig, PyramidHead
from .loss_points import TriDetLoss
from .value_checks import COUNT, NOT_NEGATIVE, POSITIVE

NORM_GROUPS = 16


class TriDetHeadOutput(LocalizationHeadOutput):
    """Raw predictions of TriDet, whose boundaries depend on the class.

    As `LocalizationHeadOutput`, but `offsets` are `[B, P, K, 2]`, in the point's strides, 0 to `N`.
    """

    def scored_segments(self) -> ScoredSegments:
        """Returns one segment a point and class: `P * K` points, each certain not to be of another class.

        Logits of the other classes are minus infinity: a probability of zero.
        """
        num_labels = self.logits.shape[-1]
        position, stride = self.points[:, :1], self.points[:, 3:]
        start = position - self.offsets[..., 0] * stride
        end = position + self.offsets[..., 1] * stride
        own_class = torch.eye(num_labels, dtype=torch.bool, device=self.logits.device)
        logits = self.logits.unsqueeze(2).where(own_class, -torch.inf)  # [B, P, K, K]
        return ScoredSegments(
            logits=logits.flatten(1, 2),
            segments=torch.stack((start, end), dim=-1).flatten(1, 2),
            point_mask=self.point_mask.repeat_interleave(num_labels, dim=1),
        )


class ScaledPath(nn.Module):
    """What a residual branch adds: its output times a learnable scale per channel, or for some sequences nothing.

    Args:
        size: channels.
        drop_path: probability that a sequence skips the branch.
        initial_scale: of every channel.
    """

    def __init__(self, size: int, drop_path: float, initial_scale: float):
        super().__init__()
        self.initial_scale = initial_scale
        self.scale = nn.Parameter(torch.empty(size))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor, *path: Tensor) -> Tensor:
        """`[B, T, C]` -> the same shape; `path` of `draw_path`, where it is drawn before."""
        x = self.scale * x
        return x * path[0] if path else self.drop_path(x)

    def draw_path(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each sequence's branch counts, `[B, 1, 1]`; nothing where all count fully."""
        if not self.training or not self.drop_path.p:
            return ()
        return (self.drop_path(x.new_ones(len(x), 1, 1)),)


class SGPBlock(nn.Module):
    """Scalable-granularity perception: what TriDet has in place of attention (section 3.2).

    The instant-level branch weighs every step by what the mean of the sequence says, the window-level
    branch sums two convolutions of different widths under a gate. Both make steps differ, where
    attention makes them alike.

    Args:
        size: channels, a multiple of 16.
        mlp_size: channels inside the MLP.
        stride: 1, or 2 to halve the sequence by maximum pooling before anything else.
        window: steps of the narrow convolution and of the gate, odd.
        wide_window: steps of the wide convolution, odd.
        drop_path: probability that a sequence skips a branch, where these have a scale.
        branch_scale: initial value of a learnable scale of both branches; None for no scale.
        isolate_padding: whether the padding has no effect on the real steps.
        conv_std: see `TriDetConfig`.
    """

    def __init__(
        self,
        size: int,
        mlp_size: int,
        *,
        stride: int,
        window: int,
        wide_window: int,
        drop_path: float,
        branch_scale: float | None,
        isolate_padding: bool,
        conv_std: float | None = None,
    ):
        super().__init__()
        self.stride = stride
        self.is_local = True
        self.conv_std = conv_std
        self.isolate_padding = isolate_padding
        self.norm = nn.LayerNorm(size)
        self.gate = _depthwise(size, window)
        self.narrow = _depthwise(size, window)
        self.wide = _depthwise(size, wide_window)
        self.instant = _depthwise(size, 1)
        self.context = _depthwise(size, 1)
        self.mlp_norm = MaskedGroupNorm(NORM_GROUPS, size)
        self.mlp = nn.Sequential(nn.Linear(size, mlp_size), nn.GELU(), nn.Linear(mlp_size, size))
        self.perception_path, self.mlp_path = (
            nn.Identity() if branch_scale is None else ScaledPath(size, drop_path, branch_scale) for _ in range(2)
        )

    def initialize_weights(self) -> None:
        """Sets the scales of the branches to their initial value, and draws the convolutions with `conv_std`."""
        if self.conv_std is not None:
            for conv in (self.gate, self.narrow, self.wide, self.instant, self.context):
                nn.init.normal_(conv.weight, std=self.conv_std)
        for path in (self.perception_path, self.mlp_path):
            if isinstance(path, ScaledPath):
                nn.init.constant_(path.scale, path.initial_scale)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` and its mask -> `[B, T / stride, C]` and its mask."""
        x, mask = self.pooled(x, mask), mask[:, :: self.stride]
        normed = self._normed(x, mask)
        x = zero_padding(x, mask) + self._perceive(normed, normed.sum(dim=1) / self._counts(mask))
        x = x + self.mlp_path(self.mlp(self.mlp_norm(x, mask if self.isolate_padding else None)))
        return (zero_padding(x, mask) if self.isolate_padding else x), mask

    def streamed(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but some steps at a time, keeping its input and what its two halves begin with.

        Means over the sequence are summed chunk by chunk before what rests on them.
        """
        if self.stride > 1:
            x, mask = in_chunks(Method(self, "pooled"), (x, mask), reach=1, stride=self.stride), mask[:, :: self.stride]
        paths = [
            path.draw_path(x) if isinstance(path, ScaledPath) else () for path in (self.perception_path, self.mlp_path)
        ]
        mean = in_chunks(Method(self, "sums"), (x, mask), summed=True) / self._counts(mask)
        reach = max(conv.kernel_size[0] for conv in (self.gate, self.narrow, self.wide)) // 2
        x = in_chunks(Method(self, "perceived"), (x, mask), (mean, *paths[0]), reach=reach)
        counted, norm = mask if self.isolate_padding else torch.ones_like(mask), self.mlp_norm
        mean = in_chunks(Method(norm, "sums"), (x, counted), summed=True) / norm.counts(counted)
        variance = in_chunks(Method(norm, "squares"), (x, counted), (mean,), summed=True) / norm.counts(counted)
        return in_chunks(Method(self, "refined"), (x, mask, counted), (mean, variance, *paths[1])), mask

    def pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T / stride, C]`."""
        if self.stride > 1:
            x = max_pool(x, mask, self.stride, self.isolate_padding)
        # Pooling leaves minus infinity at padding, from which the norm would make NaN.
        return zero_padding(x, mask[:, :: self.stride]) if self.isolate_padding else x

    def sums(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` after pooling -> the normalised features, summed over the steps, `[B, C]`."""
        return self._normed(x, mask).sum(dim=1)

    def perceived(self, x: Tensor, mask: Tensor, mean: Tensor, *path: Tensor) -> Tensor:
        """What the instant-level and window-level branches add, added to `[B, T, C]`; `mean` `[B, C]`."""
        return zero_padding(x, mask) + self._perceive(self._normed(x, mask), mean, *path)

    def _perceive(self, normed: Tensor, mean: Tensor, *path: Tensor) -> Tensor:
        context = F.relu(self.context(mean.unsqueeze(-1)))  # [B, C, 1]
        x = normed.transpose(1, 2)
        windows = (self.narrow(x) + self.wide(x)) * self.gate(x)
        return self.perception_path((self.instant(x) * context + windows + x).transpose(1, 2), *path)

    def refined(
        self, x: Tensor, mask: Tensor, counted: Tensor, mean: Tensor, variance: Tensor, *path: Tensor
    ) -> Tensor:
        """What the MLP adds, added to `[B, T, C]`; the norm's mean and variance are of the `counted` steps."""
        x = x + self.mlp_path(self.mlp(self.mlp_norm.normalized(x, counted, mean, variance)), *path)
        return zero_padding(x, mask) if self.isolate_padding else x

    def _normed(self, x: Tensor, mask: Tensor) -> Tensor:
        return zero_padding(self.norm(x), mask) if self.isolate_padding else self.norm(x)

    def _counts(self, mask: Tensor) -> Tensor:
        counted = mask if self.isolate_padding else torch.ones_like(mask)
        return counted.sum(dim=1, keepdim=True).clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class TriDetConfig(PyramidConfig):
    """Settings of `TriDetHead`, beside those of every pyramid; `hidden_size` is a multiple of 16.

    Args:
        mlp_size: channels inside the MLPs.
        window: steps of the narrow convolutions, odd; one number or one a level.
        window_factor: the wide convolutions see about `(window + 1) * window_factor` steps.
        num_bins: farthest distance to a boundary, in steps of the level.
        boundary_kernel_size: steps that each convolution of the branches for start and end scores sees, odd.
        conv_std: standard deviation of the normal distribution that the blocks' convolutions over time are drawn from
            (`init_conv_vars` there); None: as PyTorch draws them.
    """

    mlp_size: Annotated[int, COUNT] = 768
    window: Annotated[int | Sequence[int], COUNT] = 1
    window_factor: Annotated[float, POSITIVE] = 5
    num_bins: Annotated[int, COUNT] = 16
    boundary_kernel_size: Annotated[int, COUNT] = 3
    conv_std: Annotated[float | None, NOT_NEGATIVE] = None

    def __post_init__(self) -> None:
        """Checks what goes together."""
        super().__post_init__()
        windows = self.windows
        if self.hidden_size % NORM_GROUPS:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of {NORM_GROUPS}.")
        if len(windows) != self.num_levels or any(window % 2 == 0 for window in windows):
            raise ValueError(
                f"window is {windows} for num_levels={self.num_levels}; give one odd number, or one a level."
            )
        if self.boundary_kernel_size % 2 == 0:
            raise ValueError(f"boundary_kernel_size is {self.boundary_kernel_size}; it must be odd.")

    @property
    def windows(self) -> list[int]:
        """The narrow window of each level."""
        return [self.window] * self.num_levels if isinstance(self.window, int) else list(self.window)

    @property
    def length_multiple(self) -> int:
        """What the references pad inputs longer than `max_length` to a multiple of: the most steps of a window."""
        most = max(2**level * window for level, window in enumerate(self.windows))
        return math.lcm(most, 2 ** (self.num_levels - 1))


@register_head("tridet", loss=TriDetLoss, paper="TriDet, arXiv 2303.07347")
class TriDetHead(PyramidHead):
    """TriDet from features to predictions (arXiv 2303.07347).

    A pyramid of `SGPBlock`s and the trident head (section 3.3) for boundaries: each step has, for each class,
    a score for being a start and one for being an end. The start of a point's action is the expected position
    under the softmax of the start scores of the `num_bins` steps before it and its own, plus scores relative to
    the point; likewise the end. Returns `TriDetHeadOutput`.

    Built from the channels of the features, the number of classes and the settings of `TriDetConfig`.
    """

    config_class: ClassVar = TriDetConfig
    output_class = TriDetHeadOutput

    def __init__(self, input_size: int, num_labels: int, **settings: Any):
        config = TriDetConfig(**settings)
        # The stem has neither drop path nor scales.
        blocks = [
            SGPBlock(
                config.hidden_size,
                config.mlp_size,
                stride=2 if level else 1,
                window=config.windows[level],
                wide_window=_wide_window(config.windows[level], config.window_factor),
                drop_path=config.drop_path,
                branch_scale=config.branch_scale if level else None,
                isolate_padding=config.isolate_padding,
                conv_std=config.conv_std,
            )
            for level in config.block_levels
        ]
        super().__init__(input_size, num_labels, config, blocks=blocks, boundary_size=2 * (config.num_bins + 1))
        self.num_bins = config.num_bins
        self.start, self.end = (PredictionBranch(config, num_labels, config.boundary_kernel_size) for _ in range(2))
        self.initialize_weights()

    @property
    def prediction_reach(self) -> int:
        """See `PyramidHead`; boundaries lie as far away as there are bins."""
        boundaries = (self.config.num_head_layers + 1) * (cast(TriDetConfig, self.config).boundary_kernel_size // 2)
        return max(super().prediction_reach, boundaries + self.num_bins)

    def offsets(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """Features `[B, T, C]` of a level -> distances `[B, T, K, 2]` to start and end, in steps of the level."""
        return self.decode(self.boundary_values(x, mask, level), self.boundary_scores(x, mask), mask)

    def boundary_scores(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, C]` of a level -> for each step and class its scores as start and as end, both `[B, T, K]`.

        The features get no gradient from here (section 3.3 leaves that to the center branch).
        """
        x = x.detach()
        start, end = self.start(x, mask), self.end(x, mask)
        if self.config.padding != "opentad":
            return zero_padding(start, mask), zero_padding(end, mask)
        return start, end

    def decode(self, relative: Tensor, boundaries: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Expected distances to start and end (section 3.3).

        Args:
            relative: `[B, T, 2 * (N + 1)]`, see `boundary_values`.
            boundaries: see `boundary_scores`.
            mask: bool `[B, T]`.

        Returns:
            `[B, T, K, 2]` in steps of the level, float32 or wider; zero at padding.
        """
        wide = torch.promote_types(relative.dtype, torch.float32)
        to_start, to_end = relative.to(wide).chunk(2, dim=-1)
        start, end = (scores.to(wide).transpose(1, 2) for scores in boundaries)  # [B, K, T]
        bins, steps = self.num_bins, self.num_bins + 1
        before = F.pad(start, (bins, 0)).unfold(2, steps, 1)  # [B, K, T, N + 1], farthest first
        after = F.pad(end, (0, bins)).unfold(2, steps, 1)
        distance = torch.arange(steps, dtype=wide, device=relative.device)
        # Not a product of matrices, which autocast would compute in half precision.
        left = ((before + to_start.unsqueeze(1)).softmax(dim=-1) * distance.flip(0)).sum(dim=-1)
        right = ((after + to_end.unsqueeze(1)).softmax(dim=-1) * distance).sum(dim=-1)
        offsets = torch.stack((left, right), dim=-1).transpose(1, 2)
        return offsets.masked_fill(~mask[:, :, None, None], 0)


def _depthwise(size: int, kernel_size: int) -> nn.Conv1d:
    return nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2, groups=size)


def _wide_window(window: int, factor: float) -> int:
    wide = round((window + 1) * factor)
    return wide + 1 if wide % 2 == 0 else wide
