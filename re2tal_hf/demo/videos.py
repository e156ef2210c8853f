"""Copies of video files that every browser plays."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..video_container import open_stream
from ..video_reader import VideoReader

COPY_SIDE = 854
COPY_FRAME_RATE = 30.0
FRAMES_AT_ONCE = 16

Paint = Callable[[np.ndarray, float], np.ndarray]
Progress = Callable[[int, int], None]


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
