"""True durations of annotated videos."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tqdm.auto import tqdm

from ..video_reader import VideoReader, VideoReadError
from .annotation_set import AnnotatedVideo, AnnotationError, RuleLog
from .hub_video import HubVideo
from .time_units import MAX_LOST, check_times

# Containers and conversions round; what differs by more is another video, or not in seconds.
_SAME_SECONDS, _SAME_SHARE = 1.0, 0.1


def measured_duration(video: AnnotatedVideo) -> float:
    """Seconds of the file of a video, fetched first where it is on the Hub.

    Raises:
        VideoReadError: It cannot be read.
        ValueError: There is no file.
    """
    with VideoReader(video.local_path(), backend="pyav") as reader:
        return reader.duration


def known_durations(videos: Sequence[AnnotatedVideo], *, progress: bool = False) -> list[float | VideoReadError]:
    """Seconds of every video, or why it cannot be read.

    Files are opened. One that is still on the Hub is not fetched where its annotations say how long it is.

    Args:
        videos: Each with a path.
        progress: Whether to show a bar.
    """

    def known(video: AnnotatedVideo) -> float | VideoReadError:
        if isinstance(video.path, HubVideo) and video.duration is not None:
            return video.duration
        try:
            return measured_duration(video)
        except VideoReadError as error:
            return error

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(tqdm(pool.map(known, videos), "reading videos", len(videos), disable=not progress))


def with_duration(video: AnnotatedVideo, duration: float, rules: RuleLog) -> AnnotatedVideo:
    """The video with its true duration; one that is far from the annotated one counts in `rules`."""
    annotated = video.duration
    if annotated is not None and abs(annotated - duration) > max(_SAME_SECONDS, _SAME_SHARE * duration):
        rules.add("wrong_duration", f"{video.video_id}, {annotated:g} s in the annotations and {duration:g} s long")
    return replace(video, duration=duration)


def check_measured_times(videos: Sequence[AnnotatedVideo], source: str, max_lost: float = MAX_LOST) -> None:
    """Opens the files of videos that are to be measured by, and holds the annotations against their durations.

    Args:
        videos: Those that have no file or an unreadable one count with the annotated duration.
        source: What messages call them.
        max_lost: Largest share of segments outside their videos, and of those that end before they start.

    Raises:
        AnnotationError: More are (see `check_times`), or no video has a file that can be read.
    """
    rules = RuleLog()
    here = [video for video in videos if video.path is not None]
    found = [video for video in videos if video.path is None]
    if not here:
        raise AnnotationError(f"{source}: no video files; name their folder")
    durations = known_durations(here)
    if all(isinstance(duration, VideoReadError) for duration in durations):
        raise AnnotationError(f"{source}: none of the {len(here)} video files can be read; first: {durations[0]}")
    for video, duration in zip(here, durations, strict=True):
        found.append(video if isinstance(duration, VideoReadError) else with_duration(video, duration, rules))
    rules.warn(source)
    check_times(found, source, max_lost)
