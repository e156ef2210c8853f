"""How large a video may be that a stranger sends, compared before more than its first frame is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av

from ..video_container import open_stream
from ..video_reader import VideoReader, VideoReadError

MAX_SIDE = 4096
MAX_STREAMS = 32
# Sound and subtitles beside the frames, of all streams.
PACKETS_PER_FRAME = 10


class VideoError(ValueError):
    """A video that is not taken; the message is for who sent it."""


@dataclass(frozen=True)
class VideoLimits:
    """What is taken: seconds, megabytes, frames and gigapixels (frames times width times height) of a video."""

    max_seconds: float
    max_megabytes: float
    max_frames: int
    max_gigapixels: float

    def check(self, path: str | Path, name: str | None = None) -> float:
        """Compares a video with the limits; nothing but its first frame is decoded, and that of no larger one.

        Args:
            path: Of the file.
            name: What messages call it; the file's own name by default.

        Returns:
            Its duration in seconds.

        Raises:
            VideoError: if it is beyond a limit or cannot be read as a video.
        """
        name = Path(path).name if name is None else name
        if not Path(path).is_file():
            raise VideoError(f"{name} is no longer here; send it again.")
        if (megabytes := Path(path).stat().st_size / 2**20) > self.max_megabytes:
            raise VideoError(f"{name} has {megabytes:.0f} MB; up to {self.max_megabytes:g} MB are taken here.")
        try:
            self._check_extent(name, _measure(path, name, self.max_frames))
            with VideoReader(path) as reader:
                duration = reader.duration
        except VideoReadError as error:
            raise VideoError(describe(error, path, name)) from error
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
            raise VideoError(f"{name} has too many streams beside its pictures; up to {MAX_STREAMS} are taken here.")
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
            f"{name} {what}; taken here are up to {self}. Cut the video or make its frames smaller, or run this "
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


def _measure(path: str | Path, name: str, max_frames: int) -> _Extent:
    """Counts packets, no further than limits reach; a header may claim anything."""
    container, stream = open_stream(path, name)
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
        raise VideoReadError(f"{name}: the file is damaged ({error.strerror}); replace it or leave it out.") from error
    return _Extent(width, height, num_streams, num_frames, num_packets, seconds)


def describe(error: VideoReadError, path: str | Path, name: str | None = None) -> str:
    """The message of a reader without the folders of this machine: the file has its own name, or the one given."""
    return str(error).replace(str(path), Path(path).name if name is None else name)


def minutes(seconds: float) -> str:
    """A duration for people to read, such as `10:00 minutes`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"
