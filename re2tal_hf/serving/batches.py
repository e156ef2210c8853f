"""Batches: windows that go through the model together, those of several videos where one does not fill a batch."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from .localizer import Localizer, Output, VideoWindow
from .tasks import Take, Task


@dataclass(eq=False)
class _Video:
    """A task under way.

    Attributes:
        windows: Those that are not read yet.
        outputs: Of the model, for those that it has seen.
        count: All windows; 0 before the first is read.
        over: Whether the task was told its end.
    """

    task: Task
    windows: Generator[VideoWindow, None, None]
    outputs: list[Output] = field(default_factory=list)
    count: int = 0
    over: bool = False

    def fail(self, error: Exception, surely: bool = True) -> None:
        self.over = True
        self.windows.close()
        self.task.fail(error, surely)


Batch = list[tuple[_Video, VideoWindow]]


class Batches:
    """Works on tasks: their windows fill batches in the order in which tasks and windows come.

    A task is taken when all windows of those before it are read and the batch has room, so that a video of many windows
    is worked on alone but for its first and last batch. It ends when its own windows are through. What is wrong with
    a file is told to its own task.

    Args:
        localizer: Reads windows, runs the model, and says how many windows go together.
    """

    def __init__(self, localizer: Localizer):
        self._localizer = localizer

    def __call__(self, take: Take) -> None:
        """Works until there is nothing to take; see `Work`."""
        reading: _Video | None = None
        while True:
            batch, reading = self._fill(reading, take)
            if not batch:
                return
            self._through_the_model(batch)
            if reading is not None and reading.over:
                reading = None

    def _fill(self, reading: _Video | None, take: Take) -> tuple[Batch, _Video | None]:
        """The next batch, and the video that has more windows than went into it."""
        batch: Batch = []
        while len(batch) < self._localizer.batch_size:
            if reading is None:
                if (task := take()) is None:
                    break
                reading = _Video(task, self._localizer.windows(task.path, task.name))
            if (window := self._read(reading)) is None:
                batch = [(video, other) for video, other in batch if video is not reading]
                reading = None
                continue
            batch.append((reading, window))
            if window.number == window.count:
                reading.windows.close()  # which closes the file
                reading = None
        return batch, reading

    def _read(self, video: _Video) -> VideoWindow | None:
        """The next window of a video; None if that does not come, which the task is told."""
        try:
            video.task.report(len(video.outputs), video.count)
            window = next(video.windows)
        except Exception as error:
            video.fail(error)
            return None
        video.count = window.count
        return window

    def _through_the_model(self, batch: Batch) -> None:
        videos = list(dict.fromkeys(video for video, _ in batch))
        try:
            outputs = self._localizer.forward([window for _, window in batch])
        except Exception as error:
            for video in videos:
                video.fail(error, len(videos) == 1)
            return
        for (video, _), output in zip(batch, outputs, strict=True):
            video.outputs.append(output)
        for video in videos:
            self._tell(video)

    def _tell(self, video: _Video) -> None:
        """Tells a task how far it is, or its end."""
        found: list[dict[str, Any]] | None = None
        try:
            video.task.report(len(video.outputs), video.count)
            if len(video.outputs) == video.count:
                found = self._localizer.detections(video.outputs, video.task.settings)
        except Exception as error:
            video.fail(error)
            return
        if found is not None:
            video.over = True
            video.task.end(found)
