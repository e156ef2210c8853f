"""What the page shows of a video: the file or a copy that browsers play, and small pictures along its time."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.file_names import safe_name
from ..demo.videos import is_playable, write_copy
from ..video_reader import VideoReadError
from ..video_shard import locate
from .project import Project

COPIES = "copies"
# Pixels; a picture of a wide video is as wide as three such heights at most.
HEIGHT = 54
MOST_PICTURES = 40
KEPT_STRIPS = 200


class Media:
    """Copies and pictures of the videos of a project; the copies lie in its hidden folder.

    Args:
        project: Of the videos.
    """

    def __init__(self, project: Project):
        self._project = project
        self._progress: dict[int, float | Exception] = {}
        self._lock = threading.Lock()
        # Each decoder takes memory, and what is asked for last is wanted most.
        self._decoding = threading.Lock()
        self._strip = functools.lru_cache(KEPT_STRIPS)(self._draw_strip)

    def file(self, number: int) -> Path | None:
        """Returns what browsers play of a video; None where its copy is not there yet.

        Raises:
            VideoReadError: It cannot be read.
        """
        path, copy = self._project.paths[number], self._copy(number)
        location = locate(path)
        if location and copy.is_file() and copy.stat().st_mtime_ns >= location.changed:
            return copy
        # Browsers are sent files, which members of shards are not.
        return path if path.is_file() and is_playable(path) else None

    def prepare(self, number: int) -> float:
        """Begins to write the copy of a video unless that has begun; returns the share that is done.

        Raises:
            VideoReadError: It cannot be read.
        """
        with self._lock:
            if number not in self._progress:
                self._progress[number] = 0.0
                threading.Thread(target=self._write_copy, args=(number,), daemon=True).start()
            state = self._progress[number]
        if isinstance(state, Exception):
            raise state
        return state

    def strip(self, number: int, times: Sequence[float]) -> bytes:
        """Returns the frames at some times side by side, as a JPEG.

        Raises:
            ValueError: There are no times, or too many, or one is not finite.
            VideoReadError: A frame does not decode.
        """
        if not 0 < len(times) <= MOST_PICTURES:
            raise ValueError(f"times must be 1 to {MOST_PICTURES}.")
        return self._strip(number, tuple(times))

    def _copy(self, number: int) -> Path:
        return self._project.hidden / COPIES / f"{safe_name(self._project.ids[number])}.mp4"

    def _write_copy(self, number: int) -> None:
        def report(done: int, count: int) -> None:
            self._progress[number] = done / count

        target = self._copy(number)
        partial = target.with_name(f".{target.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_copy(self._project.paths[number], partial, progress=report)
            partial.replace(target)
        except (OSError, VideoReadError) as error:
            self._progress[number] = error
        else:
            del self._progress[number]

    def _draw_strip(self, number: int, times: tuple[float, ...]) -> bytes:
        with self._decoding, self._project.reader(number) as reader:
            width = max(1, min(3 * HEIGHT, round(reader.width * HEIGHT / reader.height)))

            def small(frames: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.interpolate(frames.float(), (HEIGHT, width), mode="area").byte()

            frames = reader.frames_at(times, resize=small).permute(0, 2, 3, 1).numpy()
        content = io.BytesIO()
        Image.fromarray(np.concatenate(list(frames), axis=1)).save(content, "JPEG", quality=75)
        return content.getvalue()
