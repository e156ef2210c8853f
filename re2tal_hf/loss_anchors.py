"""Training an anchor-based localization head: what it predicts, which anchor learns what, and how it is scored.

VSGN (arXiv 2011.14598), with the matching of Faster R-CNN (arXiv 1506.01497, section 3.1.2). Shapes and masks as in
`head`; here `P` are the anchors of all levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .head import ScoredSegments
from .loss_normalization import NormalizedLoss, process_share
from .loss_points import SMALLEST_LENGTH, at_least_float32, checked_targets
from .temporal_segments import segment_iou
from .value_checks import POSITIVE_SHARE

SMALLEST_PROBABILITY = 1e-7


@dataclass
class VSGNHeadOutput:
    """Raw predictions of VSGN; segments are start and end in feature steps.

    Attributes:
        class_logits: `[B, P, 1 + K]`, scores before the softmax; the first is the background's.
        proposals: `[B, P, 2]`, anchors after the regression.
        refined: `[B, P, 2]`, proposals after the adjustment of their boundaries.
        boundary_logits: `[B, T, 3]`, scores before the sigmoid of each step being a start, an end, in an action.
        anchors: float32 `[P, 2]`.
        anchors_per_step: so many neighbouring anchors belong to one step of a level.
        point_mask: bool `[B, P]`, True for anchors of real steps.
        step_mask: bool `[B, T]`.
    """

    class_logits: Tensor
    proposals: Tensor
    refined: Tensor
    boundary_logits: Tensor
    anchors: Tensor
    anchors_per_step: int
    point_mask: Tensor
    step_mask: Tensor

    def scored_segments(self) -> ScoredSegments:
        """Returns refined segments, scored by class, start and end together.

        The probability of a class is its share of the softmax over all classes and the background,
        times the probabilities that the segment's start is a start and its end an end. The logits are
        those whose sigmoid is this probability.
        """
        wide = torch.promote_types(self.class_logits.dtype, torch.float32)
        classes = self.class_logits.to(wide).softmax(dim=-1)[..., 1:]
        last = (self.step_mask.sum(dim=1) - 1).clamp_min(0)[:, None]
        boundaries = self.boundary_logits.to(wide).sigmoid()
        for side in range(2):
            # NaN is no index; it stays in the segments, where it is found.
            position = self.refined[..., side].nan_to_num().clamp(min=0).minimum(last)
            score = boundaries[..., side]
            before, after = score.gather(1, position.floor().long()), score.gather(1, position.ceil().long())
            classes = classes * (before + after).unsqueeze(-1) / 2
        return ScoredSegments(torch.logit(classes, eps=SMALLEST_PROBABILITY), self.refined, self.point_mask)


def match_anchors(
    anchors: Tensor, mask: Tensor, segments: Tensor, min_iou: float, anchors_per_step: int | None = None
) -> tuple[Tensor, Tensor]:
    """Decides which anchors of one sequence are positive.

    Every anchor goes with the segment that it overlaps most; it is positive if their tIoU is at least
    `min_iou`, or if no other anchor overlaps some segment more, so that no segment goes without.

    Args:
        anchors: `[P, 2]` start and end.
        mask: bool `[P]`, True for anchors that take part.
        segments: `[N, 2]`; may be empty.
        min_iou: see above.
        anchors_per_step: if given, of so many neighbouring anchors only the one of largest tIoU can be positive.

    Returns:
        bool `[P]`, and the indices of the segments, long `[P]`.
    """
    if len(segments) == 0:
        return torch.zeros_like(mask), torch.zeros_like(mask, dtype=torch.long)
    iou = segment_iou(anchors, segments.to(anchors)) * mask.unsqueeze(1)
    overlap, index = iou.max(dim=1)
    best = iou.amax(dim=0)
    positive = (mask & (overlap >= min_iou)) | ((iou == best) & (best > 0)).any(dim=1)
    if anchors_per_step is not None:
        first = overlap.view(-1, anchors_per_step).argmax(dim=1)
        positive &= F.one_hot(first, anchors_per_step).flatten().bool()
    return positive, index


def segment_giou_loss(segments: Tensor, targets: Tensor) -> Tensor:
    """Generalized-IoU loss (arXiv 1902.09630) of segments `[..., 2]` with their targets: `[...]`, from 0 to 2."""
    start, end = segments.unbind(dim=-1)
    target_start, target_end = targets.unbind(dim=-1)
    intersection = (torch.minimum(end, target_end) - torch.maximum(start, target_start)).clamp(min=0)
    union = (end - start + target_end - target_start - intersection).clamp(min=SMALLEST_LENGTH)
    hull = (torch.maximum(end, target_end) - torch.minimum(start, target_start)).clamp(min=SMALLEST_LENGTH)
    return 1 - intersection / union + (hull - union) / hull


def boundary_targets(segments: Tensor, num_steps: int) -> Tensor:
    """What each step `[t, t + 1]` is: a start, an end (its middle at most one step away), inside an action.

    Args:
        segments: `[N, 2]` in feature steps.
        num_steps: `T`.

    Returns:
        float `[T, 3]` of zeros and ones.
    """
    step = torch.arange(num_steps, dtype=segments.dtype, device=segments.device)[:, None]
    start, end = segments.unbind(dim=-1)
    starts = ((step + 0.5 - start).abs() <= 1).any(dim=1)
    ends = ((step + 0.5 - end).abs() <= 1).any(dim=1)
    inside = ((step >= start) & (step + 1 <= end)).any(dim=1)
    return torch.stack((starts, ends, inside), dim=-1).to(segments.dtype)


class VSGNLoss(NormalizedLoss):
    """Classification and regression of anchors, adjustment of boundaries, evaluation of steps.

    - `classification`: cross entropy, the mean over positives plus the mean over the background. An
      anchor's class is that of the segment its proposal overlaps.
    - `regression`: generalized IoU of proposals whose anchors overlap a segment.
    - `refinement`: generalized IoU of refined segments whose proposals overlap a segment well.
    - `boundaries`: binary cross entropy of starts, ends and actions, where the steps that are and those
      that are not count the same, as in boundary-matching networks (arXiv 1907.09702).

    In training the second and third are divided by running means of the numbers of positives, which
    are part of the state, in evaluation by the numbers themselves. In distributed training all means are
    over the total batch; see `LocalizationLoss`.

    Args:
        min_anchor_iou: see `match_anchors`, for the first two parts.
        min_proposal_iou: likewise, for the third.
        options: see `NormalizedLoss`; the weight is that of regression and refinement.
    """

    fp32_buffers: ClassVar[tuple[str, ...]] = ("regression_normalizer", "refinement_normalizer")

    def __init__(
        self,
        *,
        min_anchor_iou: Annotated[float, POSITIVE_SHARE] = 0.5,
        min_proposal_iou: Annotated[float, POSITIVE_SHARE] = 0.7,
        **options: float,
    ):
        super().__init__(**options)
        self.min_anchor_iou = min_anchor_iou
        self.min_proposal_iou = min_proposal_iou

    def forward(self, output: VSGNHeadOutput, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Compares predictions with annotated segments.

        Args:
            output: what the head returned for `B` sequences.
            targets: see `LocalizationLoss`.

        Returns:
            Scalars, float32 or wider: `classification`, `regression`, `refinement`, `boundaries` (weights
            included) and their sum, `loss`.

        Raises:
            ValueError: if targets do not fit the predictions.
        """
        batch, _, num_classes = output.class_logits.shape
        annotated = checked_targets(targets, batch, num_classes - 1, output.class_logits.device)
        parts = {
            "classification": self._classification(output, annotated),
            "regression": self._regression(
                output.proposals,
                output.anchors.expand(batch, -1, -1),
                output.point_mask,
                annotated,
                self.min_anchor_iou,
                "regression_normalizer",
            ),
            "refinement": self._regression(
                output.refined,
                output.proposals.detach(),
                output.point_mask,
                annotated,
                self.min_proposal_iou,
                "refinement_normalizer",
            ),
            "boundaries": self._boundaries(output, annotated),
        }
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def can_learn(self, output: VSGNHeadOutput, segments: Tensor) -> Tensor:
        """Whether each of the segments, float `[N, 2]` in feature steps, would have a positive anchor: bool `[N]`.

        Each is alone in the first sequence of `output`, of which only anchors and their mask count.
        """
        mask, learned = output.point_mask[0], segments.new_zeros(len(segments), dtype=torch.bool)
        for number in range(len(segments)):
            alone = segments[number : number + 1]
            learned[number] = match_anchors(output.anchors, mask, alone, self.min_anchor_iou)[0].any()
        return learned

    def _classification(self, output: VSGNHeadOutput, annotated: list[tuple[Tensor, Tensor]]) -> Tensor:
        classes = []
        for proposals, mask, (segments, labels) in zip(
            output.proposals.detach(), output.point_mask, annotated, strict=True
        ):
            positive, index = match_anchors(proposals, mask, segments, self.min_anchor_iou, output.anchors_per_step)
            # One entry more, so that a sequence without segments has something to look up.
            labels = F.pad(labels.long() + 1, (0, 1))
            classes.append(labels[index] * positive)
        target = torch.stack(classes)
        entropy = F.cross_entropy(at_least_float32(output.class_logits).transpose(1, 2), target, reduction="none")
        positive = target > 0
        background = ~positive & output.point_mask
        counts = self._share(torch.stack((positive.sum(), background.sum())), entropy.dtype)
        return (entropy * positive).sum() / counts[0] + (entropy * background).sum() / counts[1]

    def _regression(
        self,
        predicted: Tensor,
        anchors: Tensor,
        point_mask: Tensor,
        annotated: list[tuple[Tensor, Tensor]],
        min_iou: float,
        normalizer: str,
    ) -> Tensor:
        losses, count = [], point_mask.new_zeros((), dtype=torch.long)
        for segments, boxes, mask, (truth, _) in zip(predicted, anchors, point_mask, annotated, strict=True):
            positive, index = match_anchors(boxes, mask, truth, min_iou)
            # Elsewhere both sides are the same segment: no loss and no gradient.
            chosen = positive.unsqueeze(-1)
            goal = F.pad(truth, (0, 0, 0, 1))[index].to(segments)
            unit = segments.new_tensor([0.0, 1.0])
            losses.append(segment_giou_loss(segments.where(chosen, unit), goal.where(chosen, unit)).sum())
            count = count + positive.sum()
        return self.loss_weight * torch.stack(losses).sum() / self.normalize_by(normalizer, count, predicted.dtype)

    def _boundaries(self, output: VSGNHeadOutput, annotated: list[tuple[Tensor, Tensor]]) -> Tensor:
        logits = at_least_float32(output.boundary_logits)
        targets = torch.stack([boundary_targets(segments, logits.shape[1]) for segments, _ in annotated]).to(logits)
        real = output.step_mask.unsqueeze(-1).to(logits)
        num_positives = (targets * real).sum(dim=(0, 1))  # [3]
        counts = self._share(torch.stack((num_positives, real.sum() - num_positives)), logits.dtype)
        weights = torch.where(targets > 0, 0.5 / counts[0], 0.5 / counts[1])
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (entropy * weights * real).sum()

    @torch.no_grad()
    def _share(self, counts: Tensor, dtype: torch.dtype) -> Tensor:
        return process_share(counts, dtype) if self.training else counts.to(dtype).clamp(min=1)
