"""Scored segments on a time line: their overlap, and how many detections become few.

A segment is `(start, end)` in any unit of time; what comes out has the unit of what went in.
Everything is plain torch, on any device, for all classes at once, and knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

# Added to lengths inside the suppression, as in the public compiled operators: without it a segment
# of no length would have no defined overlap.
LENGTH_MARGIN = 1e-6
# Kept segments whose voters are looked up together: bounds the memory.
VOTING_CHUNK = 256

Decay = Callable[[Tensor, Tensor], Tensor]


def segment_iou(a: Tensor, b: Tensor) -> Tensor:
    """Temporal intersection over union of every segment of `a` with every one of `b`.

    Args:
        a: `[N, 2]` start and end.
        b: `[M, 2]`.

    Returns:
        `[N, M]` in [0, 1]; 0 where both segments have no length.

    Example:
        >>> segment_iou(torch.tensor([[0.0, 8.0]]), torch.tensor([[0.0, 10.0], [8.0, 9.0]]))
        tensor([[0.8000, 0.0000]])
    """
    intersection, union = _overlap(a[:, None], b[None, :])
    return torch.where(union > 0, intersection / union, 0)


def soft_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    sigma: float = 0.5,
    min_score: float = 0.001,
    max_detections: int | None = None,
    decay: Decay | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (arXiv 1704.04503): takes the best segment and lowers the scores of what overlaps.

    Segments of different labels do not see each other. The best segment of a label is kept whatever
    its score; others are dropped once they fall below `min_score` (a score equal to it stays).
    Equal scores are in the order of their labels, then of the input.

    Args:
        segments: `[N, 2]`.
        scores: `[N]`.
        labels: integers `[N]`, for example classes, or video and class in one number; None for a
            single group.
        sigma: a score is multiplied by `exp(-tIoU**2 / sigma)`.
        min_score: see above.
        max_detections: so many per label at most; None for all.
        decay: another rule than `sigma`: maps the tIoU with the segment just taken and the length
            of that segment (broadcastable) to the factor.

    Returns:
        Indices of the kept segments, best new score first, and their new scores.

    Raises:
        ValueError: if shapes or values are not valid.
    """
    if decay is None and not sigma > 0:
        raise ValueError(f"sigma is {sigma}; it must be above 0.")

    def lower(remaining: Tensor, iou: Tensor, length: Tensor) -> Tensor:
        factor = torch.exp(-(iou**2) / sigma) if decay is None else decay(iou, length)
        remaining = remaining * factor
        return torch.where(remaining >= min_score, remaining, -torch.inf)

    segments, scores = _checked(segments, scores, labels)
    return _suppress_greedily(segments, scores, labels, lower, max_detections)


def hard_nms(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None = None,
    *,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    max_detections: int | None = None,
) -> Tensor:
    """Takes the best segment and drops what overlaps it, until none is left.

    Args:
        segments: `[N, 2]`.
        scores: `[N]`.
        labels: see `soft_nms`.
        iou_threshold: a tIoU as high as this is dropped.
        min_score: if positive, only higher scores (equal ones not) take part.
        max_detections: so many per label at most; None for all.

    Returns:
        Indices of the kept segments, best first.

    Raises:
        ValueError: if shapes or values are not valid.
    """

    def drop(remaining: Tensor, iou: Tensor, length: Tensor) -> Tensor:
        return torch.where(iou < iou_threshold, remaining, -torch.inf)

    segments, scores = _checked(segments, scores, labels)
    taking_part = torch.arange(len(scores), device=scores.device)
    if min_score > 0:
        taking_part = taking_part[scores > min_score]
    groups = None if labels is None else labels[taking_part]
    kept, _ = _suppress_greedily(segments[taking_part], scores[taking_part], groups, drop, max_detections)
    return taking_part[kept]


