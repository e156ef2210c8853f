"""What a localization head is: temporal features in, class scores and boundaries out.

A head maps features `[B, C, T]` and their mask to an output of its own, which its loss understands;
the output's `scored_segments()` are what post-processing understands, whatever the head.

Shapes: `B` sequences, `T` feature steps, `C` channels, `L` pyramid levels, `P` points (the steps of all
levels, finest level first), `K` classes. Masks are bool, True where a step is real. Inside a head a
sequence is `[B, T, C]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .head_layers import standardize, zero_padding

Padding = Literal["isolated", "opentad", "actionformer"]


class ScoredSegments(NamedTuple):
    """Predictions of any head, for post-processing.

    Attributes:
        logits: `[B, P, K]`, class scores before the sigmoid.
        segments: `[B, P, 2]` start and end in feature steps, not clipped to the sequence.
        point_mask: bool `[B, P]`, True where a point is real and not padding.
    """

    logits: Tensor
    segments: Tensor
    point_mask: Tensor


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

    def scored_segments(self) -> ScoredSegments:
        """Returns one segment a point."""
        return ScoredSegments(self.logits, decode_segments(self), self.point_mask)


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


def prepare_features(
    features: Tensor, mask: Tensor, input_size: int, *, standardized: bool, isolated: bool
) -> tuple[Tensor, Tensor]:
    """Checks and prepares what a head takes.

    Args:
        features: `[B, D, T']`.
        mask: bool `[B, T']`, True where a step is real.
        input_size: the `D` that the head was built for.
        standardized: whether every channel gets mean 0 and variance 1 over the real steps.
        isolated: whether steps of padding become 0 (those of standardized features are).

    Returns:
        Features `[B, T', D]` and mask.

    Raises:
        ValueError: if the shapes do not fit.
    """
    batch, channels, length = features.shape
    if channels != input_size or mask.shape != (batch, length):
        raise ValueError(
            f"features {tuple(features.shape)} and mask {tuple(mask.shape)} must be [B, {input_size}, T] and [B, T]."
        )
    mask, x = mask.bool(), features.transpose(1, 2)
    if standardized:
        return standardize(x, mask), mask
    return (zero_padding(x, mask) if isolated else x), mask


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {choices}.")
