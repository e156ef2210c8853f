"""Frames of videos at times: decoded when they are asked for, or read from a cache, and resized."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import SizeDict

from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import Backend, Resize, VideoReader, VideoReadError
from ..video_shard import locate
from ..video_windows import Window
from .annotation_set import AnnotatedVideo
from .file_names import safe_name
from .timeline_index import TimelineIndex
from .whole_files import naming

# What decides how frames are resized, besides a random crop that follows.
_RESIZING = ("do_resize", "size", "resample", "do_center_crop", "crop_size")
# Frames that are decoded at once into the cache.
_DECODED_FRAMES = 64


class FrameStore:
    """The frames of annotated videos at times.

    They have the size at which the model gets them. Where a random crop is to follow they are larger.

    Args:
        processor: Says at which rate videos are sampled and how frames are resized.
        smallest_crop: Share of the frame's area that a random crop which follows keeps at least; `None` for no crop.
        crop_edge: Shorter edge of the frames that the crop is taken from; by default so long that the smallest crop
            keeps its detail, where the video has it.
        timelines: When the frames of files are on screen; by default the user's index.
        cache: Folder for decoded frames (see `FrameCache`).
        backend: Of the `VideoReader`.

    Attributes:
        steps: What the steps of a window are.
    """

    steps = "frames"

    def __init__(
        self,
        processor: Re2TALVideoProcessor,
        *,
        timelines: TimelineIndex | None = None,
        smallest_crop: float | None = None,
        crop_edge: int | None = None,
        cache: str | Path | None = None,
        backend: Backend = "auto",
    ) -> None:
        self.processor = processor
        self.timelines = timelines or TimelineIndex()
        self.smallest_crop = smallest_crop
        self.crop_edge = crop_edge
        self.cache = None if cache is None else FrameCache(cache)
        self.backend: Backend = backend

    def at(self, video: AnnotatedVideo, times: Sequence[float]) -> Tensor:
        """Returns the frames on screen at times of the sampling rate.

        Args:
            video: With its path and its measured duration.
            times: Seconds, `[T]`.

        Returns:
            uint8 `[T, C, H, W]`.

        Raises:
            VideoReadError: The file cannot be read, or a frame does not decode.
        """
        path = video.local_path()
        if self.cache is None:
            with self.timelines.open(path, self.backend) as reader:
                return reader.frames_at(times, resize=self._resize)
        whole = self.whole(video)
        open_video = partial(self.timelines.open, path, self.backend)
        cached = self.cache.frames(path, np.array(whole.times), self._resize, self._preparation, open_video)
        return torch.from_numpy(cached[np.rint(np.multiply(times, whole.frame_rate)).astype(int)])

    def whole(self, video: AnnotatedVideo) -> Window:
        """All frames of a video, with its measured duration, as one window."""
        assert video.duration is not None
        return self.processor.whole_video(video.video_id, video.duration)

    @property
    def _preparation(self) -> str:
        resizing = " ".join(str(getattr(self.processor, name)) for name in _RESIZING)
        if self.smallest_crop is None:
            return resizing
        edge = f" from {self.crop_edge}" if self.crop_edge else ""
        return f"{resizing} before a random crop of {self.smallest_crop}{edge}"

    def _resize(self, frames: Tensor) -> Tensor:
        processor = self.processor
        if self.smallest_crop is None:
            return processor.resize_and_crop(frames)
        if not processor.do_resize:
            return frames
        if self.crop_edge is not None:
            return processor.resize(frames, SizeDict(shortest_edge=self.crop_edge), resample=processor.resample)
        size = processor.decode_size
        if size is None:
            return processor.resize(frames, processor.size, resample=processor.resample)
        available = min(frames.shape[-2] / size[0], frames.shape[-1] / size[1])
        factor = max(1.0, min(available, self.smallest_crop**-0.5))
        larger = SizeDict(height=round(size[0] * factor), width=round(size[1] * factor))
        return processor.resize(frames, larger, resample=processor.resample)


class FrameCache:
    """Decoded frames of whole videos on disk, so that every epoch but the first only reads them.

    One `.npy` file a video, uint8 `[N, C, H, W]`, at the sampling rate and after resizing:
    3 * H * W bytes a frame, so 34 MB for a minute at 15 frames per second and 112x112, and 160 GB
    for 20 hours at 224x224. Files are named by all that decides their content (path, size and time
    of change of the video, times, resizing), so a changed video or setting is decoded anew; what it
    replaces stays until someone deletes the folder, which is safe between runs.

    Args:
        folder: Made where it does not exist. Several processes may use it at once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def frames(
        self, path: Path, times: np.ndarray, resize: Resize, preparation: str, open_video: Callable[[], VideoReader]
    ) -> np.ndarray:
        """Frames of a video, decoded at the first call and only memory-mapped at later ones.

        Args:
            path: The video.
            times: Seconds of the frames, `[N]`.
            resize: As `VideoReader.frames_at` takes it.
            preparation: Names what `resize` does; with another name frames are decoded anew.
            open_video: Opens the file.

        Returns:
            uint8 `[N, C, H, W]`, read-only.

        Raises:
            VideoReadError: The file is gone or a frame does not decode; nothing is stored then.
        """
        location = locate(path)
        if location is None:
            raise VideoReadError(f"{path}: there is no such file; check the path.")
        key = [str(path.resolve()), location.size, location.changed, times.tolist(), preparation]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
        entry = self.folder / f"{safe_name(path.stem)}.{digest}.npy"
        if not entry.exists():
            # Written under another name first: a run that is cut off leaves no half entry behind.
            partial = self.folder / f"{digest}.{uuid.uuid4().hex}.partial"
            try:
                with open_video() as reader, naming(entry):
                    _write_frames(partial, reader, times, resize)
                partial.replace(entry)
            finally:
                partial.unlink(missing_ok=True)
        return np.load(entry, mmap_mode="r")


def _write_frames(path: Path, reader: VideoReader, times: np.ndarray, resize: Resize) -> None:
    """Writes frames as an array in numpy's format, a few at a time."""
    first = reader.frames_at(times[:1].tolist(), resize=resize)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(times), *first.shape[1:]))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:  # a full disk is an error here; a page that has no place ends the process
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    for start in range(0, len(times), _DECODED_FRAMES):
        part = slice(start, start + _DECODED_FRAMES)
        array[part] = reader.frames_at(times[part].tolist(), resize=resize).numpy()
