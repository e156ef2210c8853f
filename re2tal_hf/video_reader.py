"""Frames of a video file at given times, decoded as they are asked for and never the whole file.

PyAV reads the timestamps of all packets once (nothing is decoded for that), so the file itself
answers every question about time, not its header. torchcodec then decodes where it loads and PyAV
where it does not; both give the same pixels.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import av
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from .value_checks import Range, check_value, shown, suggesting
from .video_container import VideoReadError, bytes_of, describe, open_stream, until_flushed
from .video_orientation import orientation_of
from .video_pixels import RgbConversion
from .video_timeline import Timeline, read_timeline, tell

logger = logging.getLogger(__name__)

# Decoded bytes held before they are resized: bounds the memory whatever the frame size.
BATCH_BYTES = 16 * 2**20
# The frames of the last call are kept for the overlap with the next one, up to this size.
KEPT_BYTES = 256 * 2**20
# Frames may grow within a stream, whatever its header says; larger ones, which no camera makes, do not decode.
MAX_GROWN_PIXELS = 4096 * 4096
# torchcodec opens a file with an FFmpeg of its own that cannot be told which containers are allowed. It gets what
# begins so, by name of the container: no playlist does, nor anything else that names other files. And not MPEG-TS,
# where it returns other pixels after a seek (HEVC with open groups of pictures, torchcodec 0.17 on FFmpeg 5.1).
SIGNATURES = {"mov": b"\0", "matroska": b"\x1a\x45\xdf\xa3"}

SIZE = Range(1, 2**13, length=2)
MAX_THREADS = 256

Resize = Callable[[Tensor], Tensor]
Backend = Literal["auto", "torchcodec", "pyav"]


def checked_times(name: str, times: Any) -> np.ndarray:
    """Times as float64 `[T]`; a `ValueError` names the video if they are not one or more finite numbers."""
    try:
        seconds = np.asarray(times)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors on a device
        seconds = np.empty(0)
    if seconds.ndim != 1 or seconds.dtype.kind not in "iuf" or not len(seconds) or not np.isfinite(seconds).all():
        raise ValueError(f"{name}: times is {shown(times)}; it must be one or more finite numbers of seconds.")
    return seconds.astype(np.float64)


class VideoReader:
    """The frames of one video by time.

    Time 0 is where a player starts: at the first frame, or at the sound where that comes first;
    the first frame is on screen until the second. Rotation and mirroring are applied. Which frame
    is shown at a time does not depend on what was read before. Threads may share a reader: they
    read in turn.

    A window that overlaps the one read before it decodes only what is new; any other goes back to
    the keyframe before it. (Where frames are not told by a time of their own, in AVI with B-frames,
    MPEG program streams, raw streams and recordings that were joined, going back means to the start
    of the file.)

    Only containers that hold everything themselves are opened, see `video_container`.

    Damaged frames raise an error. How much damage is noticed is up to the codec and its decoder:
    PyAV also reports frames which the decoder has patched up, torchcodec has no way to.

    Args:
        source: path of a file or of a member of a shard (see `video_shard`), or the bytes of one.
        backend: "torchcodec" or "pyav"; "auto" is torchcodec, and PyAV where that cannot be loaded
            or cannot read the file.
        size: (height, width) of the frames returned (bilinear, antialiased); None for their own.
        num_threads: threads of the decoder.
        name: what error messages call the video; by default its path, or a description of the bytes.
        timeline: of the file, where it is known: its packets are not read then.

    Attributes:
        name: what error messages call the video.
        timeline: when its frames are on screen.
        backend: the backend in use.
        duration: seconds from time 0 to the end of the last frame.
        frame_rate: mean number of frames per second.
        height: of an upright frame, before resizing.
        width: of an upright frame, before resizing.

    Raises:
        VideoReadError: if the file is missing, empty or not a video, or if its first frame does not
            decode.
        ImportError: if torchcodec is asked for and does not load.
    """

    @suggesting
    def __init__(
        self,
        source: str | Path | bytes,
        *,
        backend: Backend = "auto",
        size: tuple[int, int] | None = None,
        num_threads: int = 1,
        name: str | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        if not isinstance(source, (str, Path, bytes)):
            raise TypeError(f"source is {shown(source)}; it must be the path of a file, or the bytes of one.")
        if not isinstance(backend, str) or backend not in ("auto", "torchcodec", "pyav"):
            raise ValueError(f"backend is {shown(backend)}; choose 'auto', 'torchcodec' or 'pyav'.")
        if timeline is not None and not isinstance(timeline, Timeline):
            raise TypeError(f"timeline is {shown(timeline)}; it must be one that a reader of the file had.")
        size = check_value("size", size, Annotated[list[int] | None, SIZE])
        num_threads = check_value("num_threads", num_threads, Annotated[int, Range(0, MAX_THREADS)])
        check_value("name", name, str | None)
        self._size = None if size is None else (size[0], size[1])
        self._source = source
        self._num_threads = num_threads
        self._kept: dict[int, Tensor] = {}
        self._kept_resize: Resize | None = None
        self._closed = False
        # Decoders crash where two threads are in them; re-entrant for a `resize` that reads.
        self._lock = threading.RLock()
        self.name = describe(source if name is None else name)
        decoder = _PyAVDecoder(source, self.name, num_threads, timeline)
        self._decoder: _PyAVDecoder | _TorchcodecDecoder = decoder
        self.timeline = decoder.timeline
        tell(self.name, self.timeline.remarks)
        self.backend = "pyav"
        self.duration = decoder.timeline.duration
        self.frame_rate = decoder.timeline.frame_rate
        self.height, self.width = decoder.height, decoder.width
        self._may_fall_back = backend == "auto"
        if backend != "pyav":
            self._start_torchcodec(decoder)

    def frames_at(self, times: Sequence[float], *, resize: Resize | None = None) -> Tensor:
        """Decodes the frames on screen at the given times.

        Args:
            times: seconds from the start of the video. Before the start the first frame is on
                screen, after the end the last.
            resize: in place of resizing to `size`: maps uint8 `[N, C, H, W]` to the frames wanted.
                Called with a few frames at a time, so that large ones are never held together.

        Returns:
            uint8 `[T, C, H, W]`, RGB, in the order of `times`.

        Raises:
            ValueError: if there are no times, or one is not finite, or the reader is closed.
            VideoReadError: if a frame does not decode; names its time.
        """
        seconds = checked_times(self.name, times)
        if resize is not None and not callable(resize):
            raise TypeError(f"{self.name}: resize is {shown(resize)}; it must be a function of frames.")
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.name}: the reader is closed; open the video again.")
            return self._frames(self.timeline.frames_at(seconds), resize or self._resize_to_size)

    def _frames(self, indices: np.ndarray, resize: Resize) -> Tensor:
        wanted, places = np.unique(indices, return_inverse=True)
        kept = self._kept if resize == self._kept_resize else {}
        # Written where they belong: of a long video there may be no room for a second copy.
        frames: Tensor | None = None
        for row, frame in self._resized(wanted.tolist(), kept, resize):
            if frames is None:
                frames = frame.new_empty((len(wanted), *frame.shape))
            frames[row] = frame
        assert frames is not None
        is_small = frames.nbytes <= KEPT_BYTES
        self._kept = dict(zip(wanted.tolist(), frames, strict=True)) if is_small else {}
        self._kept_resize = resize
        if is_small or len(places) != len(wanted) or (np.diff(places) < 0).any():
            return frames[torch.from_numpy(places)]
        return frames

    def _resized(self, wanted: list[int], kept: dict[int, Tensor], resize: Resize) -> Iterator[tuple[int, Tensor]]:
        """The frames wanted, each with its place among them; those that are kept come first."""
        rows = {index: row for row, index in enumerate(wanted)}
        for index in (index for index in wanted if index in kept):
            yield rows[index], kept[index]
        for batch in self._batches([index for index in wanted if index not in kept]):
            resized = resize(self._decode(batch))
            if not isinstance(resized, Tensor) or len(resized) != len(batch):
                raise ValueError(f"{self.name}: resize returned {shown(resized)} of {len(batch)} frames.")
            yield from zip((rows[index] for index in batch), resized, strict=True)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._closed = True
            self._kept = {}
            self._decoder.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start_torchcodec(self, decoder: _PyAVDecoder) -> None:
        try:
            self._decoder = _TorchcodecDecoder(self._source, decoder, self._num_threads)
        except (ImportError, VideoReadError) as error:
            if not self._may_fall_back:
                decoder.close()
                raise
            logger.info("%s: read with PyAV (%s)", self.name, error)
        else:
            decoder.close()
            self.backend = "torchcodec"

    def _decode(self, indices: list[int]) -> Tensor:
        try:
            return self._decoder.read(indices)
        except VideoReadError as error:
            if not (self._may_fall_back and self.backend == "torchcodec"):
                raise
            logger.info("read with PyAV from here on: %s", error)
        self._decoder.close()
        self._decoder = _PyAVDecoder(self._source, self.name, self._num_threads, self.timeline)
        self.backend = "pyav"
        return self._decoder.read(indices)

    def _batches(self, indices: list[int]) -> Iterator[list[int]]:
        length = max(1, BATCH_BYTES // (3 * self.height * self.width))
        for first in range(0, len(indices), length):
            yield indices[first : first + length]

    def _resize_to_size(self, frames: Tensor) -> Tensor:
        if self._size is None or frames.shape[-2:] == self._size:
            return frames
        return transforms.resize(frames, list(self._size), antialias=True)


class _PyAVDecoder:
    """Decodes frames by index with PyAV; goes on from where it stands where that is nearer."""

    def __init__(self, source: str | Path | bytes, name: str, num_threads: int, timeline: Timeline | None) -> None:
        self.name = name
        self._source = source
        self._num_threads = num_threads
        self._container: Any = None
        self.timeline = self._read_timeline() if timeline is None else timeline
        self._restart()
        first = self._frame_at(0)
        self._frame_size = (first.width, first.height)
        self._rgb = RgbConversion(*self._frame_size)
        self.orientation = orientation_of(first, name)
        self.height, self.width = self._frame_size[:: 1 if self.orientation.transposed else -1]

    def read(self, indices: list[int]) -> Tensor:
        """Frames uint8 `[N, C, H, W]` (channels last in memory); fastest if indices ascend."""
        width, height = self._frame_size
        frames = torch.empty((len(indices), height, width, 3), dtype=torch.uint8)
        for row, index in enumerate(indices):
            frame = self._frame_at(index)
            try:
                frames[row] = torch.from_numpy(self._rgb(frame))
            except av.error.FFmpegError as error:
                raise self._undecodable(index, f"{frame.format.name} to RGB: {error.strerror}") from error
        return self.orientation.applied_to(frames).permute(0, 3, 1, 2)

    def close(self) -> None:
        """Closes the file."""
        if self._container is not None:
            self._container.close()

    def _read_timeline(self) -> Timeline:
        container, stream = open_stream(self._source, self.name)
        try:
            return read_timeline(self._source, container, stream, self.name)
        except av.error.FFmpegError as error:
            raise VideoReadError(
                f"{self.name}: the file is damaged ({error.strerror}); replace it or leave it out."
            ) from error
        finally:
            container.close()

    def _restart(self) -> None:
        self.close()
        self._container, self._stream = open_stream(self._source, self.name)
        self.container_name = self._container.format.name.split(",")[0]
        self._stream.codec_context.thread_count = self._num_threads
        self._stream.codec_context.thread_type = "AUTO"
        # Codecs store whole blocks of up to 64 pixels.
        announced = (self._stream.width + 63) * (self._stream.height + 63)
        self._stream.codec_context.options = {"max_pixels": str(max(MAX_GROWN_PIXELS, announced))}
        self._decoded = self._frames_from_here()
        self._frame: Any = None
        self._position = -1

    def _frames_from_here(self) -> Iterator[Any]:
        by_count = self.timeline.told_by == "count"
        for frame in until_flushed(self._container.decode(self._stream)):
            if by_count or frame.pts is not None:
                yield frame

    def _frame_at(self, index: int) -> Any:
        try:
            if self.timeline.told_by == "timestamp":
                return self._frame_by_timestamp(index)
            return self._frame_in_turn(index)
        except av.error.FFmpegError as error:
            raise self._undecodable(index, str(error.strerror)) from error

    def _frame_in_turn(self, index: int) -> Any:
        timeline = self.timeline
        if index < self._position:
            self._restart()
        while self._position < index:
            frame = next(self._decoded, None)
            if frame is None or timeline.told_by == "count":
                position: int | None = self._position + 1
            else:
                position = timeline.index_after(self._position, frame.pts)
            if position is None:
                continue  # it precedes the first keyframe of a part
            # XviD packs two frames into a packet and ends with packets that hold none.
            few_left = index - self._position <= self._stream.codec_context.reorder_depth
            if frame is None and timeline.told_by == "count" and few_left and self._frame is not None:
                return self._frame
            self._keep(frame, index)
            self._position = position
        if self._position > index:
            raise self._undecodable(index, "the decoder leaves it out")
        return self._frame

    def _frame_by_timestamp(self, index: int) -> Any:
        timestamps, keyframes = self.timeline.timestamps, self.timeline.keyframes_before(index)
        reached = timestamps[0] if self._frame is None else self._frame.pts
        if reached > timestamps[index] or (len(keyframes) and keyframes[0] > reached):
            self._seek(index, keyframes)
        while self._frame is None or self._frame.pts < timestamps[index]:
            self._keep(next(self._decoded, None), index)
        if self._frame.pts > timestamps[index]:
            raise self._undecodable(index, "the decoder leaves it out")
        return self._frame

    def _seek(self, index: int, keyframes: np.ndarray) -> None:
        """Goes to a frame from which `index` is reached without going back."""
        # The first frame out may lie behind `index`: where pictures are refreshed bit by bit, or
        # where the container's own index is wrong. Then from one keyframe earlier.
        for timestamp in keyframes.tolist():
            try:
                self._container.seek(timestamp, stream=self._stream)
            except av.error.FFmpegError:
                break  # not every stream can seek; every one can be read from its start
            self._decoded = self._frames_from_here()
            frame = next(self._decoded, None)
            if frame is not None and frame.pts <= self.timeline.timestamps[index]:
                self._keep(frame, index)
                return
        self._restart()

    def _keep(self, frame: Any, index: int) -> None:
        if frame is None:
            raise self._undecodable(index, "the stream ends before it")
        if frame.is_corrupt:
            raise self._undecodable(index, "its data are damaged")
        self._frame = frame

    def _undecodable(self, index: int, reason: str) -> VideoReadError:
        # Whatever the decoder still holds may be built on damaged frames.
        self._restart()
        return VideoReadError(
            f"{self.name}: the frame at {self.timeline.seconds[index]:.3f} s, or one that it is "
            f"built on, does not decode ({reason}); encode the file anew or leave it out."
        )


class _TorchcodecDecoder:
    """Decodes frames by index with torchcodec, and checks that they are the ones asked for."""

    def __init__(self, source: str | Path | bytes, reference: _PyAVDecoder, num_threads: int) -> None:
        decoder_class = _torchcodec_class()
        if isinstance(decoder_class, Exception):
            raise ImportError(
                "torchcodec does not load; install it together with FFmpeg's shared libraries, or "
                "choose backend='pyav'."
            ) from decoder_class
        self.name = reference.name
        self._timeline = reference.timeline
        self._frame_shape = (3, reference.height, reference.width)
        if reason := _not_for_torchcodec(source, reference):
            raise VideoReadError(f"{self.name}: {reason}; choose backend='pyav' or 'auto'.")
        try:
            self._decoder = decoder_class(
                source if isinstance(source, bytes) else str(Path(source).absolute()),
                num_ffmpeg_threads=num_threads,
                device="cpu",
            )
        except (RuntimeError, ValueError) as error:
            raise VideoReadError(f"{self.name}: torchcodec cannot open it: {error}") from error
        if not hasattr(self._decoder.metadata, "rotation"):
            raise ImportError("torchcodec before 0.11 does not rotate videos; install a newer one.")

    def read(self, indices: list[int]) -> Tensor:
        """Frames uint8 `[N, C, H, W]` (channels last in memory), indices ascending."""
        timeline = self._timeline
        try:
            batch = self._decoder.get_frames_at(indices)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._undecodable(indices, str(error)) from error
        tick = float(timeline.time_base)
        shift = batch.pts_seconds.numpy() - timeline.timestamps[indices] * tick
        if np.abs(shift).max() > tick / 2 or batch.data.shape[1:] != self._frame_shape:
            raise self._undecodable(indices, "torchcodec gives other frames than asked for")
        return batch.data

    def close(self) -> None:
        """Closes the file."""
        self._decoder = None

    def _undecodable(self, indices: list[int], reason: str) -> VideoReadError:
        first, last = self._timeline.seconds[[indices[0], indices[-1]]]
        return VideoReadError(
            f"{self.name}: a frame between {first:.3f} s and {last:.3f} s does not decode "
            f"({reason}); encode the file anew or leave it out."
        )


@functools.cache
def _torchcodec_class() -> Any:
    """The decoder of torchcodec, or why there is none: it needs FFmpeg libraries of the system."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        return error
    return VideoDecoder


def _not_for_torchcodec(source: str | Path | bytes, reference: _PyAVDecoder) -> str | None:
    """Why torchcodec would not read a video, or not as PyAV does."""
    if not isinstance(source, bytes) and not Path(source).is_file():
        return "it is in a shard, which PyAV reads"
    if reference.timeline.told_by != "timestamp":
        return "the file does not store when frames are shown, or its clock leaps, and torchcodec needs that time"
    if reference.orientation.mirrored:
        return "torchcodec does not mirror frames, as the file asks"
    signature = SIGNATURES.get(reference.container_name)
    if signature is None or not bytes_of(source, 16).startswith(signature):
        return f"torchcodec is not handed containers that begin so ({reference.container_name})"
    return None
