"""Detections of single videos beside their actions, with pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.annotation_set import AnnotatedVideo, AnnotationSet
from ..data.html_page import frames_as_addresses
from ..data.timeline_index import TimelineIndex
from ..metrics.tal_map.diagnosis import KINDS, Matching
from ..video_reader import VideoReadError

logger = logging.getLogger(__name__)

NUM_PICTURES, PICTURE_HEIGHT = 8, 72
WORST, BEST = 4, 2


@dataclass(frozen=True)
class Bar:
    """An action or a detection; `left` and `width` in percent of the video, `note` says what it is."""

    label: str
    left: float
    width: float
    note: str
    is_right: bool


@dataclass(frozen=True)
class VideoStory:
    """One video of the page.

    Attributes:
        name: Of the video.
        seconds: How long it is.
        found, actions, wrong: Actions found, all of them, and detections that are none.
        truth, detections: What is drawn.
        pictures: Frames over its whole length; none where it cannot be read.
    """

    name: str
    seconds: float
    found: int
    actions: int
    wrong: int
    truth: list[Bar]
    detections: list[Bar]
    pictures: list[str]


def stories(annotations: AnnotationSet, matching: Matching, place: int) -> tuple[list[VideoStory], list[VideoStory]]:
    """Returns the worst videos and the best.

    As many of the best detections count as there are actions in all videos. A video is as good as the share of actions
    found among all actions and wrong detections.

    Args:
        annotations: Of the videos.
        matching: Of the detections.
        place: Of the tIoU threshold.
    """
    count = len(matching.references.labels)
    right, videos = matching.matched[place, :count] >= 0, matching.predictions.videos[:count]
    numbers = range(len(annotations.videos))
    found, wrong = (np.bincount(videos[which], minlength=len(numbers)) for which in (right, ~right))
    actions = np.bincount(matching.references.videos, minlength=len(numbers))
    shares = found / np.maximum(actions + wrong, 1)
    ranked = sorted((n for n in numbers if actions[n] or wrong[n]), key=lambda n: (shares[n], -actions[n]))
    worst = ranked[: min(WORST, (len(ranked) + 1) // 2)]
    best = ranked[len(worst) :][::-1][:BEST]
    index = TimelineIndex()

    def told(chosen: Sequence[int]) -> list[VideoStory]:
        return [
            _story(annotations.videos[n], annotations.label_names, matching, n, place, index,
                   (int(found[n]), int(actions[n]), int(wrong[n])))
            for n in chosen
        ]  # fmt: skip

    return told(worst), told(best)


def _story(
    video: AnnotatedVideo,
    names: Sequence[str],
    matching: Matching,
    number: int,
    place: int,
    index: TimelineIndex,
    counts: tuple[int, int, int],
) -> VideoStory:
    rows = np.flatnonzero(matching.predictions.videos[: len(matching.references.labels)] == number)
    times = matching.predictions.times[rows]
    if video.points:
        times = times.mean(axis=1, keepdims=True).repeat(2, axis=1)
    reached = max([float(part[:, 1].max()) for part in (times, video.segments) if len(part)], default=1.0)
    seconds = video.duration or max(reached, 1e-3)
    best = matching.matched[place, : len(matching.references.labels)]
    is_found = np.isin(np.flatnonzero(matching.references.videos == number), best)
    truth = [
        _bar(names[label], segment, seconds, "found" if found else "missed", bool(found))
        for label, segment, found in zip(video.labels, video.segments.tolist(), is_found, strict=True)
    ]
    kinds, scores = matching.kinds[place, rows], matching.scores[rows]
    detections = [
        _bar(names[label], segment, seconds, f"score {score:.2f}, {KINDS[kind]}", kind == 0)
        for label, segment, score, kind in zip(
            matching.predictions.labels[rows], times.tolist(), scores, kinds, strict=True
        )
    ]
    return VideoStory(video.video_id, seconds, *counts, truth, detections, _pictures(video, seconds, index))


def _bar(label: str, segment: Sequence[float], seconds: float, note: str, is_right: bool) -> Bar:
    start, end = (min(max(time / seconds, 0.0), 1.0) for time in segment)
    when = f"{segment[0]:.2f} s" if segment[0] == segment[1] else f"{segment[0]:.2f} to {segment[1]:.2f} s"
    note = f"{label}, {when}: {note}"
    return Bar(label, 100 * start, 100 * (end - start), note, is_right)


def _pictures(video: AnnotatedVideo, seconds: float, index: TimelineIndex) -> list[str]:
    if not isinstance(video.path, Path) or video.path.suffix in (".npy", ".npz", ".safetensors"):
        return []
    try:
        times = [seconds * (number + 0.5) / NUM_PICTURES for number in range(NUM_PICTURES)]
        return frames_as_addresses(index, video.path, times, PICTURE_HEIGHT)
    except VideoReadError as error:
        logger.warning("no picture: %s", error)
        return []
