"""What can stand for a video: a file, its bytes, a URL, or frames in memory, all read by time."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HTTPError
from PIL import Image
from torch import Tensor

from .value_checks import POSITIVE, check_value, shown
from .video_features import FeaturesInMemory, from_mapping, is_feature_file
from .video_reader import BATCH_BYTES, Resize, VideoReader, VideoReadError, checked_times

URL_SCHEMES = ("http://", "https://", "hf://")
MAX_DOWNLOAD_BYTES = 4 * 2**30
# Seconds without data after which a download is given up.
DOWNLOAD_TIMEOUT = 30
DOWNLOAD_CHUNK_BYTES = 2**20
# Seconds by which rounding may put the time of a frame before its start.
TIME_TOLERANCE = 1e-6


class VideoSource(Protocol):
    """The frames of one video by time.

    Attributes:
        name: what error messages call the video.
        duration: in seconds.
    """

    name: str
    duration: float

    def frames_at(self, times: Sequence[float], *, resize: Resize | None = None) -> Tensor:
        """Returns the frames on screen at the given seconds, uint8 `[T, C, H, W]`."""

    def close(self) -> None:
        """Lets go of files."""


class FramesInMemory:
    """Frames in memory by time, as a `VideoReader` gives those of a file.

    Args:
        frames: an array or a tensor `[T, H, W, 3]` or `[T, 3, H, W]`, or a list of PIL images or of
            arrays or tensors `[H, W, 3]` or `[3, H, W]`; RGB, uint8, of one size. Where both places
            have a 3, the last is the colour.
        frame_rate: frames per second.

    Attributes:
        name: what error messages call the video.
        duration: seconds from the start of the first frame to the end of the last.
        frame_rate: frames per second.

    Raises:
        ValueError: if the frame rate is missing or not above 0, or the frames are none, are of other
            types or shapes, or differ.
    """

    def __init__(self, frames: Any, frame_rate: float | None):
        if not hasattr(frames, "__len__") or getattr(frames, "ndim", 1) == 0:
            raise TypeError(f"frames is {shown(frames)}; give a list of frames, or an array [T, H, W, 3].")
        self.name = f"video of {len(frames)} frames"
        frame_rate = check_value(f"{self.name}: frame_rate", frame_rate, Annotated[float, POSITIVE])
        shape = self._common_shape(frames)
        self._frames = frames
        self._channels_last = shape[-1] == 3
        self._frame_bytes = math.prod(shape)
        self.frame_rate = float(frame_rate)
        self.duration = len(frames) / self.frame_rate

    def frames_at(self, times: Sequence[float], *, resize: Resize | None = None) -> Tensor:
        """Returns the frames on screen at the given times; see `VideoReader.frames_at`.

        Args:
            times: seconds from the start of the video.
            resize: maps uint8 `[N, C, H, W]` to the frames wanted; called with a few at a time.

        Returns:
            uint8 `[T, C, H, W]`, RGB, in the order of `times`.

        Raises:
            ValueError: if there are no times, or one is not finite.
        """
        on_screen = np.floor((checked_times(self.name, times) + TIME_TOLERANCE) * self.frame_rate)
        on_screen = on_screen.clip(0, len(self._frames) - 1).astype(np.int64)
        indices, places = np.unique(on_screen, return_inverse=True)
        length = max(1, BATCH_BYTES // self._frame_bytes)
        batches = [self._stacked(indices[first : first + length]) for first in range(0, len(indices), length)]
        return torch.cat([resize(batch) if resize else batch for batch in batches])[torch.from_numpy(places)]

    def __len__(self) -> int:
        return len(self._frames)

    def close(self) -> None:
        """Does nothing: the frames are the caller's."""

    def _stacked(self, indices: np.ndarray) -> Tensor:
        frames = torch.stack([_as_tensor(self._frames[index]) for index in indices.tolist()])
        return frames.permute(0, 3, 1, 2) if self._channels_last else frames

    def _common_shape(self, frames: Any) -> tuple[int, ...]:
        if not len(frames):
            raise ValueError(f"{self.name}: give at least one frame.")
        kinds = {_shape_and_type(frame) for frame in frames}
        shape, dtype = min(kinds)
        if len(kinds) > 1:
            raise ValueError(f"{self.name}: its frames differ ({', '.join(map(str, sorted(kinds)))}); make them alike.")
        if dtype != "uint8":
            raise ValueError(f"{self.name}: its frames are {dtype}; give uint8, with values from 0 to 255.")
        if len(shape) != 3 or 3 not in (shape[0], shape[2]) or 0 in shape:
            raise ValueError(f"{self.name}: a frame has the shape {shape}; give [H, W, 3] or [3, H, W].")
        return shape


