"""Training a point-based localization head: which point learns what, and how it is scored.

Label assignment, focal and DIoU losses and the running loss normaliser of ActionFormer
(arXiv 2202.07925, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from .head import LocalizationHeadOutput
from .head_memory import CHUNK_STEPS, Method, in_chunks
from .loss_normalization import NormalizedLoss
from .model_inputs import check_labels
from .value_checks import BELOW_ONE, NOT_NEGATIVE, POSITIVE

SAME_LENGTH = 1e-3
SMALLEST_LENGTH = 1e-8


def responsible_points(points: Tensor, segments: Tensor, center_radius: float) -> tuple[Tensor, Tensor]:
    """Decides which points of one sequence may learn which segment.

    A point is responsible for a segment if it lies strictly inside, at most `center_radius` strides from
    its centre, and the farther boundary is within the point's range.

    Args:
        points: `[P, 4]`, see `LocalizationHeadOutput`.
        segments: `[N, 2]` start and end in feature steps.
        center_radius: in strides of the point's level.

    Returns:
        bool `[P, N]`, and the distances of each point to each start and end, `[P, N, 2]` in feature steps.
    """
    position, nearest, farthest, stride = points.split(1, dim=1)  # each [P, 1]
    start, end = segments.unbind(dim=1)
    center = (start + end) / 2
    first = torch.maximum(start, center - center_radius * stride)
    last = torch.minimum(end, center + center_radius * stride)
    distances = torch.stack((position - start, end - position), dim=-1)
    reach = distances.amax(dim=-1)
    responsible = (position > first) & (position < last) & (reach >= nearest) & (reach <= farthest)
    return responsible, distances


def assign_labels(
    points: Tensor, segments: Tensor, labels: Tensor, num_labels: int, center_radius: float, all_classes: bool = False
) -> tuple[Tensor, Tensor]:
    """Decides what every point of one sequence should predict.

    Of the segments that a point is responsible for (see `responsible_points`) the shortest is regressed;
    classes of all those as short (within 1e-3 steps) are positive, or with `all_classes` of all.

    Args:
        points: `[P, 4]`, see `LocalizationHeadOutput`.
        segments: `[N, 2]` start and end in feature steps; may be empty.
        labels: long `[N]`, below `num_labels`.
        num_labels: `K`.
        center_radius: in strides of the point's level.
        all_classes: see above.

    Returns:
        Class targets `[P, K]` of zeros and ones, and offset targets `[P, 2]` in strides, which
        mean something where a class is positive only.
    """
    if segments.shape[0] == 0:
        return segments.new_zeros(len(points), num_labels), segments.new_zeros(len(points), 2)
    responsible, offsets = responsible_points(points, segments, center_radius)
    lengths = torch.where(responsible, segments[:, 1] - segments[:, 0], torch.inf)
    shortest, index = lengths.min(dim=1, keepdim=True)
    chosen = responsible if all_classes else responsible & (lengths <= shortest + SAME_LENGTH)
    one_hot = F.one_hot(labels.long(), num_labels).to(segments.dtype)
    class_targets = (chosen.to(segments.dtype) @ one_hot).clamp(max=1)
    offset_targets = offsets.gather(1, index.unsqueeze(-1).expand(-1, -1, 2)).squeeze(1) / points[:, 3:]
    return class_targets, offset_targets


def offset_iou(offsets: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union, also the generalized one, of segments that share the point they are seen from.

    Args:
        offsets: `[..., 2]` distances to start and end, not negative.
        targets: `[..., 2]`, likewise.

    Returns:
        `[...]` in [0, 1].
    """
    intersection = torch.minimum(offsets, targets).sum(dim=-1)
    union = offsets.sum(dim=-1) + targets.sum(dim=-1) - intersection
    return intersection / union.clamp(min=SMALLEST_LENGTH)


def segment_diou_loss(offsets: Tensor, targets: Tensor) -> Tensor:
    """Distance-IoU loss (arXiv 1911.08287) of segments that share the point they are seen from.

    Args:
        offsets: `[..., 2]` distances to start and end, not negative.
        targets: `[..., 2]`, likewise.

    Returns:
        `[...]`, 0 for equal segments.
    """
    hull = torch.maximum(offsets, targets).sum(dim=-1).clamp(min=SMALLEST_LENGTH)
    error = offsets - targets
    center_distance = (error[..., 1] - error[..., 0]) / 2
    return 1 - offset_iou(offsets, targets) + (center_distance / hull) ** 2


