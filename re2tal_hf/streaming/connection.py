"""The decoded frames of a stream and their times, through lost connections and clocks that jump."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
import torch
from torch import Tensor

from ..video_container import VideoReadError, until_flushed
from ..video_orientation import Orientation, orientation_of
from ..video_pixels import RgbConversion
from ..video_reader import MAX_GROWN_PIXELS
from ..video_timeline import LEAPING_CONTAINERS, MAX_LEAP, MAX_TIME_TOLERANCE, ticks_before_first, ticks_of_frame
from .address import Source

logger = logging.getLogger(__name__)

# Seconds without a frame from which it is said; of a slow camera so many times its usual step.
MIN_GAP, MIN_GAP_FRAMES = 1.0, 3
# Seconds by which a frame may come too late; what is more, is a clock that leaps. Decoders give frames in the order in
# which they are shown, but for what they make of damaged data.
MAX_LATE = 1.0


@dataclass(frozen=True)
class Picture:
    """A decoded frame.

    Attributes:
        start: second of the stream from which it is on screen.
        end: second at which it is not any more, if none follows.
        tolerance: seconds by which times may be rounded.
        starts_part: why it does not go on from the frame before, for people; None where it does.
    """

    start: float
    end: float
    tolerance: float
    starts_part: str | None
    _frame: Any
    _rgb: RgbConversion
    _orientation: Orientation

    def beginning(self, reason: str) -> Picture:
        """The same picture as the first of a part."""
        return replace(self, starts_part=reason)

    def pixels(self) -> Tensor:
        """Uint8 `[1, C, H, W]`, RGB and upright."""
        frame = torch.from_numpy(self._rgb(self._frame))[None]
        return self._orientation.applied_to(frame).permute(0, 3, 1, 2)


class Connection:
    """The pictures of a source, by rising time; what is lost is said in the log.

    Time 0 is that of a `VideoReader`. After a loss it goes on by the clock of this machine.

    Args:
        source: is opened when the first picture is asked for.
        retries: see `Losses`.
        wait: see `Losses`.
    """

    def __init__(self, source: Source, retries: int, wait: float):
        self._source, self._retries, self._wait = source, retries, wait
        self._shape: tuple[RgbConversion, Orientation] | None = None
        self._last: Picture | None = None
        self._seen = 0.0
        self._reason: str | None = None
        self._damaged = 0
        # In a row: until a frame comes.
        self._tries = 0
        self._container: Any = None

    def __iter__(self) -> Iterator[Picture | None]:
        """Yields pictures, and None where the source is lost and before it is waited for."""
        try:
            yield from self._pictures()
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the source."""
        if self._container is not None:
            self._container.close()
            self._container = None
        self._source.close()

    def _pictures(self) -> Iterator[Picture | None]:
        name = self._source.name
        try:
            self._container, stream = self._source.connect()
        except (av.error.FFmpegError, OSError) as error:
            raise VideoReadError(f"{name}: cannot be opened as a video ({_reason(error)}); check it.") from error
        while True:
            reason = "it ended"
            try:
                for picture in self._of_container(self._container, stream):
                    self._last, self._seen, self._tries = picture, time.monotonic(), 0
                    yield picture
            except (av.error.FFmpegError, OSError) as error:
                reason = _reason(error)
                if not self._source.is_repeatable and self._last is not None:
                    yield None
                    raise VideoReadError(
                        f"{name}: broke off at {self._end:.2f} s ({reason}); what follows is missing."
                    ) from error
            if self._last is None:
                raise VideoReadError(f"{name}: no frame of it can be decoded; give another source.")
            if not self._source.is_repeatable:
                return
            self.close()
            logger.warning("%s: lost at %.2f s (%s).", name, self._end, reason)
            yield None
            if (reopened := self._reopened(reason)) is None:
                return
            self._container, stream = reopened

    def _reopened(self, reason: str) -> tuple[Any, Any] | None:
        """The source after a loss; None if it was stopped meanwhile."""
        while self._tries < self._retries:
            self._tries += 1
            if self._source.wait(self._wait):
                return None
            try:
                opened = self._source.connect(again=True)
            except (av.error.FFmpegError, OSError, VideoReadError) as error:
                reason = _reason(error)
                continue
            self._reason = "the connection was lost"
            return opened
        raise VideoReadError(
            f"{self._source.name}: lost at {self._end:.2f} s, and {self._retries} tries did not bring it back "
            f"({reason})."
        )

    @property
    def _end(self) -> float:
        return 0.0 if self._last is None else self._last.end

    def _of_container(self, container: Any, stream: Any) -> Iterator[Picture]:
        """The pictures of one connection."""
        stream.codec_context.options = {"max_pixels": str(max(MAX_GROWN_PIXELS, stream.width * stream.height))}
        clock = _Clock(container, stream, self._source.is_repeatable)
        for frame in self._decoded(container, stream):
            if self._shape is None:
                self._shape = RgbConversion(frame.width, frame.height), orientation_of(frame, self._source.name)
            waited = time.monotonic() - self._seen
            times = clock.times(frame, self._end, waited, self._reason if self._last is not None else None)
            if times is None:
                self._damaged += 1
                continue
            self._tell_damaged()
            start, end, jump = times
            reason = self._reason or jump
            self._reason = None
            if reason:
                logger.warning("%s: at %.2f s %s; goes on at %.2f s.", self._source.name, self._end, reason, start)
            elif self._last is not None and start - self._end > max(MIN_GAP, MIN_GAP_FRAMES * clock.usual):
                logger.warning("%s: no frames from %.2f s to %.2f s.", self._source.name, self._end, start)
            yield Picture(start, end, clock.tolerance, reason, frame, *self._shape)

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames without those that do not decode."""
        try:
            for packet in until_flushed(container.demux(stream)):
                yield from self._intact(packet.decode)
        except (av.error.FFmpegError, OSError):
            # What the decoder still holds had come before.
            yield from self._intact(stream.decode)
            raise

    def _intact(self, decode: Callable[[], list[Any]]) -> list[Any]:
        try:
            frames = decode()
        except av.error.InvalidDataError:
            self._damaged += 1
            return []
        intact = [frame for frame in frames if not frame.is_corrupt]
        self._damaged += len(frames) - len(intact)
        return intact

    def _tell_damaged(self) -> None:
        # What comes before the first keyframe of a broadcast is nobody's loss.
        if self._damaged and self._last is not None:
            text = "%s: %d frames after %.2f s are damaged or out of order."
            logger.warning(text, self._source.name, self._damaged, self._end)
        self._damaged = 0


class _Clock:
    """Ticks of a connection as seconds of the stream."""

    def __init__(self, container: Any, stream: Any, is_live: bool):
        self._container, self._stream, self._is_live = container, stream, is_live
        self._tick = stream.time_base
        self._leaps = container.format.name.split(",")[0] in LEAPING_CONTAINERS or is_live
        self._frame_ticks = ticks_of_frame(stream)
        # The tick of the start of this part, and the second of the stream that it is.
        self._origin: float | None = None
        self._offset = 0.0
        self._due = self._newest = 0
        self.usual = float(self._frame_ticks * self._tick)
        self.tolerance = min(float(self._tick) / 2, MAX_TIME_TOLERANCE) + 1e-9

    def times(self, frame: Any, end: float, waited: float, lost: str | None) -> tuple[float, float, str | None] | None:
        """Start and end of a frame, and how the clock jumped before it; None for one that comes too late.

        Args:
            frame: decoded.
            end: second of the stream at which the frame before ends.
            waited: seconds since it came.
            lost: why this connection is not the first; None if it is.
        """
        stamp = self._due if frame.pts is None else frame.pts
        jump = None
        if self._origin is None:
            self._origin = float(stamp)
            if lost is None:
                self._origin -= ticks_before_first(self._container, self._stream, stamp)
            else:
                self._offset = end + waited
        else:
            step = float((stamp - self._due) * self._tick)
            back = float((self._newest - stamp) * self._tick)
            if back > MAX_LATE or step > MAX_LEAP:
                jump = f"its clock leaps by {step:.1f} s"
                is_gap = step > 0 and not self._leaps
                self._offset = end + (step if is_gap else waited if self._is_live else 0.0)
                self._origin = float(stamp)
            elif stamp <= self._newest:
                return None
        self._newest = stamp
        self._due = stamp + (frame.duration or self._frame_ticks)
        return self._seconds(stamp), self._seconds(self._due), jump

    def _seconds(self, stamp: int) -> float:
        ticks = stamp - (self._origin or 0.0)
        # As a `Timeline` rounds it, once: the end becomes the duration of the video.
        return self._offset + ticks * self._tick.numerator / self._tick.denominator


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
