"""Annotated videos, and the rules that their segments must keep."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .hub_video import HubVideo

logger = logging.getLogger(__name__)

# Found in the public benchmarks themselves, so never fatal. Rule -> (finding, what repair does).
RULES = {
    "empty_segment": ("segments that start after their end", "dropped"),
    "point": ("actions that start where they end", "dropped"),
    "outside_video": ("segments that lie wholly outside their video", "dropped"),
    "past_video_edge": ("segments that reach past the start or end of their video", "clipped"),
    "duplicate_segment": ("segments given twice with the same label and times", "dropped"),
    "missing_file": ("videos without a file in the video folder", "dropped"),
    "wrong_duration": ("videos whose file is shorter or longer than the annotations say", "the file's duration counts"),
    "label_spelling": ("labels with blanks, or characters that are not seen, around or inside them", "taken without"),
    "detection": ("actions that are detections, with a score", "taken whatever their score"),
}
_MAX_EXAMPLE = 200
# These are met while a file is read.
IN_FILE = ("label_spelling", "detection")
# What is done with these also where nothing is repaired.
ALWAYS_REPAIRED = (*IN_FILE, "wrong_duration")
# Nothing is trained or measured by these.
LOST = ("outside_video", "empty_segment", "point")
# What else there is to be done.
POINT_HINT = (
    "give points a width in seconds: data.point_width=1 in a recipe, --point-width 1 of a command;"
    " or, for a head that finds points, data.points=middle or --points middle"
)

PointOf = Literal["start", "middle"]
"""Where in an action its point is, for those who look for points in time."""


class AnnotationError(ValueError):
    """An annotation file that cannot be used as it is; the message names the file and the fix."""


@dataclass
class AnnotatedVideo:
    """One video and its actions.

    Attributes:
        video_id: Name of the video in the annotation file.
        subset: Subset as the annotation file spells it.
        path: The video file, here or on the Hub; `None` where no folder of videos was given or the file is missing.
        duration: Seconds, or `None` where the annotation file does not say.
        segments: float64 `[N, 2]`, start and end of every action in seconds.
        labels: Class id of every action, an index into the label names of the set.
        frame_rate: Frames per second of the video, where the annotation file says it.
        points: Whether its actions are points in time, each a segment that starts where it ends.
    """

    video_id: str
    subset: str
    path: Path | HubVideo | None
    duration: float | None
    segments: np.ndarray
    labels: list[int]
    frame_rate: float | None = None
    points: bool = False

    def local_path(self) -> Path:
        """Returns the path of the file, fetched first where it is on the Hub.

        Raises:
            ValueError: There is no file.
            VideoReadError: It cannot be fetched.
        """
        if self.path is None:
            raise ValueError(f"video {self.video_id!r} has no file; give read_annotations the video_folder")
        return self.path.fetch() if isinstance(self.path, HubVideo) else self.path


@dataclass
class AnnotationSet:
    """The videos of a subset.

    Attributes:
        videos: In the order of the file.
        label_names: Name of class 0, 1, ...; the same for every subset of a file.
        counts: How often each of `RULES` was met; rules that were not met are absent.
        lost: Segments outside their video, or that end where or before they start, by class id.
    """

    videos: list[AnnotatedVideo]
    label_names: list[str]
    counts: dict[str, int]
    lost: Counter[int] = field(default_factory=Counter)

    @property
    def points(self) -> bool:
        """Whether its actions are points in time."""
        return all(video.points for video in self.videos)

    def class_agnostic(self, name: str = "action") -> AnnotationSet:
        """The same set with one class only, for a head that leaves the naming to a classifier."""
        videos = [replace(video, labels=[0] * len(video.labels)) for video in self.videos]
        return AnnotationSet(videos, [name], dict(self.counts), Counter({0: self.lost.total()}))


class RuleLog:
    """Counts how often each rule is met and says so in one warning per rule."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: Counter[int] = Counter()
        self.first: dict[str, str] = {}

    def add(self, rule: str, example: str, label: int = 0) -> None:
        """Counts one more case of `rule`, of a segment of class `label`; the first example is kept for the warning."""
        self.counts[rule] += 1
        if rule not in self.first:
            example = " ".join(example.split())
            self.first[rule] = example if len(example) <= _MAX_EXAMPLE else f"{example[:80]}...{example[-80:]}"
        if rule in LOST:
            self.lost[label] += 1

    def lines(self, *, repaired: bool = True) -> list[str]:
        """Returns one line per rule that was met."""
        return [
            f"{rule}: {count} {RULES[rule][0]}, {RULES[rule][1] if repaired or rule in ALWAYS_REPAIRED else 'kept'};"
            f" first: {self.first[rule]}{f'; {POINT_HINT}' if rule == 'point' else ''}"
            for rule, count in self.counts.items()
        ]

    def warn(self, source: str | Path, *, repaired: bool = True) -> None:
        """Logs one line per rule that was met in `source`."""
        for line in self.lines(repaired=repaired):
            logger.warning("%s: %s", source, line)


def repair_segments(
    video: AnnotatedVideo, duration: float | None, rules: RuleLog, *, tolerance: float = 0.0
) -> tuple[np.ndarray, list[int]]:
    """Applies the segment rules to one video and counts what they find.

    Args:
        video: Segments in seconds; not changed.
        duration: Seconds; `None` where unknown, then only times before 0 are outside.
        rules: Takes the counts.
        tolerance: Seconds past the edge of the video that are clipped without being counted.

    Returns:
        The segments that remain, float64 `[M, 2]`, clipped to the video, and their labels.
    """
    end_of_video = math.inf if duration is None else duration
    kept, labels, seen = [], [], set()
    for (start, end), label in zip(video.segments.tolist(), video.labels, strict=True):
        example = f"{video.video_id} [{start:g}, {end:g}]"
        if start > end or (start == end and not video.points):
            rules.add("point" if start == end else "empty_segment", example, label)
        elif start > end_of_video or end < 0 or (start < end and (start == end_of_video or end == 0)):
            rules.add("outside_video", f"{example}, {end_of_video:g} s long", label)
        elif (label, start, end) in seen:
            rules.add("duplicate_segment", example)
        else:
            seen.add((label, start, end))
            if start < -tolerance or end > end_of_video + tolerance:
                rules.add("past_video_edge", f"{example}, {end_of_video:g} s long")
            kept.append((max(start, 0.0), min(end, end_of_video)))
            labels.append(label)
    return np.array(kept, dtype=np.float64).reshape(-1, 2), labels


def repair_video(video: AnnotatedVideo, rules: RuleLog, *, tolerance: float = 0.0) -> AnnotatedVideo:
    """The video with what `repair_segments` leaves of its segments, by its own duration."""
    segments, labels = repair_segments(video, video.duration, rules, tolerance=tolerance)
    return replace(video, segments=segments, labels=labels)
