"""The model of the service on one video: limits first, then the pipeline, and errors in words for who sent it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.video_limits import VideoError, VideoLimits, describe
from ..finite import NotFiniteError
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..video_reader import VideoReadError
from .jobs import Progress


class Localizer:
    """Finds the actions of videos, one at a time.

    Args:
        pipe: Of a model that takes videos.
        limits: For videos.
        settings: Of the pipeline, for every video: `batch_size`, `exact`.
    """

    def __init__(self, pipe: TemporalActionLocalizationPipeline, limits: VideoLimits, settings: dict[str, Any]):
        self._pipe = pipe
        self._limits = limits
        self._settings = settings

    def __call__(self, path: Path, name: str, settings: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """Returns the detections that `re2tal predict` finds.

        Args:
            path: Of the file.
            name: What messages call it.
            settings: Of the pipeline, for this video: `threshold`, `top_k`.
            progress: Takes the windows done and all of them.

        Raises:
            VideoError: if the video is beyond the limits or cannot be read, or the model has diverged.
        """
        self._limits.check(path, name)
        try:
            return self._pipe(path, progress=progress, **self._settings, **settings)
        except VideoReadError as error:
            raise VideoError(describe(error, path, name)) from error
        except NotFiniteError as error:
            raise VideoError("What the model puts out is not finite: its training has diverged.") from error
