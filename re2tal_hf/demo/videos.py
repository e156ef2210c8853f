"""Video files of visitors: what is taken, and copies that every browser plays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..video_container import open_stream
from ..video_reader import VideoReader, VideoReadError

MAX_SIDE = 4096
MAX_STREAMS = 32
# Sound and subtitles beside the frames, of all streams.
PACKETS_PER_FRAME = 10
COPY_SIDE = 854
COPY_FRAME_RATE = 30.0
FRAMES_AT_ONCE = 16

Paint = Callable[[np.ndarray, float], np.ndarray]
Progress = Callable[[int, int], None]


class VideoError(ValueError):
    """A video that the page does not take; the message is for the visitor who sent it."""


@dataclass(frozen=True)
class VideoLimits:
    """What the page takes: seconds, megabytes, frames and gigapixels (frames times width times height) of a video."""

    max_seconds: float
    max_megabytes: float
    max_frames: int
    max_gigapixels: float

    def check(self, path: str | Path) -> float:
        """Compares a video with the limits; nothing but its first frame is decoded, and that of no larger one.

        Returns:
            Its duration in seconds.

        Raises:
            VideoError: if it is beyond a limit or cannot be read as a video.
        """
        name = Path(path).name
        if not Path(path).is_file():
            raise VideoError(f"{name} is no longer here; send it again.")
        if (megabytes := Path(path).stat().st_size / 2**20) > self.max_megabytes:
            raise VideoError(f"{name} has {megabytes:.0f} MB; this page takes up to {self.max_megabytes:g} MB.")
        try:
            self._check_extent(name, _measure(path, self.max_frames))
            with VideoReader(path) as reader:
                duration = reader.duration
        except VideoReadError as error:
            raise VideoError(describe(error, path)) from error
        if duration > self.max_seconds:
            raise self._too_large(name, f"lasts {minutes(duration)}")
        return duration

    def __str__(self) -> str:
        return (
            f"{minutes(self.max_seconds)}, {self.max_megabytes:g} MB, {self.max_frames:,} frames, {MAX_SIDE} pixels a "
            f"side and {self.max_gigapixels:g} gigapixels (frames x width x height)"
        )

    def _check_extent(self, name: str, extent: _Extent) -> None:
        gigapixels = extent.num_frames * extent.width * extent.height / 1e9
        sizes = f"{extent.num_frames:,} frames of {extent.width}x{extent.height}"
        if extent.num_streams > MAX_STREAMS or extent.num_packets > PACKETS_PER_FRAME * self.max_frames:
            raise VideoError(f"{name} has too many streams beside its pictures; this page takes up to {MAX_STREAMS}.")
        if extent.num_frames > self.max_frames:
            raise self._too_large(name, f"has more than {self.max_frames:,} frames")
        if max(extent.width, extent.height) > MAX_SIDE:
            raise self._too_large(name, f"has {sizes}")
        if gigapixels > self.max_gigapixels:
            raise self._too_large(name, f"has {sizes}: {gigapixels:.3g} gigapixels")
        if extent.seconds > self.max_seconds:
            raise self._too_large(name, f"lasts {minutes(extent.seconds)}")

    def _too_large(self, name: str, what: str) -> VideoError:
        return VideoError(
            f"{name} {what}; this page takes up to {self}. Cut the video or make its frames smaller, or run the page "
            "yourself with larger limits."
        )


@dataclass(frozen=True)
class _Extent:
    """How much there is in a file: what its header says of a frame, and what its packets say of time."""

    width: int
    height: int
    num_streams: int
    num_frames: int
    num_packets: int
    seconds: float


def _measure(path: str | Path, max_frames: int) -> _Extent:
    """Counts packets, no further than limits reach; a header may claim anything."""
    container, stream = open_stream(path, Path(path).name)
    num_frames = num_packets = 0
    first, last = math.inf, -math.inf
    try:
        with container:
            width, height, num_streams = stream.width, stream.height, len(container.streams)
            for packet in container.demux() if num_streams <= MAX_STREAMS else ():
                num_packets += 1
                if packet.stream_index == stream.index and packet.size:
                    num_frames += 1
                    time = packet.dts if packet.pts is None else packet.pts
                    if time is not None:
                        first, last = min(first, time), max(last, time + (packet.duration or 0))
                if num_frames > max_frames or num_packets > PACKETS_PER_FRAME * max_frames:
                    break
            seconds = float(max(0, last - first) * (stream.time_base or 0)) if num_frames else 0.0
    except av.error.FFmpegError as error:
        raise VideoReadError(f"{path}: the file is damaged ({error.strerror}); replace it or leave it out.") from error
    return _Extent(width, height, num_streams, num_frames, num_packets, seconds)


def describe(error: VideoReadError, path: str | Path) -> str:
    """The message of a reader without the folders of this machine."""
    return str(error).replace(str(path), Path(path).name)


def minutes(seconds: float) -> str:
    """A duration for people to read, such as `10:00 minutes`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"


def is_playable(path: str | Path) -> bool:
    """Whether browsers play a file as it is, from the reader's time 0: 8-bit H.264 in MP4."""
    if Path(path).suffix.lower() not in (".mp4", ".m4v"):
        return False
    container, stream = open_stream(path, Path(path).name)
    with container:
        codec = stream.codec_context
        start = (container.start_time or 0) / av.time_base
        return (
            "mp4" in container.format.name.split(",")
            and codec.name == "h264"
            and codec.pix_fmt in ("yuv420p", "yuvj420p")
            and abs(start) < 0.5 / COPY_FRAME_RATE
        )


def write_copy(
    source: str | Path, target: str | Path, *, paint: Paint | None = None, progress: Progress | None = None
) -> None:
    """Writes a video anew as H.264 in MP4: upright, silent, at most 854 pixels a side and 30 frames per second.

    Args:
        source: any video.
        target: `.mp4`; its time 0 is that of `source`.
        paint: maps a frame, uint8 `[H, W, 3]`, and its time in seconds to the frame to be written.
        progress: called with the number of frames written and of all.

    Raises:
        VideoReadError: if a frame of `source` does not decode; then there is no `target`.
    """
    with VideoReader(source) as probe:
        scale = min(1.0, COPY_SIDE / max(probe.height, probe.width))
        size = (_even(probe.height * scale), _even(probe.width * scale))
    try:
        with VideoReader(source, size=size) as reader, av.open(str(target), "w") as container:
            _encode(reader, container, size, paint, progress)
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise


def _encode(
    reader: VideoReader,
    container: av.container.OutputContainer,
    size: tuple[int, int],
    paint: Paint | None,
    progress: Progress | None,
) -> None:
    rate = Fraction(min(reader.frame_rate, COPY_FRAME_RATE)).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    count = max(1, round(reader.duration * rate))
    for first in range(0, count, FRAMES_AT_ONCE):
        # The middle of a frame's time is inside it however its start is rounded.
        times = [float((number + Fraction(1, 2)) / rate) for number in range(first, min(first + FRAMES_AT_ONCE, count))]
        frames = reader.frames_at(times).permute(0, 2, 3, 1).numpy()
        for frame, time in zip(frames, times, strict=True):
            picture = np.ascontiguousarray(frame if paint is None else paint(frame, time))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if progress is not None:
            progress(first + len(times), count)
    container.mux(stream.encode())


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))
