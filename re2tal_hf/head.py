"""What a localization head is: temporal features in, class scores and boundaries out; the registry of heads.

A file `head_<name>.py` describes one head to this registry; see `register_head`.

A head maps features `[B, C, T]` and their mask to an output of its own, which its loss understands;
the output's `scored_segments()` are what post-processing understands, whatever the head. The model sets its attribute
`recomputes`, and that of the loss, which is True where videos are long: a head may then keep less and compute more
(`head_memory`).

Shapes: `B` sequences, `T` feature steps, `C` channels, `L` pyramid levels, `P` points (the steps of all
levels, finest level first), `K` classes. Masks are bool, True where a step is real. Inside a head a
sequence is `[B, T, C]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .head_layers import standardize, zero_padding
from .registry import Registry
from .value_checks import check_value, shown

Padding = Literal["isolated", "opentad", "actionformer"]
AnyHead = TypeVar("AnyHead", bound=type[nn.Module])


class RegisteredHead(NamedTuple):
    """An entry of the registry; see `register_head`."""

    head_class: type[nn.Module]
    loss_class: type[nn.Module]
    paper: str | None

    @property
    def finds_points(self) -> bool:
        """Whether what the head finds starts where it ends: its class says so by an attribute of that name."""
        return bool(getattr(self.head_class, "finds_points", False))


HEADS: Registry[RegisteredHead] = Registry("head_config['model_type']")
"""The registered heads by their `model_type`."""


def register_head(name: str, *, loss: type[nn.Module], paper: str | None = None) -> Callable[[AnyHead], AnyHead]:
    """Class decorator that makes a head known to `head_config`.

    The class is built from the number of channels and of classes and, by name, the settings in `head_config`;
    where it has a `config_class`, a dataclass, these are its fields. Ranges in their annotations
    (`value_checks`) are checked. Called with features and mask it returns what its loss takes, with a method
    `scored_segments()`. `initialize_weights()` draws all parameters anew, by functions of `torch.nn.init` only.
    `finds_points = True` in the class says that its segments are points in time, which start where they end.

    The loss is built from `loss_config`; see `LocalizationLoss` for what it takes and returns. It has
    `initialize_weights()` and `can_learn()`, too, and may name in `fp32_buffers` what stays in float32 in a
    model of another dtype.

    Args:
        name: `model_type` in `head_config`.
        loss: what trains the head.
        paper: what the model card names, such as `"ActionFormer, arXiv 2202.07925"`.

    Raises:
        TypeError: if head or loss lacks a method.
        ValueError: if another head has the name.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name is {shown(name)}; it must be a text, the model_type of the head.")
    check_value("paper", paper, str | None)

    def register(head: AnyHead) -> AnyHead:
        for what, part, methods in (
            ("head", head, ("initialize_weights",)),
            ("loss", loss, ("initialize_weights", "can_learn")),
        ):
            if not isinstance(part, type):
                raise TypeError(f"{what} is {shown(part)}; it must be a class, which register_head({name!r}) builds.")
            if missing := [method for method in methods if not callable(getattr(part, method, None))]:
                raise TypeError(f"{part.__name__} has no {missing[0]}(), which register_head({name!r}) needs.")
        HEADS.register(name, head, RegisteredHead(head, loss, paper))
        return head

    return register


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
    features: Tensor,
    mask: Tensor,
    input_size: int,
    *,
    standardized: bool = False,
    isolated: bool = True,
    length_multiple: int = 1,
    min_length: int = 0,
) -> tuple[Tensor, Tensor]:
    """Checks and prepares what a head takes.

    Args:
        features: `[B, D, T']`.
        mask: bool `[B, T']`, True where a step is real.
        input_size: the `D` that the head was built for.
        standardized: whether every channel gets mean 0 and variance 1 over the real steps.
        isolated: whether steps of padding become 0 (those of standardized features are).
        length_multiple: padding is added at the end up to a multiple of this,
        min_length: or up to so many steps where there are fewer.

    Returns:
        Features `[B, T, D]` and mask `[B, T]`.

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
        x = standardize(x, mask)
    elif isolated:
        x = zero_padding(x, mask)
    target = min_length if length <= min_length else math.ceil(length / length_multiple) * length_multiple
    missing = target - length
    return F.pad(x, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {choices}.")