def vote_segments(
    segments: Tensor,
    candidates: Tensor,
    candidate_scores: Tensor,
    *,
    threshold: float,
    labels: Tensor | None = None,
    candidate_labels: Tensor | None = None,
    weight_by_iou: bool = False,
) -> Tensor:
    """Replaces each segment by the mean of the candidates around it ("box voting").

    Args:
        segments: `[M, 2]`, what an NMS kept.
        candidates: `[N, 2]`, what the NMS was given.
        candidate_scores: `[N]` scores before the NMS: the weights of the mean.
        threshold: candidates with at least this tIoU vote.
        labels: integers `[M]`; only candidates of the same label vote. None for all.
        candidate_labels: integers `[N]`, together with `labels`.
        weight_by_iou: weights are multiplied by the tIoU, as in actionformer_release; OpenTAD
            weights by the score alone.

    Returns:
        `[M, 2]`. A segment without voters (only one of no length can be) stays as it is.

    Raises:
        ValueError: if only one of `labels` and `candidate_labels` is given.
    """
    if (labels is None) != (candidate_labels is None):
        raise ValueError("labels and candidate_labels go together: give both or neither.")
    if labels is not None and candidate_labels is not None:
        refined = segments.clone()
        for label in labels.unique():
            own, voters = labels == label, candidate_labels == label
            refined[own] = vote_segments(
                segments[own],
                candidates[voters],
                candidate_scores[voters],
                threshold=threshold,
                weight_by_iou=weight_by_iou,
            )
        return refined
    chunks = []
    for chunk in segments.split(VOTING_CHUNK):
        iou = segment_iou(chunk, candidates)
        votes = (iou >= threshold) * candidate_scores
        if weight_by_iou:
            votes = votes * iou
        total = votes.sum(dim=1, keepdim=True)
        chunks.append(torch.where(total > 0, votes @ candidates / total, chunk))
    return torch.cat(chunks)