class LocalizationLoss(NormalizedLoss):
    """Focal loss over all real points plus DIoU loss over the positive ones.

    In training both are divided by a running mean of the number of positives, which is part of the
    state; in evaluation by the number of positives of the batch. In distributed training the number is
    that of the total batch, and the losses are such that their mean over the processes, which is what
    DDP descends, is the loss of the total batch in one process.

    Args:
        label_smoothing: `s`; targets become `(1 - s) * target + s / (K + 1)`.
        center_radius: in strides, see `assign_labels`.
        all_classes: whether classes of all segments that a point is responsible for are positive, and not of the
            shortest alone (`filter_similar_gt=False` in OpenTAD).
        options: see `NormalizedLoss`.

    Attributes:
        recomputes: whether it goes through the points some at a time, and again in the backward pass (`head_memory`).
    """

    recomputes = False

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, BELOW_ONE] = 0.0,
        center_radius: Annotated[float, POSITIVE] = 1.5,
        all_classes: bool = False,
        **options: float,
    ):
        super().__init__(**options)
        self.label_smoothing = label_smoothing
        self.center_radius = center_radius
        self.all_classes = all_classes

    def forward(self, output: LocalizationHeadOutput, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Compares predictions with annotated segments.

        Args:
            output: what a head returned for `B` sequences; `offsets` may differ by class, `[B, P, K, 2]`.
            targets: one mapping per sequence: `segments`, float `[N, 2]` in feature steps, and
                `class_labels`, long `[N]`. `N` may be 0. With one class the labels do not matter.

        Returns:
            Scalars, float32 or wider: `classification`, `regression` (weight included) and their
            sum, `loss`.

        Raises:
            ValueError: if targets do not fit the predictions.
        """
        positive, offset_targets = self._targets(output, targets)
        dtype = torch.promote_types(output.logits.dtype, torch.float32)
        normalizer = self.normalize_by("normalizer", positive.any(dim=-1).sum(), dtype)
        by_point = (output.logits, output.offsets, positive, offset_targets, output.point_mask)
        if self.recomputes and torch.is_grad_enabled():
            sums = in_chunks(Method(self, "sums"), by_point, summed=True)
        else:
            sums = self.sums(*by_point)
        classification, regression = sums[0] / normalizer, self.loss_weight * sums[1] / normalizer
        return {
            "loss": classification + regression,
            "classification": classification,
            "regression": regression,
        }

    def sums(
        self, logits: Tensor, offsets: Tensor, positive: Tensor, offset_targets: Tensor, point_mask: Tensor
    ) -> Tensor:
        """Sums of both losses over points, `[2]`, float32 or wider.

        Args:
            logits: `[B, P, K]`.
            offsets: `[B, P, 2]` or `[B, P, K, 2]`.
            positive: bool `[B, P, K]`, the class targets, those of padding included.
            offset_targets: `[B, P, 2]`.
            point_mask: bool `[B, P]`.
        """
        logits, offsets = at_least_float32(logits), at_least_float32(offsets)
        class_targets, positive = positive, positive & point_mask.unsqueeze(-1)
        if offsets.dim() == 3:
            chosen, offsets = positive.any(dim=-1, keepdim=True), offsets.unsqueeze(2)
        else:
            chosen = positive
        # Elsewhere both sides are 1: no loss and a zero gradient, without waiting for the device
        # to count the positives.
        offsets = torch.where(chosen.unsqueeze(-1), offsets, 1)
        offset_targets = torch.where(chosen.unsqueeze(-1), offset_targets.unsqueeze(2), 1).to(offsets)

        smooth = self.label_smoothing
        soft_targets = class_targets.to(logits) * (1 - smooth) + smooth / (logits.shape[-1] + 1)
        focal = sigmoid_focal_loss(logits, soft_targets)
        focal = self._weigh(focal, positive, offset_iou(offsets, offset_targets))
        classification = (focal * point_mask.unsqueeze(-1)).sum()
        return torch.stack((classification, segment_diou_loss(offsets, offset_targets).sum()))

    def can_learn(self, output: LocalizationHeadOutput, segments: Tensor) -> Tensor:
        """Whether each of the segments, float `[N, 2]` in feature steps, would have a positive point: bool `[N]`.

        Each is alone in the first sequence of `output`, of which only points and their mask count.
        """
        responsible, _ = responsible_points(output.points, segments, self.center_radius)
        return (responsible & output.point_mask[0].unsqueeze(-1)).any(dim=0)

    def _weigh(self, focal: Tensor, positive: Tensor, iou: Tensor) -> Tensor:
        """The focal loss `[B, P, K]`, weighed by the tIoU `[B, P, 1 or K]` of positives with their targets."""
        return focal

    def _targets(
        self, output: LocalizationHeadOutput, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Classes, bool `[B, P, K]`, and offsets `[B, P, 2]`; for some points at a time, each with all segments."""
        batch, _, num_labels = output.logits.shape
        classes, offsets = [], []
        for segments, labels in checked_targets(targets, batch, num_labels, output.logits.device):
            assigned = [
                self._assigned(points, segments, labels, num_labels) for points in output.points.split(CHUNK_STEPS)
            ]
            classes.append(torch.cat([class_targets > 0 for class_targets, _ in assigned]))
            offsets.append(torch.cat([offset_targets for _, offset_targets in assigned]))
        return torch.stack(classes), torch.stack(offsets)

    def _assigned(self, points: Tensor, segments: Tensor, labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
        """What points `[P, 4]` of one sequence should predict; see `assign_labels`."""
        return assign_labels(points, segments, labels, num_labels, self.center_radius, self.all_classes)


class SpottingLoss(LocalizationLoss):
    """As `LocalizationLoss`, of actions that are points in time, the middles of the segments given.

    A point learns the classes of all actions nearer than its range, and where the nearest is. That is told as a segment
    about the action, whose half is the range: of two as long the DIoU loss is one of their distance.

    Args:
        options: see `LocalizationLoss`; `center_radius` and `all_classes` have no place.
    """

    def __init__(self, *, label_smoothing: Annotated[float, BELOW_ONE] = 0.0, **options: Any):
        if unused := sorted({"center_radius", "all_classes"} & options.keys()):
            raise ValueError(f"{unused[0]} is of segments; of points, see radius of the head.")
        super().__init__(label_smoothing=label_smoothing, **options)

    def can_learn(self, output: LocalizationHeadOutput, segments: Tensor) -> Tensor:
        """Whether each would have a positive point; see `LocalizationLoss`."""
        distances = (segments.mean(dim=1) - output.points[:, :1]).abs()
        return ((distances < output.points[:, 2:3]) & output.point_mask[0].unsqueeze(-1)).any(dim=0)

    def _assigned(self, points: Tensor, segments: Tensor, labels: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
        position, _, reach, stride = points.split(1, dim=1)  # each [P, 1]
        # One more, infinitely far, since there may be none.
        times = F.pad(segments.mean(dim=1), (0, 1), value=torch.inf)
        classes = F.pad(F.one_hot(labels.long(), num_labels), (0, 0, 0, 1)).to(segments.dtype)
        displacements = times - position
        distances = displacements.abs()
        nearest = displacements.gather(1, distances.argmin(dim=1, keepdim=True))
        class_targets = (distances < reach).to(segments.dtype) @ classes
        return class_targets.clamp(max=1), torch.cat((reach - nearest, reach + nearest), dim=1) / stride


class TriDetLoss(LocalizationLoss):
    """As `LocalizationLoss`, but positives weigh less the worse their boundaries (arXiv 2303.07347, section 3.4).

    Args:
        iou_weight_power: the focal loss of a point and class is multiplied by the tIoU of its segment to
            this power; 0 for no weight.
        options: see `LocalizationLoss`.
    """

    def __init__(self, *, iou_weight_power: Annotated[float, NOT_NEGATIVE] = 0.2, **options: Any):
        super().__init__(**options)
        self.iou_weight_power = iou_weight_power

    def _weigh(self, focal: Tensor, positive: Tensor, iou: Tensor) -> Tensor:
        return torch.where(positive, focal * iou.clamp(min=SMALLEST_LENGTH) ** self.iou_weight_power, focal)


def checked_targets(
    targets: Sequence[Mapping[str, Tensor]], batch: int, num_labels: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Segments `[N, 2]`, float32 or wider, and class labels `[N]` of every sequence, on `device`.

    With one class all labels are 0, whatever was given.

    Raises:
        TypeError, ValueError: if they do not fit the batch, each other or the classes; see `check_labels`.
    """
    check_labels("targets", targets, batch, num_labels)
    return [
        (
            at_least_float32(target["segments"]).to(device),
            (torch.zeros_like(target["class_labels"]) if num_labels == 1 else target["class_labels"]).to(device),
        )
        for target in targets
    ]


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or as it is if wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
