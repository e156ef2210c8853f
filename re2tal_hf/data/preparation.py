"""A folder of videos made ready for a benchmark: checked against its annotations, and encoded at the working size."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import torch
from tqdm.auto import tqdm

from ..video_reader import VideoReader, VideoReadError
from ..video_shard import locate
from .annotation_set import AnnotatedVideo
from .durations import known_durations, same_duration
from .json_files import read_json
from .timeline_index import TimelineIndex
from .whole_files import written_whole

MISSING = ("missing", "unreadable")
"""Findings after which there is no video to work with."""
SETTINGS_FILE = "prepared.json"
# A file may count a frame more or less, and NTSC's 29.97 is written 30.
_SAME_RATE = 0.01
_FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Finding:
    """What is wrong with a video.

    Attributes:
        video_id: Of which.
        kind: "missing", "unreadable", "duration" or "frame rate".
        text: Says it, for a person.
    """

    video_id: str
    kind: str
    text: str


@dataclass(frozen=True)
class Encoding:
    """How videos are encoded.

    Attributes:
        frame_rate: Frames a second.
        shorter_edge: In pixels; smaller videos keep their size.
    """

    frame_rate: float
    shorter_edge: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frames of a video of this size; even, as its codec needs them."""
        scale = min(1.0, self.shorter_edge / min(height, width))
        even_height, even_width = (max(2, 2 * round(length * scale / 2)) for length in (height, width))
        return even_height, even_width


def check_videos(videos: Sequence[AnnotatedVideo], timelines: TimelineIndex | None = None) -> list[Finding]:
    """Holds video files against what their annotations say of them.

    Args:
        videos: Of which those without a path are missing.
        timelines: See `known_durations`.

    Returns:
        In the order of the videos.
    """
    timelines = timelines or TimelineIndex()
    here = [video for video in videos if video.path is not None]
    durations = dict(zip((video.video_id for video in here), known_durations(here, timelines), strict=True))
    timelines.save()
    return [finding for video in videos for finding in _findings(video, durations.get(video.video_id), timelines)]


def _findings(
    video: AnnotatedVideo, duration: float | VideoReadError | None, timelines: TimelineIndex
) -> Iterator[Finding]:
    if duration is None:
        yield Finding(video.video_id, "missing", "no file of this name")
        return
    try:
        if isinstance(duration, VideoReadError):
            raise duration
        with timelines.open(video.local_path(), "pyav") as reader:
            rate = reader.frame_rate
    except VideoReadError as error:
        yield Finding(video.video_id, "unreadable", str(error))
        return
    if video.duration is not None and not same_duration(video.duration, duration):
        yield Finding(video.video_id, "duration", f"{duration:.2f} s, and {video.duration:.2f} s in the annotations")
    if video.frame_rate is not None and abs(rate / video.frame_rate - 1) > _SAME_RATE:
        text = f"{rate:.2f} frames a second, and {video.frame_rate:.2f} in the annotations"
        yield Finding(video.video_id, "frame rate", text)


def encode(source: Path, target: Path, encoding: Encoding) -> None:
    """Writes a video at another frame rate and size, as H.264 and without sound.

    Frame n is the one that is on screen at n / `frame_rate` seconds, which is what would be read of the video itself.

    Args:
        source: A video.
        target: An MP4 file; it is there as a whole or not at all.
        encoding: How.

    Raises:
        VideoReadError: The video cannot be read.
        OSError: The file cannot be written.
    """
    with VideoReader(source) as probe:
        size = encoding.size(probe.height, probe.width)
    rate = Fraction(encoding.frame_rate).limit_denominator(1001)
    target.parent.mkdir(parents=True, exist_ok=True)
    with VideoReader(source, size=size) as reader, written_whole(target) as partial:
        count = max(1, round(reader.duration * rate))
        with av.open(str(partial), "w", format="mp4") as container:
            # Training seeks: a keyframe every two seconds.
            options = {"preset": "fast", "crf": "20", "g": str(round(2 * rate) or 1)}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            for first in range(0, count, _FRAMES_AT_ONCE):
                times = [float(number / rate) for number in range(first, min(first + _FRAMES_AT_ONCE, count))]
                for frame in reader.frames_at(times).permute(0, 2, 3, 1).contiguous().numpy():
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


def check_encoding(folder: Path, encoding: Encoding) -> None:
    """Raises a `ValueError` if a folder holds videos of another encoding."""
    file, settings = folder / SETTINGS_FILE, asdict(encoding)
    if file.exists() and (there := read_json(file, json.dumps(settings))) != settings:
        raise ValueError(
            f"{folder} holds videos of {there}, not {settings}: choose another --output, or give the same."
        )


def encode_all(
    sources: dict[Path, Path], folder: Path, encoding: Encoding, processes: int
) -> dict[Path, VideoReadError]:
    """Encodes videos into a folder, several at a time; those that are there already, whole and newer, are kept.

    Args:
        sources: Video by its name in the folder.
        folder: Which remembers the encoding, so that one is not continued in another.
        encoding: How.
        processes: How many videos at a time.

    Returns:
        By their names, videos that cannot be read, and why.

    Raises:
        ValueError: The folder holds videos of another encoding.
        OSError: It cannot be written to.
    """
    check_encoding(folder, encoding)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / SETTINGS_FILE) as partial:
        partial.write_text(json.dumps(asdict(encoding)) + "\n", encoding="utf-8")
    left = {name: source for name, source in sources.items() if not _is_newer(folder / name, source)}
    unreadable: dict[Path, VideoReadError] = {}
    if not left:
        return unreadable
    # Threads of a library do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(left)), context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        works = {pool.submit(encode, source, folder / name, encoding): name for name, source in left.items()}
        for work in tqdm(as_completed(works), "encoding videos", len(sources), initial=len(sources) - len(left)):
            error = work.exception()
            if isinstance(error, VideoReadError):
                unreadable[works[work]] = error
            elif error is not None:
                raise error
    finally:
        pool.shutdown(cancel_futures=True)
    return unreadable


def _is_newer(target: Path, source: Path) -> bool:
    return target.exists() and (there := locate(source)) is not None and os.stat(target).st_mtime_ns >= there.changed
