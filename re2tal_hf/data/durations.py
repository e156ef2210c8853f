"""True durations of annotated videos."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

from tqdm.auto import tqdm

from ..video_reader import VideoReadError
from .annotation_set import AnnotatedVideo, AnnotationError, RuleLog
from .feature_store import FeatureTimelines
from .hub_video import HubVideo
from .time_units import MAX_LOST, check_times
from .timeline_index import TimelineIndex

Timelines = TimelineIndex | FeatureTimelines
# Containers and conversions round; what differs by more is another video, or not in seconds.
_SAME_SECONDS, _SAME_SHARE = 1.0, 0.1


def known_durations(
    videos: Sequence[AnnotatedVideo],
    timelines: Timelines | None = None,
    *,
    progress: bool = True,
) -> list[float | VideoReadError]:
    """Seconds of every video, or why it cannot be read.

    Files that the index does not know are read to their end. One that is still on the Hub is not fetched where its
    annotations say how long it is.

    Args:
        videos: Each with a path.
        timelines: Takes what is measured, to be saved by its owner; by default the user's index, which is saved.
        progress: Whether to show a bar, where it takes time.
    """
    index = timelines or TimelineIndex()
    durations = [_known_duration(video, index) for video in videos]
    unknown = [number for number, duration in enumerate(durations) if duration is None]
    with ThreadPoolExecutor(max_workers=8) as pool:
        measured = pool.map(lambda number: _measured_duration(videos[number], index), unknown)
        bar = tqdm(measured, "measuring videos", len(unknown), disable=not progress, delay=2)
        try:
            for number, duration in zip(unknown, bar, strict=True):
                durations[number] = duration
        except KeyboardInterrupt:
            index.save()  # what is measured need not be again
            raise
    if timelines is None:
        index.save()
    return cast(list[float | VideoReadError], durations)


def _known_duration(video: AnnotatedVideo, index: Timelines) -> float | VideoReadError | None:
    if isinstance(video.path, HubVideo):
        return video.duration
    return index.known_duration(video.local_path())


def _measured_duration(video: AnnotatedVideo, index: Timelines) -> float | VideoReadError:
    try:
        return index.duration(video.local_path())
    except VideoReadError as error:
        return error


def same_duration(annotated: float, measured: float) -> bool:
    """Whether two durations in seconds can be those of one video."""
    return abs(annotated - measured) <= max(_SAME_SECONDS, _SAME_SHARE * measured)


def with_duration(video: AnnotatedVideo, duration: float, rules: RuleLog) -> AnnotatedVideo:
    """The video with its true duration; one that is far from the annotated one counts in `rules`."""
    annotated = video.duration
    if annotated is not None and not same_duration(annotated, duration):
        rules.add("wrong_duration", f"{video.video_id}, {annotated:g} s in the annotations and {duration:g} s long")
    return replace(video, duration=duration)


def check_measured_times(
    videos: Sequence[AnnotatedVideo],
    source: str,
    max_lost: float = MAX_LOST,
    timelines: Timelines | None = None,
) -> None:
    """Holds the annotations of videos that are to be measured by against the durations of their files.

    Args:
        videos: Those that have no file or an unreadable one count with the annotated duration.
        source: What messages call them.
        max_lost: Largest share of segments outside their videos, and of those that end before they start.
        timelines: See `known_durations`.

    Raises:
        AnnotationError: More are (see `check_times`), or no video has a file that can be read.
    """
    rules = RuleLog()
    here = [video for video in videos if video.path is not None]
    found = [video for video in videos if video.path is None]
    if not here:
        raise AnnotationError(f"{source}: no video files; name their folder")
    durations = known_durations(here, timelines)
    if all(isinstance(duration, VideoReadError) for duration in durations):
        raise AnnotationError(f"{source}: none of the {len(here)} video files can be read; first: {durations[0]}")
    for video, duration in zip(here, durations, strict=True):
        found.append(video if isinstance(duration, VideoReadError) else with_duration(video, duration, rules))
    rules.warn(source)
    check_times(found, source, max_lost)