class FramesOfDecoder:
    """The frames of a decoder of torchcodec by time, as a `VideoReader` gives those of a file.

    Args:
        decoder: a `torchcodec.decoders.VideoDecoder`.

    Attributes:
        name: what error messages call the video.
        duration: seconds from the start of the first frame to the end of the last.
    """

    def __init__(self, decoder: Any):
        self.name = str(getattr(decoder.metadata, "path", None) or "video of a decoder")
        self._decoder = decoder
        self._start, self._end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
        self.duration = self._end - self._start

    def frames_at(self, times: Sequence[float], *, resize: Resize | None = None) -> Tensor:
        """Returns the frames on screen at the given times; see `VideoReader.frames_at`."""
        seconds = self._start + np.asarray(times, dtype=np.float64) + TIME_TOLERANCE
        seconds = seconds.clip(self._start, np.nextafter(self._end, self._start))
        try:
            length = max(1, BATCH_BYTES // self._decoder.get_frames_played_at([self._start]).data.nbytes)
            batches = [self._shown(seconds[first : first + length]) for first in range(0, len(seconds), length)]
        except RuntimeError as error:
            raise VideoReadError(f"{self.name}: cannot be decoded ({error}).") from error
        return torch.cat([resize(batch) if resize else batch for batch in batches])

    def close(self) -> None:
        """Does nothing: the decoder is the caller's."""

    def _shown(self, seconds: np.ndarray) -> Tensor:
        frames = self._decoder.get_frames_played_at(seconds.tolist()).data.cpu()
        return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)


def is_video(video: Any) -> bool:
    """Whether this is one video, by its type: not several, and nothing else."""
    known = (str, Path, bytes, bytearray, memoryview, Mapping)
    return isinstance(video, known) or _is_frames(video) or _is_open_file(video) or _is_decoder(video)


@contextlib.contextmanager
def open_video(video: Any, frame_rate: float | None = None) -> Iterator[VideoSource | FeaturesInMemory]:
    """Opens whatever stands for a video; a file that had to be downloaded is removed at the end.

    Args:
        video: path or bytes of a file, a file that is open for reading in binary mode (read from its start), URL
            (http, https, hf), frames (see `FramesInMemory`), a decoder of torchcodec, or a mapping:
            `{"frames", "frame_rate"}`, `{"path", "bytes"}` as `datasets` has it, or `{"video": one of all these}`; for
            a model on features the path of a file of them, or `{"features", "duration", "frame_rate"}`.
        frame_rate: of frames in memory, frames per second.

    Yields:
        The video by time.

    Raises:
        VideoReadError: if a file cannot be downloaded or is not a readable video; names it.
        ValueError: if the frames or their rate are not as they must be, or a file is given a rate.
        TypeError: if this stands for no video.
    """
    if isinstance(video, Mapping) and "features" in video:
        yield from_mapping(video)
        return
    if is_feature_file(video):
        yield FeaturesInMemory(video, frame_rate=frame_rate)
        return
    while isinstance(video, Mapping) or _is_decoder(video):
        if isinstance(video, Mapping):
            video, frame_rate = _from_mapping(video, frame_rate)
        elif (encoded := _encoded(video)) is None:
            break
        else:
            video = encoded
    if _is_frames(video):
        yield FramesInMemory(video, frame_rate)
        return
    if not is_video(video):
        raise TypeError(f"{shown(video)} is no video; give a path, a URL, bytes, an open file or frames.")
    if frame_rate is not None:
        raise ValueError("frame_rate belongs to frames in memory; a video file has its own.")
    if _is_decoder(video):
        yield FramesOfDecoder(video)
        return
    if isinstance(video, (bytearray, memoryview)):
        video = bytes(video)
    with contextlib.ExitStack() as stack:
        if isinstance(video, str) and video.lower().startswith(URL_SCHEMES):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "video"
            download(video, path)
            reader = VideoReader(path, name=video)
        elif _is_open_file(video):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "video"
            _copy(video, path)
            reader = VideoReader(path, name=str(getattr(video, "name", "open file")))
        else:
            reader = VideoReader(video)
        yield stack.enter_context(reader)