def suppress(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: Literal["soft", "hard", "none"] = "soft",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    max_detections: int = 200,
    per_class: bool = True,
    voting_threshold: float | None = None,
    weight_votes_by_iou: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduces the detections of one video to its best ones.

    Voting per class is done among the candidates of the class. OpenTAD and actionformer_release
    ignore their voting threshold there: leave it out to reproduce their per-class results.

    Args:
        segments: `[N, 2]`.
        scores: `[N]`, float; half precision is computed in float32.
        labels: long `[N]` class of each segment.
        method: gaussian soft-NMS, hard NMS, or only sorting.
        sigma: of soft-NMS.
        iou_threshold: of hard NMS.
        min_score: see `soft_nms` and `hard_nms`; with "none", lower scores are dropped.
        max_detections: so many are returned at most.
        per_class: whether segments of different classes leave each other alone.
        voting_threshold: tIoU from which candidates refine a kept segment; None for no voting.
        weight_votes_by_iou: see `vote_segments`.

    Returns:
        Segments, scores and labels, best score first. Equal scores are in the order of their
        labels, then of the input.

    Raises:
        ValueError: if shapes or values are not valid.
    """
    if max_detections < 0:
        raise ValueError(f"max_detections is {max_detections}; it must not be negative.")
    segments, scores = _checked(segments, scores, labels)
    groups = labels if per_class else None
    kept, kept_scores = kept_by(
        method,
        segments,
        scores,
        groups,
        sigma=sigma,
        iou_threshold=iou_threshold,
        min_score=min_score,
        max_detections=max_detections,
    )
    kept, kept_scores = kept[:max_detections], kept_scores[:max_detections]
    kept_segments = segments[kept]
    if voting_threshold is not None:
        kept_segments = vote_segments(
            kept_segments,
            segments,
            scores,
            threshold=voting_threshold,
            labels=labels[kept] if per_class else None,
            candidate_labels=labels if per_class else None,
            weight_by_iou=weight_votes_by_iou,
        )
    return kept_segments, kept_scores, labels[kept]


def kept_by(
    method: Literal["soft", "hard", "none"],
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    *,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices of the segments that a method of suppression keeps, best first, and their new scores; see `suppress`."""
    if method == "soft":
        return soft_nms(segments, scores, labels, sigma=sigma, min_score=min_score, max_detections=max_detections)
    if method == "hard":
        kept = hard_nms(
            segments, scores, labels, iou_threshold=iou_threshold, min_score=min_score, max_detections=max_detections
        )
        return kept, scores[kept]
    if method != "none":
        raise ValueError(f"method is {method!r}; choose 'soft', 'hard' or 'none'.")
    kept = torch.nonzero(scores >= min_score).squeeze(1)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return kept, scores[kept]


def assign_video_classes(
    segments: Tensor, scores: Tensor, class_scores: Tensor, *, top_k: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Gives class-agnostic detections the most likely classes of their video.

    Every detection appears once per class, its score multiplied by the score of the class, as is
    usual on ActivityNet with an external video classifier.

    Args:
        segments: `[N, 2]`.
        scores: `[N]`.
        class_scores: `[C]` scores of the whole video.
        top_k: number of classes.

    Returns:
        Segments `[N * top_k, 2]`, scores and long class indices `[N * top_k]`, best first.
    """
    best = class_scores.argsort(descending=True, stable=True)[:top_k]
    combined = (class_scores[best][:, None] * scores).flatten()
    order = combined.argsort(descending=True, stable=True)
    labels = best.repeat_interleave(len(scores))
    return segments.repeat(len(best), 1)[order], combined[order], labels[order]


def _overlap(a: Tensor, b: Tensor, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersection and union of segments `[..., 2]`, broadcast, with `margin` added to lengths."""
    start = torch.maximum(a[..., 0], b[..., 0])
    end = torch.minimum(a[..., 1], b[..., 1])
    intersection = (end - start).clamp(min=0)
    lengths = (a[..., 1] - a[..., 0] + margin) + (b[..., 1] - b[..., 0] + margin)
    return intersection, lengths - intersection


def _checked(segments: Tensor, scores: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    count = len(scores)
    if segments.shape != (count, 2) or scores.shape != (count,):
        raise ValueError(f"segments {tuple(segments.shape)} and scores {tuple(scores.shape)} must be [N, 2] and [N].")
    if labels is not None and labels.shape != (count,):
        raise ValueError(f"labels {tuple(labels.shape)} must be [N] for {count} segments.")
    if torch.isnan(scores).any() or not segments.isfinite().all():
        raise ValueError("scores hold NaN, or segments NaN or infinity: the model that made them has diverged.")
    dtype = torch.promote_types(segments.dtype, torch.promote_types(scores.dtype, torch.float32))
    return segments.to(dtype), scores.to(dtype)


def _grid(labels: Tensor) -> Tensor:
    """Indices of `labels` as one row a group, `[G, longest group]`, padded by -1."""
    _, group, sizes = labels.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    column = torch.arange(len(labels), device=labels.device)
    column = column - (sizes.cumsum(0) - sizes)[group[order]]
    grid = labels.new_full((len(sizes), int(sizes.max())), -1, dtype=torch.long)
    grid[group[order], column] = order
    return grid


def _suppress_greedily(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    update: Callable[[Tensor, Tensor, Tensor], Tensor],
    max_detections: int | None,
) -> tuple[Tensor, Tensor]:
    """Takes the best segment of every group in turn; `update` lowers what remains.

    Scores of segments that are gone are minus infinity.
    """
    if len(scores) == 0:
        return scores.new_zeros(0, dtype=torch.long), scores
    grid = _grid(torch.zeros_like(scores, dtype=torch.long) if labels is None else labels)
    segments = segments[grid]  # [G, N, 2]
    remaining = scores[grid].masked_fill(grid < 0, -torch.inf)  # [G, N]
    steps = grid.shape[1] if max_detections is None else min(max_detections, grid.shape[1])
    taken = grid.new_full((len(grid), steps), -1)
    taken_scores = remaining.new_full((len(grid), steps), -torch.inf)
    for step in range(steps):
        score, best = remaining.max(dim=1, keepdim=True)  # [G, 1]
        if torch.isneginf(score).all():
            break
        taken[:, step : step + 1] = grid.gather(1, best)
        taken_scores[:, step : step + 1] = score
        winner = segments.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))  # [G, 1, 2]
        remaining.scatter_(1, best, -torch.inf)
        intersection, union = _overlap(winner, segments, LENGTH_MARGIN)
        length = winner[..., 1] - winner[..., 0] + LENGTH_MARGIN
        remaining = update(remaining, intersection / union, length)
    real = ~torch.isneginf(taken_scores)
    index, score = taken[real], taken_scores[real]
    order = score.argsort(descending=True, stable=True)
    return index[order], score[order]
