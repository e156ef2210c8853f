"""Annotated videos as their files are: true durations, and which of them cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..video_reader import VideoReadError
from .annotation_set import AnnotatedVideo, RuleLog, repair_video
from .durations import known_durations, with_duration
from .feature_store import FeatureStore
from .frame_store import FrameStore
from .hub_video import HubVideo
from .time_units import check_times

logger = logging.getLogger(__name__)


class UnreadableVideosError(RuntimeError):
    """More videos are unreadable than `max_unreadable` allows."""


class ReadableVideos:
    """The videos to train on that can be read, as far as that is known yet.

    Files that the index does not know are read at the start. One that cannot be read is left out; one that fails
    later, in any worker, is to be replaced by another. Each is reported in one warning and counted.

    Args:
        videos: With their `path`.
        store: Of the frames, which says how long one is, or of features.
        max_unreadable: Largest share of unreadable videos with which training goes on.
        max_lost: See `check_times`.

    Attributes:
        videos: With measured durations, where they are not on the Hub still, and segments clipped to them.
        rules: How often each rule of `annotations.RULES` was met.

    Raises:
        ValueError: Settings out of range, no videos, or a video without a path.
        AnnotationError: More segments are lost than `max_lost` allows.
        UnreadableVideosError: Too many videos cannot be read.
    """

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        store: FrameStore | FeatureStore,
        *,
        max_unreadable: float,
        max_lost: float,
    ) -> None:
        self.store = store
        self.timelines = store.timelines
        self.max_unreadable = max_unreadable
        self._num_given = len(videos)
        _check(videos)
        self.rules = RuleLog()
        self.videos = self._measured(videos, max_lost)
        # Shared with the workers, so that they see each other's unreadable videos.
        self._failed = torch.zeros(len(self.videos), dtype=torch.bool).share_memory_()
        self._check_share()

    @property
    def num_unreadable(self) -> int:
        """Videos found unreadable so far, at the start and by any worker."""
        return self._num_given - len(self.videos) + int(self._failed.sum())

    def here(self, number: int) -> AnnotatedVideo:
        """Returns a video with its file on this machine, fetched and measured where it was still on the Hub.

        Raises:
            VideoReadError: It cannot be fetched or read.
        """
        video = self.videos[number]
        if isinstance(video.path, HubVideo):
            video, rules = replace(video, path=video.local_path()), RuleLog()
            video = with_duration(video, self.timelines.duration(video.local_path()), rules)
            video = self.videos[number] = self._repaired(video, rules)
            rules.warn(video.video_id)
        return video

    def report(self, number: int, error: VideoReadError) -> None:
        """Counts a video that cannot be read after all.

        Raises:
            UnreadableVideosError: They are too many now.
        """
        if not self._failed[number]:
            self._failed[number] = True
            logger.warning("unreadable video: %s", error)
        self._check_share()

    def _measured(self, videos: Sequence[AnnotatedVideo], max_lost: float) -> list[AnnotatedVideo]:
        measured = []
        for video, duration in zip(videos, known_durations(videos, self.timelines), strict=True):
            if isinstance(duration, VideoReadError):
                logger.warning("unreadable video: %s", duration)
                continue
            measured.append(with_duration(video, duration, self.rules))
        self.timelines.save()
        check_times(measured, "training videos", max_lost)
        repaired = [self._repaired(video, self.rules) for video in measured]
        self.rules.warn("training videos")
        return repaired

    def _repaired(self, video: AnnotatedVideo, rules: RuleLog) -> AnnotatedVideo:
        return repair_video(video, rules, tolerance=1 / self.store.whole(video).frame_rate)

    def _check_share(self) -> None:
        count, total = self.num_unreadable, self._num_given
        if count > self.max_unreadable * total or count == total:
            raise UnreadableVideosError(
                f"{count} of {total} videos cannot be read, more than the share of"
                f" {self.max_unreadable:g} that max_unreadable allows; each is named in a warning"
                " above. Repair or remove them, or raise max_unreadable."
            )


def _check(videos: Sequence[AnnotatedVideo]) -> None:
    if not videos:
        raise ValueError("there are no videos to draw windows from")
    without_path = [video.video_id for video in videos if video.path is None]
    if without_path:
        raise ValueError(
            f"{len(without_path)} videos have no file (first: {without_path[0]!r});"
            " give read_annotations the video_folder"
        )
