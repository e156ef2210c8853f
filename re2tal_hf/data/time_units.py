"""Whether annotated times can be seconds of their videos, and what else they look like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .annotation_set import POINT_HINT, AnnotatedVideo, AnnotationError, RuleLog, repair_segments

logger = logging.getLogger(__name__)

MAX_LOST = 0.5
"""Largest share of segments outside their videos, or that end before they start, with which work goes on."""

# Rule -> what its segments do.
_FAULTS = {
    "outside_video": "lie wholly outside their video",
    "empty_segment": "end before their start",
    "point": "end at their start",
}
_FRAME_RATES = (10, 12, 15, 24, 25, 30, 50, 60, 120)
# Videos that say something about the unit only together.
_FEW_VIDEOS = 5
_FIRST_SECONDS = 0.05


def check_times(videos: Sequence[AnnotatedVideo], source: str | Path, max_lost: float = MAX_LOST) -> None:
    """Refuses annotations that cannot be in seconds; warns of those that hardly can.

    Args:
        videos: Segments as annotated; videos without a duration say nothing.
        source: What error messages call them.
        max_lost: Largest share of segments outside their videos, and of those that end before they start.

    Raises:
        AnnotationError: More are; the message says what the times look like.
    """
    rules, total = RuleLog(), sum(len(video.labels) for video in videos)
    for video in videos:
        repair_segments(video, video.duration, rules)
    ratios = [video.segments.max() / video.duration for video in videos if video.duration and len(video.labels)]
    for rule, fault in _FAULTS.items():
        if (lost := rules.counts[rule]) > max_lost * total:
            raise AnnotationError(
                f"{source}: {lost} of {total} segments {fault} (first: {rules.first[rule]}). {_guess(rule, ratios)}."
            )
    if len(ratios) >= _FEW_VIDEOS and max(ratios) < _FIRST_SECONDS:
        logger.warning(
            "%s: all actions of %d videos lie in their first %.1f%%; are the times minutes, or shares of the video?"
            " They must be seconds.",
            source, len(ratios), 100 * max(ratios),
        )  # fmt: skip


def _guess(rule: str, ratios: Sequence[float]) -> str:
    """What is to be done about times that break a rule, and reach so many times the durations of their videos."""
    if rule == "empty_segment":
        return "Are they [start, length]? They must be [start, end], in seconds"
    if rule == "point":
        return f"If they are points in time, {POINT_HINT}"
    return f"{_unit(ratios)}, in seconds"


def _unit(ratios: Sequence[float]) -> str:
    if not ratios:
        return "Times before 0 are in no video; give them"
    # A few videos may have wrong times of another kind.
    ratio = float(np.quantile(ratios, 0.9))
    reach = f"Times reach {ratio:.3g} times the durations: "
    if ratio < _FRAME_RATES[0] * 0.8:
        return f"{reach}do these files belong to these annotations? The times may be steps of features; give them"
    if ratio <= _FRAME_RATES[-1]:
        rate = next(rate for rate in _FRAME_RATES if rate >= 0.98 * ratio)
        return f"{reach}they look like frames at about {rate} a second; divide them by the frame rate, to give them"
    if ratio <= 1100:
        return f"{reach}they look like milliseconds; divide them by 1000, to give them"
    return f"{reach}they look like microseconds or ticks of a clock; give them"
