"""The model of the service: limits first, then the pipeline's steps, and errors in words for who sent the video."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.video_limits import VideoError, VideoLimits, describe
from ..finite import NotFiniteError
from ..pipeline_re2tal import TemporalActionLocalizationPipeline, one_thread
from ..video_reader import VideoReadError
from ..video_source import open_video

Output = dict[str, Any]
"""Of the model for one window, as the pipeline's `postprocess` takes it."""

# Of an output, what has a row for each window.
ROWS = ("logits", "pred_segments", "point_mask")


@dataclass(frozen=True, eq=False)
class VideoWindow:
    """A window of a video, read.

    Attributes:
        inputs: As the pipeline's `preprocess` yields it.
        number: Which of the windows it is, from 1.
        count: All windows of the video.
    """

    inputs: dict[str, Any]
    number: int
    count: int


class Localizer:
    """Finds the actions of videos, in the steps of the pipeline, so that windows of several may go together.

    Args:
        pipe: Of a model that takes videos.
        limits: For videos.
        batch_size: Windows that go through the model together.
        exact: The same to the bit for any `batch_size` and number of threads: windows go one by one, on one thread.

    Attributes:
        batch_size: 1 with `exact`.
    """

    def __init__(
        self, pipe: TemporalActionLocalizationPipeline, limits: VideoLimits, batch_size: int = 1, exact: bool = False
    ):
        self._pipe = pipe
        self._limits = limits
        self._threads = one_thread if exact else contextlib.nullcontext
        self.batch_size = 1 if exact else batch_size

    def windows(self, path: Path, name: str) -> Generator[VideoWindow, None, None]:
        """Yields the windows of a video, each read when it is asked for.

        Args:
            path: Of the file; open until the last window is taken or the generator is closed.
            name: What messages call it.

        Raises:
            VideoError: if the video is beyond the limits or cannot be read.
        """
        self._limits.check(path, name)
        try:
            with self._threads(), open_video(path) as source:
                for inputs in self._pipe.preprocess(source):
                    yield VideoWindow(inputs, *inputs["counts"])
        except VideoReadError as error:
            raise VideoError(describe(error, path, name)) from error

    def forward(self, windows: Sequence[VideoWindow]) -> list[Output]:
        """Returns the model's outputs for windows, which go through it together where their frames are of one size."""
        outputs: dict[int, Output] = {}
        sizes = [tuple(window.inputs["frames"][0].shape[1:]) for window in windows]
        with self._threads():
            for size in dict.fromkeys(sizes):
                rows = [row for row, other in enumerate(sizes) if other == size]
                alike = [windows[row].inputs for row in rows]
                joined = {name: [item for one in alike for item in one[name]] for name in ("frames", "windows")}
                output = self._pipe.forward({**joined, "is_last": False})
                for place, row in enumerate(rows):
                    parts = {name: output[name][place : place + 1] for name in ROWS}
                    outputs[row] = {**parts, "windows": windows[row].inputs["windows"]}
        return [outputs[row] for row in range(len(windows))]

    def detections(self, outputs: list[Output], settings: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the detections that `re2tal predict` finds.

        Args:
            outputs: For all windows of a video, in their order.
            settings: Of the pipeline, for this video: `threshold`, `top_k`.

        Raises:
            VideoError: if the model has diverged.
        """
        try:
            with self._threads():
                return self._pipe.postprocess(outputs, **settings)
        except NotFiniteError as error:
            raise VideoError("What the model puts out is not finite: its training has diverged.") from error
