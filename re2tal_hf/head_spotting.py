"""A head that finds points in time, for action spotting: class scores and one displacement at every feature step.

So are the detectors of Soares and Shah ("Temporally Precise Action Spotting in Soccer Videos Using Dense Detection
Anchors", ICIP 2022; the code is github.com/yahoo/spivak): anchors as dense as the features, at each a confidence for
every class and the displacement to the action, within a radius; a trunk that joins coarse features into the finest;
suppression within a window of time. Here the trunk is ActionFormer's pyramid under a top-down neck, and the losses are
those of its points; displacements are of a step, there of a step and class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from .head import LocalizationHeadOutput, ScoredSegments, decode_segments, register_head
from .head_actionformer import ActionFormerConfig, ActionFormerHead
from .head_layers import zero_padding
from .head_pyramid import Neck
from .loss_points import SpottingLoss
from .value_checks import Range, shown


@dataclass(frozen=True, kw_only=True)
class SpottingConfig(ActionFormerConfig):
    """Settings of `SpottingHead`, beside those of `ActionFormerHead`; the neck is `"fpn"`.

    Args:
        radius: feature steps from an action to the farthest step that learns it, and that finds it.
    """

    neck: Neck = "fpn"
    radius: Annotated[float, Range(0.5, 1000, with_low=False)] = 1.5

    def __post_init__(self) -> None:
        """Checks what goes together."""
        super().__post_init__()
        if self.neck != "fpn":
            raise ValueError(
                f"neck is {shown(self.neck)}; it must be 'fpn', by which the finest level sees the others."
            )
        if self.regression_ranges is not None:
            raise ValueError("regression_ranges are of segments; of points, see radius.")


@dataclass
class SpottingHeadOutput(LocalizationHeadOutput):
    """As `LocalizationHeadOutput`, with segments whose middle is the action and whose half the radius.

    `offsets` sum up to twice the radius, and the largest distance of `points` is the radius.
    """

    def scored_segments(self) -> ScoredSegments:
        """Returns one segment a point that starts where it ends."""
        times = decode_segments(self).mean(dim=-1, keepdim=True)
        return ScoredSegments(self.logits, times.expand(-1, -1, 2), self.point_mask)


@register_head("spotting", loss=SpottingLoss, paper="Dense Detection Anchors, arXiv 2205.10450")
class SpottingHead(ActionFormerHead):
    """Class scores and a displacement at each step of the finest level of ActionFormer's pyramid.

    Built from the channels of the features, the number of classes and the settings of `SpottingConfig`. Returns
    `SpottingHeadOutput`.
    """

    config: SpottingConfig
    config_class: ClassVar = SpottingConfig
    output_class = SpottingHeadOutput
    boundary_size = 1
    predicted_levels = 1
    finds_points = True

    def offsets(self, x: Tensor, mask: Tensor, level: int) -> Tensor:
        """Features `[B, T, C]` -> distances `[B, T, 2]` to start and end of a segment about the action, in steps."""
        radius = self.config.radius
        displacement = radius * torch.tanh(self.level_scales(self.boundary(x, mask), level))
        return zero_padding(torch.cat((radius - displacement, radius + displacement), dim=-1), mask)

    def _points(self, lengths: list[int], device: torch.device) -> Tensor:
        position = torch.arange(lengths[0], dtype=torch.float32, device=device)
        constants = [torch.full_like(position, value) for value in (0.0, self.config.radius, 1.0)]
        return torch.stack((position, *constants), dim=1)
