"""From what a model found in the windows of a video to the detections of the video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .finite import check_predictions
from .temporal_segments import assign_video_classes, suppress
from .video_windows import Window

Candidates = tuple[Tensor, Tensor, Tensor]
"""Segments `[N, 2]` in seconds (float64), scores `[N]` (float64) and labels `[N]` (long)."""


def window_candidates(
    logits: Tensor,
    segments: Tensor,
    point_mask: Tensor,
    window: Window,
    settings: Mapping[str, Any],
    *,
    clamped: bool = True,
) -> Candidates:
    """The best of what was found in one window, by falling score.

    Args:
        logits: `[P, K]`.
        segments: `[P, 2]`, in frames of the window.
        point_mask: bool `[P]`, True where a point is real.
        window: which it was.
        settings: `score_threshold`, `min_length`, `max_candidates` and `point_window` of the processor.
        clamped: to the video. ActionFormer and OpenTAD do that after the suppression where a video is one window.

    Raises:
        NotFiniteError: if a logit or a segment of a real point is NaN or infinite.
    """
    point_mask = point_mask.cpu()
    logits, frames = logits.cpu()[point_mask].float(), segments.cpu()[point_mask].double()
    check_predictions(f"{window.video_id}, window at {window.start:.2f} s", logits, frames)
    scores = logits.sigmoid()
    seconds = window.start + frames / window.frame_rate
    if clamped:
        seconds = seconds.clamp(0, window.duration)
    fit = scores >= settings["score_threshold"]
    if settings["point_window"] is None:
        long_enough = frames[:, 1] - frames[:, 0] > settings["min_length"]
        fit &= (long_enough & (seconds[:, 1] > seconds[:, 0]))[:, None]
    seconds = seconds.repeat_interleave(scores.shape[1], dim=0)
    labels = torch.arange(scores.shape[1]).repeat(len(scores))
    scores, fit = scores.flatten(), fit.flatten()
    best = scores[fit].argsort(descending=True, stable=True)[: settings["max_candidates"]]
    return seconds[fit][best], scores[fit][best].double(), labels[fit][best]


def merge_candidates(
    windows: list[Candidates], settings: Mapping[str, Any], class_scores: tuple[Tensor, Tensor] | None = None
) -> Candidates:
    """The detections of one video from the candidates of its windows.

    Args:
        windows: what `window_candidates` returned for each.
        settings: those of the suppression, by their names in the processor, and `num_video_classes`.
        class_scores: of an external classifier, ids and scores, which name the segments of a model without classes.
    """
    segments, scores, labels = (torch.cat(parts) for parts in zip(*windows, strict=True))
    width = settings["point_window"]
    segments, scores, labels = suppress(
        about_points(segments, width),
        scores,
        labels,
        method=settings["nms_method"],
        sigma=settings["nms_sigma"],
        iou_threshold=settings["nms_iou_threshold"],
        min_score=settings["nms_min_score"],
        max_detections=settings["max_detections"],
        per_class=settings["nms_per_class"],
        voting_threshold=settings["voting_threshold"],
    )
    segments = points_within(segments, width)
    if class_scores is None:
        return segments, scores, labels
    ids, values = class_scores
    top_k = min(settings["num_video_classes"], int((values > 0).sum()))
    segments, scores, labels = assign_video_classes(segments, scores, values, top_k=top_k)
    return segments, scores, ids[labels]


def about_points(segments: Tensor, width: float | None) -> Tensor:
    """Segments of `width` seconds about points in time, which overlap the more the nearer these are.

    Args:
        segments: `[N, 2]`, seconds.
        width: `point_window` of the processor; None, of segments, changes nothing.
    """
    if width is None:
        return segments
    return segments.mean(dim=1, keepdim=True) + segments.new_tensor([-width / 2, width / 2])


def points_within(segments: Tensor, width: float | None) -> Tensor:
    """The points in time that `about_points` made segments of."""
    return segments if width is None else segments.mean(dim=1, keepdim=True).expand(-1, 2)
