"""Small videos for tests: every frame shows its own number, so that a decoded frame can be told."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

BITS = 8


def numbered_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [count, height, width, 3]: a vertical bar for each bit of the number, over a drift."""
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 60, height, dtype=np.uint8)[:, None]
    for number in range(count):
        bits = [(number >> bit) & 1 for bit in range(BITS)]
        bars = np.repeat(bits, -(-width // BITS))[:width]
        frames[number] = (bars * 180 + np.roll(ramp, number, axis=0))[..., None]
        frames[number, ..., 2] //= 2
    return frames


def frame_numbers(frames: torch.Tensor) -> list[int]:
    """The numbers that decoded frames [T, C, H, W] show."""
    width = -(-frames.shape[-1] // BITS)
    bars = frames[:, 1].float().mean(dim=1).split(width, dim=-1)
    bits = torch.stack([bar.mean(dim=-1) > 120 for bar in bars[:BITS]], dim=-1)
    return (bits.long() * 2 ** torch.arange(BITS)).sum(dim=-1).tolist()


def write_video(
    path: Path | Any,
    frames: np.ndarray,
    frame_rate: float = 25,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    timestamps: list[float] | None = None,
    display_matrix: tuple[float, float, float, float] | None = None,
    keyframe_interval: int = 12,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes RGB frames [T, H, W, 3] to a file, or to any object with a `write` method.

    `timestamps` (seconds) make the frame rate variable; the last frame is then as long as one at
    `frame_rate`.
    """
    time_base = Fraction(1, 90_000) if timestamps else 1 / Fraction(frame_rate)
    file = path if hasattr(path, "write") else str(path)
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=Fraction(frame_rate), options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = keyframe_interval
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1  # the same file on every machine
        if display_matrix is not None:
            a, b, c, d = (round(number * 2**16) for number in display_matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 2**30])
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = time_base
            frame.pts = round(timestamps[number] / time_base) if timestamps else number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


class Pipe:
    """A file that can only be written to, as the end of a shell pipe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
