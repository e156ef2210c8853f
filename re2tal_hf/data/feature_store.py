"""Stored features of annotated videos, in the place of their frames: one file a video."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..video_features import feature_shape, features_at, read_features, whole_features
from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import VideoReadError
from ..video_windows import Window
from .annotation_set import AnnotatedVideo, AnnotationSet
from .json_files import some

logger = logging.getLogger(__name__)

# By what the features of half of the videos may be longer or shorter than the annotations say: published ones end
# early or late, and a wrong stride or rate is off by more.
MAX_RATIO = 1.5
# From where single videos are reported.
SAME_SHARE = 0.1


class FeatureError(ValueError):
    """Features that do not fit the annotations or the model; the message names the file and the fix."""


class FeatureStore:
    """Features of annotated videos at times, as a `FrameStore` has their frames.

    All files are looked at here, before anything long begins; of most no more than the head is read.

    Args:
        videos: Whose `path` is a file of features; those without one are passed over.
        processor: Says how far the features stand apart.
        size: Channels of the features.

    Attributes:
        timelines: How long the videos are.
        steps: What the steps of a window are.

    Raises:
        FeatureError: A file cannot be read, features are of another size, their rate is not known, or they come to
            other durations than those of the annotations.
    """

    steps = "features"

    def __init__(self, videos: Sequence[AnnotatedVideo], processor: Re2TALVideoProcessor, size: int):
        self.processor = processor
        self.size = size
        present = [video for video in videos if video.path is not None]
        with ThreadPoolExecutor(max_workers=8) as pool:
            counts = list(pool.map(self._count, present))
        self._counts = {video.local_path(): count for video, count in zip(present, counts, strict=True)}
        self._check_durations(present)
        self.timelines = FeatureTimelines({video.local_path(): self.whole(video).duration for video in present})

    def at(self, video: AnnotatedVideo, times: Sequence[float]) -> Tensor:
        """Returns the features at times of a window, float32 `[T, D]`.

        Raises:
            VideoReadError: The file cannot be read any more.
        """
        features, whole = read_features(video.local_path()), self.whole(video)
        window = Window(video.video_id, times[0], whole.frame_rate, len(times), whole.duration)
        return features_at(features, whole, window, self.processor.feature_resizing)

    def whole(self, video: AnnotatedVideo) -> Window:
        """All features of a video as one window."""
        try:
            return whole_features(
                video.video_id,
                self._count(video),
                self.processor,
                duration=video.duration,
                frame_rate=video.frame_rate,
            )
        except ValueError as error:
            raise FeatureError(f"{video.local_path()}: {error}") from error

    def source(self, video: AnnotatedVideo) -> dict[str, Any]:
        """What the pipeline takes for a video."""
        found = {"features": video.local_path(), "duration": video.duration, "frame_rate": video.frame_rate}
        return found | {"name": video.video_id}

    def _count(self, video: AnnotatedVideo) -> int:
        path = video.local_path()
        if path in getattr(self, "_counts", ()):
            return self._counts[path]
        try:
            count, size = feature_shape(path)
        except VideoReadError as error:
            raise FeatureError(str(error)) from error
        if size != self.size:
            hint = "transpose its array: rows are steps in time" if count == self.size else f"set it to {size}"
            raise FeatureError(
                f"{path}: its features [{count}, {size}] have the size {size}, and model.backbone_config.size is "
                f"{self.size}; {hint}, or take the features that the model was trained on."
            )
        return count

    def _check_durations(self, videos: Sequence[AnnotatedVideo]) -> None:
        """Holds strides and rates against the annotated durations; features spread over them fit any."""
        stride, known = self.processor.feature_stride, [video for video in videos if video.duration is not None]
        if stride is None or self.processor.sampling == "resized" or not known:
            return
        spans = [self._count(video) / self.whole(video).frame_rate for video in known]
        ratios = np.array([span / (video.duration or 1) for video, span in zip(known, spans, strict=True)])
        middle = float(np.median(ratios))
        if not 1 / MAX_RATIO <= middle <= MAX_RATIO:
            first = known[int(np.argsort(ratios)[len(ratios) // 2])]
            raise FeatureError(
                f"The features come to {middle:.3g} times the annotated durations (for example {first.local_path()}: "
                f"{self._count(first)} features, {first.duration:g} s): processor.feature_stride={stride:g} or "
                f"feature_rate is not theirs. A feature every {stride / middle:.3g} frames would fit."
            )
        if off := [v.video_id for v, ratio in zip(known, ratios, strict=True) if abs(np.log(ratio)) > SAME_SHARE]:
            logger.warning(
                "the features of %d of %d videos are over %d%% shorter or longer than the annotations say: %s",
                len(off), len(known), round(100 * SAME_SHARE), some(off),
            )  # fmt: skip


class FeatureTimelines:
    """How long videos are of which there are features only; it stands where a `TimelineIndex` would.

    Args:
        durations: Seconds by the file of the features.
    """

    def __init__(self, durations: dict[Path, float]):
        self.durations = durations

    def known_duration(self, path: Path) -> float | None:
        """Seconds of a video."""
        return self.durations.get(path)

    def duration(self, path: Path) -> float:
        """Seconds of a video.

        Raises:
            VideoReadError: It is none of those that there are.
        """
        if path not in self.durations:
            raise VideoReadError(f"{path}: not one of the features that were looked at.")
        return self.durations[path]

    def take_new(self) -> dict[str, Any]:
        """Nothing: every process looks at the files itself."""
        return {}

    def add(self, entries: dict[str, Any]) -> None:
        """Does nothing."""

    def save(self) -> None:
        """Does nothing."""


def check_complete(annotations: AnnotationSet, folder: str, max_missing: float) -> None:
    """Refuses a folder that lacks the features of more than a share of the annotated videos.

    Raises:
        FeatureError: It does.
    """
    there = sum(video.path is not None for video in annotations.videos)
    missing = max(annotations.counts.get("missing_file", 0), len(annotations.videos) - there)
    total = there + missing
    if missing > max_missing * total:
        ids = [video.video_id for video in annotations.videos if video.path is None]
        raise FeatureError(
            f"{folder} lacks the features of {missing} of {total} annotated videos{f' ({some(ids)})' if ids else ''}, "
            f"more than the share of {max_missing:g} that may be missing: add them (v_<id> is looked for, too), or "
            "raise data.max_unreadable."
        )