def download(url: str, path: Path, *, max_bytes: int = MAX_DOWNLOAD_BYTES) -> None:
    """Streams a video from the web, or from the Hub's file system (`hf://datasets/user/name/...`), to a file.

    Args:
        url: its address.
        path: the file to write.
        max_bytes: largest size taken.

    Raises:
        VideoReadError: if it cannot be had or is too large; names the URL.
    """
    too_large = VideoReadError(f"{url}: larger than {max_bytes / 2**20:.0f} MiB; download it, and pass its path.")
    try:
        with _opened(url) as (size, chunks), path.open("wb") as file:
            if size > max_bytes:
                raise too_large
            for chunk in chunks:
                if file.tell() + len(chunk) > max_bytes:
                    raise too_large
                file.write(chunk)
            if file.tell() < size:
                raise _undownloadable(url, f"cut off after {file.tell()} of {size} bytes")
    except VideoReadError:
        raise
    except urllib.error.HTTPError as error:
        raise _undownloadable(url, f"{error.code} {error.reason}".strip()) from error
    # ValueError: of an address that names no file; OSError: of the network and of the disk.
    except (OSError, ValueError, HTTPException, HTTPError) as error:
        raise _undownloadable(url, str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _opened(url: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Size in bytes (0 if not announced) and content, in pieces."""
    if url.lower().startswith("hf://"):
        with HfFileSystem().open(url, "rb") as file:
            yield file.size, iter(lambda: file.read(DOWNLOAD_CHUNK_BYTES), b"")
    else:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer:
            size = int(answer.headers.get("content-length", 0))
            yield size, iter(lambda: answer.read(DOWNLOAD_CHUNK_BYTES), b"")


def _undownloadable(url: str, reason: str) -> VideoReadError:
    return VideoReadError(f"{url}: cannot be downloaded ({reason.splitlines()[0]}); check the address.")


def _copy(file: Any, path: Path) -> None:
    """Writes all of an open file to another."""
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{getattr(file, 'name', file)!r} is open as text; open it in binary mode, with 'rb'.")
    if seekable := getattr(file, "seekable", lambda: False)():
        place = file.tell()
        file.seek(0)
    with path.open("wb") as copy:
        shutil.copyfileobj(file, copy)
    if seekable:
        file.seek(place)


def _encoded(decoder: Any) -> dict[str, Any] | None:
    """What a decoder of `datasets` was made from, where that is at hand."""
    encoded = getattr(decoder, "_hf_encoded", None)
    if encoded and (encoded.get("bytes") is not None or os.path.isfile(encoded.get("path") or "")):
        return encoded
    return None


def _from_mapping(video: Mapping[str, Any], frame_rate: float | None) -> tuple[Any, float | None]:
    """What a mapping holds, and the frame rate of it."""
    if video.get("video") is not None:
        return video["video"], frame_rate
    if (frames := video.get("frames")) is not None:
        if not _is_frames(frames):
            raise TypeError(f"The 'frames' of a video are {shown(frames)}; give a list of them or an array.")
        return frames, video.get("frame_rate", frame_rate)
    content = video.get("path") if video.get("bytes") is None else video["bytes"]
    if content is None:
        raise ValueError(f"A video of the keys {sorted(video)}: give 'frames' and 'frame_rate', 'path' or 'bytes'.")
    return content, frame_rate


def _is_frames(video: Any) -> bool:
    if isinstance(video, (np.ndarray, Tensor)):
        return True
    return isinstance(video, (list, tuple)) and len(video) > 0 and _is_frame(video[0])


def _is_open_file(video: Any) -> bool:
    return callable(getattr(video, "read", None))


def _is_decoder(video: Any) -> bool:
    return hasattr(video, "get_frames_played_at")


def _is_frame(frame: Any) -> bool:
    return isinstance(frame, Image.Image) or (isinstance(frame, (np.ndarray, Tensor)) and frame.ndim < 4)


def _shape_and_type(frame: Any) -> tuple[tuple[int, ...], str]:
    if isinstance(frame, Image.Image):
        return (frame.height, frame.width, 3), "uint8"
    if isinstance(frame, (np.ndarray, Tensor)):
        return tuple(frame.shape), str(frame.dtype).removeprefix("torch.")
    return (), type(frame).__name__


def _as_tensor(frame: Image.Image | np.ndarray | Tensor) -> Tensor:
    """A frame on the CPU, channels where they are."""
    if isinstance(frame, Tensor):
        return frame.detach().cpu()
    # Copied, for PyTorch takes neither read-only arrays nor reversed ones.
    return torch.from_numpy(np.array(frame.convert("RGB") if isinstance(frame, Image.Image) else frame))
