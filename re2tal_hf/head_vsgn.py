"""VSGN's localization head: anchors on a cross-scale graph pyramid, refined at their boundaries.

Zhao, Thabet and Ghanem, "Video Self-Stitching Graph Network for Temporal Action Localization",
ICCV 2021, arXiv 2011.14598. Self-stitching, which prepares the input, is not part of the head.

Shapes and masks as in `head`; here `P` are the anchors of all levels, finest first, the
anchors of a step next to each other, and steps of the input are intervals `[t, t + 1]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .head import prepare_features, register_head
from .head_layers import MaskedGroupNorm, convolve, draw_layers, zero_padding
from .head_memory import run_block
from .loss_anchors import VSGNHeadOutput, VSGNLoss
from .value_checks import COUNT, MAX_LEVELS, NOT_NEGATIVE, POSITIVE, Range, check_fields

NORM_GROUPS = 32
# Weights of center and length in the regression, those of Faster R-CNN (arXiv 1506.01497) as usually built.
CENTER_WEIGHT, LENGTH_WEIGHT = 0.1, 0.2
FINEST_STRIDE = 2
LARGEST_LOG_LENGTH = math.log(1000.0)


class CrossScaleGraph(nn.Module):
    """Edge convolution (arXiv 1801.07829) from every second step to its nearest neighbours in feature space.

    In the paper the neighbours lie in a clip and in its magnified copy, stitched into one sequence; here, where
    sequences are not stitched, in the two levels that a step of the encoder lies between.

    Args:
        size: channels.
        num_neighbours: edges of a step: half to other steps of the halved sequence, half to steps of
            the full one.
    """

    def __init__(self, size: int, num_neighbours: int):
        super().__init__()
        self.num_neighbours = num_neighbours
        self.own = nn.Linear(size, size)
        self.difference = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` and its mask -> `[B, T / 2, C]`, zero where a step is padding or has no neighbour."""
        coarse, coarse_mask = x[:, ::2], mask[:, ::2]
        messages = self.difference(x)
        best = torch.maximum(
            self._aggregate(coarse, coarse, coarse_mask, messages[:, ::2], step=1),
            self._aggregate(coarse, x, mask, messages, step=2),
        )
        connected = coarse_mask & ~torch.isneginf(best).any(dim=-1)
        out = self.own(coarse) + best.masked_fill(~connected.unsqueeze(-1), 0) - messages[:, ::2]
        return zero_padding(out, connected)

    def _aggregate(self, nodes: Tensor, others: Tensor, mask: Tensor, messages: Tensor, step: int) -> Tensor:
        """Largest message `[B, N, C]` of each node's nearest others; node `i` itself is `others[i * step]`."""
        with torch.no_grad():
            distance = torch.cdist(nodes.float(), others.float()).masked_fill(~mask.unsqueeze(1), torch.inf)
            index = torch.arange(nodes.shape[1], device=nodes.device)
            distance[:, index, index * step] = torch.inf
            count = min(self.num_neighbours // 2, others.shape[1])
            nearest, neighbours = distance.topk(count, dim=-1, largest=False)  # [B, N, count]
        batch = torch.arange(len(nodes), device=nodes.device)[:, None, None]
        found = messages[batch, neighbours].masked_fill(torch.isinf(nearest).unsqueeze(-1), -torch.inf)
        return found.amax(dim=2)


class Tower(nn.Module):
    """Convolutions with group norm and ReLU, shared by all levels, and the convolution that predicts."""

    def __init__(self, size: int, output_size: int, num_layers: int, isolate_padding: bool):
        super().__init__()
        self.isolate_padding = isolate_padding
        self.convs = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1, bias=False) for _ in range(num_layers))
        self.norms = nn.ModuleList(MaskedGroupNorm(NORM_GROUPS, size) for _ in range(num_layers))
        self.predictor = nn.Conv1d(size, output_size, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, T, C]` -> `[B, T, output_size]`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x.transpose(1, 2)).transpose(1, 2)
            x = zero_padding(norm(x, mask), mask) if self.isolate_padding else norm(x)
            x = F.relu(x)
        return self.predictor(x.transpose(1, 2)).transpose(1, 2)


class DecoderNeck(nn.Module):
    """The decoder of the pyramid: from the coarsest level up, each level joined by its encoder's features.

    Args:
        size: channels.
        num_levels: of the pyramid.
        isolate_padding: whether convolutions see nothing of the padding.
    """

    def __init__(self, size: int, num_levels: int, isolate_padding: bool):
        super().__init__()
        self.isolate_padding = isolate_padding
        self.top = nn.Conv1d(size, size, 3, padding=1)
        joints = range(num_levels - 1)
        self.laterals = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1) for _ in joints)
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose1d(size, size, 3, stride=2, padding=1, output_padding=1) for _ in joints
        )
        self.fusions = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1) for _ in joints)

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        """List of `[B, T_l, C]`, finest first -> the same shapes, zero at padding."""
        x = self._layer(self.top, levels[-1], masks[-1])
        outputs = [x]
        joints = zip(self.laterals, self.upsamplings, self.fusions, levels[-2::-1], masks[-2::-1], strict=True)
        for lateral, upsampling, fusion, encoded, mask in joints:
            x = self._layer(lateral, encoded, mask) + self._layer(upsampling, x, mask)
            x = self._layer(fusion, x, mask)
            outputs.append(x)
        return [zero_padding(x, mask) for x, mask in zip(outputs[::-1], masks, strict=True)]

    def _layer(self, conv: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        x = F.relu(conv(x.transpose(1, 2)).transpose(1, 2))
        return zero_padding(x, mask) if self.isolate_padding else x


class BoundaryAdjustment(nn.Module):
    """How far a boundary should move, from three features around it.

    They are taken at the boundary and to either side of it, `1 / reach` of the segment's length away.
    """

    def __init__(self, size: int, reach: float):
        super().__init__()
        self.reach = reach
        self.conv = nn.Conv1d(size, size, 3)
        self.predictor = nn.Conv1d(size, 1, 1)

    def forward(self, x: Tensor, boundary: Tensor, length: Tensor, last: Tensor) -> Tensor:
        """Adjustments in feature steps.

        Args:
            x: `[B, T_l, C]` of the finest level.
            boundary: `[B, P]` in feature steps.
            length: `[B, P]` of the segments.
            last: long `[B]`, the last feature step.

        Returns:
            `[B, P]`.
        """
        aside = length / self.reach
        positions = torch.stack((boundary - aside, boundary, boundary + aside), dim=-1) / FINEST_STRIDE
        index = positions.clamp(min=0).long().minimum(last[:, None, None] // FINEST_STRIDE)  # [B, P, 3]
        batch, num_segments, _ = index.shape
        around = x.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        around = around.unflatten(1, (-1, 3)).flatten(0, 1).transpose(1, 2)  # [B * P, C, 3]
        return self.predictor(F.relu(self.conv(around))).view(batch, num_segments)


@dataclass(frozen=True, kw_only=True)
class VSGNConfig:
    """Settings of `VSGNHead`.

    Args:
        hidden_size: channels inside the head, a multiple of 32.
        standardize_input: see `PyramidConfig`.
        num_levels: pyramid levels; the strides are 2, 4, ..., `2 ** num_levels`.
        num_neighbours: edges of a step in the graphs, half of them to steps of its own scale and half
            to the finer scale; 0 for no graphs, as in OpenTAD.
        anchor_scales: lengths of a step's anchors in strides of the level. An action much longer than the
            longest has few good anchors, so give longer ones where actions fill the window.
        num_head_layers: convolutions before the predicting one in the towers.
        boundary_reach: see `BoundaryAdjustment`.
        max_length: feature steps of a training window, to which `"opentad"` pads.
        padding: `"isolated"`: padding has no effect on real steps. `"opentad"`: it takes part in norms
            and in the decoder as there, for weights trained there.

    Raises:
        ValueError: if settings do not go together.
    """

    hidden_size: Annotated[int, COUNT] = 256
    standardize_input: bool = False
    num_levels: Annotated[int, Range(1, MAX_LEVELS)] = 5
    num_neighbours: Annotated[int, NOT_NEGATIVE] = 10
    anchor_scales: Annotated[Sequence[float], POSITIVE] = (1.0, 1.5)
    num_head_layers: Annotated[int, NOT_NEGATIVE] = 4
    boundary_reach: Annotated[float, POSITIVE] = 8.0
    max_length: Annotated[int, COUNT] = 2304
    padding: Literal["isolated", "opentad"] = "isolated"

    def __post_init__(self) -> None:
        """Checks what goes together."""
        check_fields(self)
        if self.hidden_size % NORM_GROUPS:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of {NORM_GROUPS}.")
        if self.num_neighbours % 2:
            raise ValueError(f"num_neighbours is {self.num_neighbours}; it must be even, 0 for no graph.")


@register_head("vsgn", loss=VSGNLoss, paper="VSGN, arXiv 2011.14598")
class VSGNHead(nn.Module):
    """VSGN from features to predictions (arXiv 2011.14598).

    A convolution and an encoder whose levels each halve the sequence by a convolution and a
    cross-scale graph; a decoder back to the finest level; on every level anchors that are classified
    and regressed; on all input steps scores of being start, end or inside; and a second regression of
    every segment from the features at its two boundaries.

    Built from the channels of the features, the number of classes and the settings of `VSGNConfig`.

    Attributes:
        recomputes: as of `PyramidHead`.
    """

    config_class: ClassVar = VSGNConfig
    recomputes = False

    def __init__(self, input_size: int, num_labels: int, **settings: Any):
        super().__init__()
        config = VSGNConfig(**settings)
        self.input_size = input_size
        self.standardize_input = config.standardize_input
        self.num_levels = config.num_levels
        self.anchor_scales = [float(scale) for scale in config.anchor_scales]
        self.max_length = config.max_length
        self.padding = config.padding

        hidden_size, num_levels, num_neighbours = config.hidden_size, config.num_levels, config.num_neighbours
        num_head_layers, boundary_reach = config.num_head_layers, config.boundary_reach
        isolate = config.padding == "isolated"
        self.embedding = nn.Conv1d(input_size, hidden_size, 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Conv1d(hidden_size, hidden_size, 3, stride=2, padding=1) for _ in range(num_levels)
        )
        self.graphs = nn.ModuleList(
            CrossScaleGraph(hidden_size, num_neighbours) for _ in range(num_levels if num_neighbours else 0)
        )
        self.neck = DecoderNeck(hidden_size, num_levels, isolate)
        num_anchors = len(self.anchor_scales)
        self.classification = Tower(hidden_size, num_anchors * (1 + num_labels), num_head_layers, isolate)
        self.regression = Tower(hidden_size, num_anchors * 2, num_head_layers, isolate)
        self.evaluation = nn.ModuleList(
            nn.Sequential(nn.Conv1d(hidden_size, hidden_size, 3, padding=1), nn.ReLU(), nn.Conv1d(hidden_size, 1, 1))
            for _ in ("start", "end", "action")
        )
        self.start_adjustment = BoundaryAdjustment(hidden_size, boundary_reach)
        self.end_adjustment = BoundaryAdjustment(hidden_size, boundary_reach)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Draws all parameters anew, by functions of `torch.nn.init` only."""
        draw_layers(self)

    def forward(self, features: Tensor, mask: Tensor) -> VSGNHeadOutput:
        """Predicts classes, segments and boundaries.

        Args:
            features: `[B, input_size, T]`, of any length.
            mask: bool `[B, T]`, True where a step is real.

        Returns:
            The predictions; anchors of steps that the head added at the end are masked.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        levels, masks, step_mask = self.extract_pyramid(features, mask)
        levels = self.neck(levels, masks)
        num_anchors = len(self.anchor_scales)
        class_logits, changes = (
            torch.cat(
                [
                    self._run(tower, x, m).unflatten(2, (num_anchors, -1)).flatten(1, 2)
                    for x, m in zip(levels, masks, strict=True)
                ],
                dim=1,
            )
            for tower in (self.classification, self.regression)
        )
        centers, lengths = self._anchors([m.shape[1] for m in masks], features.device)
        proposals = _regress(centers, lengths, changes)
        return VSGNHeadOutput(
            class_logits=class_logits,
            proposals=proposals,
            refined=self._adjust(proposals, levels[0], step_mask),
            boundary_logits=self._evaluate(levels[0], step_mask),
            anchors=_segments(centers, lengths),
            anchors_per_step=num_anchors,
            point_mask=torch.cat(masks, dim=1).repeat_interleave(num_anchors, dim=1),
            step_mask=step_mask,
        )

    def extract_pyramid(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Features of all levels before the neck.

        Args:
            features: as in `forward`.
            mask: as in `forward`.

        Returns:
            Per level, finest first, `[B, T_l, hidden_size]` and its mask `[B, T_l]`; the mask of the padded input.

        Raises:
            ValueError: if the shapes do not fit each other.
        """
        isolated, coarsest = self.padding == "isolated", 2**self.num_levels
        x, step_mask = prepare_features(
            features,
            mask,
            self.input_size,
            standardized=self.standardize_input,
            isolated=isolated,
            length_multiple=coarsest,
            min_length=0 if isolated else math.ceil(self.max_length / coarsest) * coarsest,
        )
        x = F.relu(convolve(self.embedding, x, step_mask))
        mask, levels, masks = step_mask, [], []
        for level, conv in enumerate(self.encoder):
            encoded = convolve(cast(nn.Conv1d, conv), x, mask)
            if self.graphs:
                encoded = encoded + self._run(self.graphs[level], x, mask)
            mask = mask[:, ::2]
            x = zero_padding(F.relu(encoded), mask)
            levels.append(x)
            masks.append(mask)
        return levels, masks, step_mask

    def _run(self, part: nn.Module, *inputs: Tensor) -> Tensor:
        return run_block(part, *inputs, recomputes=self.recomputes)

    def _anchors(self, lengths: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
        centers, widths = [], []
        scales = torch.tensor(self.anchor_scales, dtype=torch.float32, device=device)
        for level, length in enumerate(lengths):
            stride = FINEST_STRIDE * 2**level
            steps = torch.arange(length, dtype=torch.float32, device=device)
            centers.append(((steps + 0.5) * stride).repeat_interleave(len(scales)))
            widths.append((scales * stride).repeat(length))
        return torch.cat(centers), torch.cat(widths)

    def _evaluate(self, x: Tensor, step_mask: Tensor) -> Tensor:
        length = step_mask.shape[1]
        x = x.transpose(1, 2)
        if self.padding == "isolated":
            # One step more, because otherwise the last step would tell the end of the input from padding.
            x = F.interpolate(F.pad(x, (0, 1)), length + 2, mode="linear")[..., :length]
            x = x.masked_fill(~step_mask.unsqueeze(1), 0)
        else:
            x = F.interpolate(x, length, mode="linear", align_corners=True)
        return torch.cat([self._run(evaluate, x) for evaluate in self.evaluation], dim=1).transpose(1, 2)

    def _adjust(self, proposals: Tensor, x: Tensor, step_mask: Tensor) -> Tensor:
        num_steps = step_mask.sum(dim=1)
        if self.padding != "isolated":
            num_steps = torch.full_like(num_steps, step_mask.shape[1])
        last = (num_steps - 1).clamp_min(0)
        # NaN is no index; it stays in the proposals, where it is found.
        start, end = proposals.detach().nan_to_num().clamp(min=0).minimum(last[:, None, None]).unbind(dim=-1)
        length = end - start + 1
        adjustments = (self.start_adjustment(x, start, length, last), self.end_adjustment(x, end, length, last))
        return proposals + torch.stack(adjustments, dim=-1)


def _segments(centers: Tensor, lengths: Tensor) -> Tensor:
    """Segments from the first to the last of `lengths` steps, as pixels are counted in detection."""
    half = (lengths - 1) / 2
    return torch.stack((centers - half, centers + half), dim=-1)


def _regress(centers: Tensor, lengths: Tensor, changes: Tensor) -> Tensor:
    """Anchors `[P]` moved and stretched by `changes` `[B, P, 2]`, as segments `[B, P, 2]`."""
    changes = changes.to(torch.promote_types(changes.dtype, torch.float32))
    shift, stretch = changes.unbind(dim=-1)
    moved = centers + CENTER_WEIGHT * shift * lengths
    stretched = lengths * torch.exp((LENGTH_WEIGHT * stretch).clamp(max=LARGEST_LOG_LENGTH))
    return _segments(moved, stretched)
