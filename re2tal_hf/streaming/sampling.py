"""Frames of a stream at the times at which a model sees them, and the windows that they make."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..video_processing_re2tal import Re2TALVideoProcessor
from .connection import Picture


@dataclass(frozen=True)
class PartStart:
    """From here on the stream is a video of its own.

    Attributes:
        offset: seconds of the stream at which it starts.
        reason: why, for people; empty at the start of the stream.
    """

    offset: float
    reason: str = ""


@dataclass(frozen=True)
class PartEnd:
    """The end of such a video.

    Attributes:
        duration: seconds of it.
    """

    duration: float


Sampled = Tensor | PartStart | PartEnd
"""A frame, uint8 `[C, H, W]`, as the model gets it, or the start or the end of a part of the stream."""


def sampled(pictures: Iterable[Picture | None], processor: Re2TALVideoProcessor) -> Iterator[Sampled]:
    """Takes the frames that are on screen at the processor's frame rate, resized and cropped.

    It gives the frames that `windows` of the processor and a `VideoReader` give of a file.

    Args:
        pictures: decoded frames in the order in which they are shown; None where a part ends.
        processor: of the model.
    """
    sampler = _Sampler(processor)
    for picture in pictures:
        yield from sampler.end() if picture is None else sampler.take(picture)
    yield from sampler.end()


class _Sampler:
    """Counts the frames of a part."""

    def __init__(self, processor: Re2TALVideoProcessor):
        self._processor = processor
        self._shown: Picture | None = None
        self._frame: Tensor | None = None
        self._count, self._base = 0, 0.0
        self._is_first = True

    def take(self, picture: Picture) -> Iterator[Sampled]:
        """What is sampled before a picture is on screen."""
        if self._shown is None or picture.starts_part is not None:
            yield from self.end()
            # The start of the stream lies before its first frame where sound leads.
            self._count, self._base = 0, 0.0 if self._is_first else picture.start
            self._is_first = False
            yield PartStart(self._base, picture.starts_part or "")
        else:
            rate = self._processor.frame_rate
            while self._base + self._count / rate + picture.tolerance < picture.start:
                yield self._next()
        self._shown, self._frame = picture, None

    def end(self) -> Iterator[Sampled]:
        """What is sampled of the last frame of a part, and its end."""
        if self._shown is not None:
            duration = self._shown.end - self._base
            while self._count < max(1, math.ceil(duration * self._processor.frame_rate - 1e-6)):
                yield self._next()
            self._shown = None
            yield PartEnd(duration)

    def _next(self) -> Tensor:
        assert self._shown is not None
        if self._frame is None:
            self._frame = self._processor.resize_and_crop(self._shown.pixels())[0]
        self._count += 1
        return self._frame


class WindowGrid:
    """The windows that `Re2TALVideoProcessor.split` plans for a file, as its frames come in.

    Args:
        num_frames: of a window.
        step: frames from the start of one window to that of the next.
    """

    def __init__(self, num_frames: int, step: int):
        self._num_frames, self._step = num_frames, step
        self._frames: deque[Tensor] = deque(maxlen=num_frames)
        self._count = 0
        self._next = 0
        self._last: int | None = None

    def add(self, frame: Tensor) -> tuple[int, Tensor] | None:
        """Takes a frame; returns first frame and frames `[T, C, H, W]` of a window that it completes."""
        self._frames.append(frame)
        self._count += 1
        if self._count < self._next + self._num_frames:
            return None
        self._last = self._next
        self._next += self._step
        return self._window()

    def finish(self) -> tuple[int, Tensor] | None:
        """Returns the window that ends with the video, unless it was the last one returned."""
        return None if self._last == self._count - self._num_frames else self._window()

    def _window(self) -> tuple[int, Tensor]:
        return max(0, self._count - self._num_frames), torch.stack(list(self._frames))
