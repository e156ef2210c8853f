"""When the frames of video files are on screen, kept on disk, so that no file is read from end to end twice."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import inspect
import json
import logging
import os
import uuid
import zlib
from dataclasses import astuple, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from huggingface_hub.constants import HF_HOME

from .. import video_timeline
from ..video_reader import Backend, VideoReader
from ..video_shard import ShardError, locate
from ..video_timeline import Timeline, tell

logger = logging.getLogger(__name__)

_GONE = (-1, -1)


@dataclass(frozen=True)
class Entry:
    """What is known of a file; simple values only, so that JSON holds them.

    Attributes:
        size: of the file, in bytes.
        changed: when it was changed, in nanoseconds.
        duration: in seconds.
        remarks: what a user of the video is to be told.
        timeline: the `Timeline`, packed.
    """

    size: int
    changed: int
    duration: float
    remarks: tuple[str, ...]
    timeline: str


class TimelineIndex:
    """The timelines of video files by path, size and time of change.

    A file that is known is opened for its frames only, and not at all where its duration is asked for; any other is
    read to its end, and then known. `save` writes what is new: a text file for each folder of videos, a line for each
    video. A damaged line, a file that has changed and whatever was written by other versions of this code or of PyAV
    count as not known. Files that cannot be read are never kept.

    Args:
        folder: Of the text files; by default beside the caches of the Hub, in `HF_HOME`.
        writes: Whether `save` writes: one process of a machine is enough.
    """

    def __init__(self, folder: str | Path | None = None, *, writes: bool = True) -> None:
        self.folder = Path(HF_HOME) / "re2tal_hf" / "timelines" if folder is None else Path(folder)
        self.writes = writes
        self._known: dict[str, dict[str, Entry]] = {}  # by folder, then by name
        self._new: dict[str, Entry] = {}  # by path

    def open(self, path: Path, backend: Backend = "auto") -> VideoReader:
        """Opens a video.

        Raises:
            VideoReadError: It cannot be read.
        """
        version = _version(path)  # before it is read, since it may be changing
        entry = self._find(path, version)
        reader = VideoReader(path, backend=backend, timeline=None if entry is None else _unpacked(entry.timeline))
        if entry is None:
            line = reader.timeline
            self.add({os.path.abspath(path): Entry(*version, line.duration, line.remarks, _packed(line))})
        return reader

    def duration(self, path: Path) -> float:
        """Seconds of a video.

        Raises:
            VideoReadError: It cannot be read.
        """
        known = self.known_duration(path)
        if known is not None:
            return known
        with self.open(path, "pyav") as reader:
            return reader.duration

    def known_duration(self, path: Path) -> float | None:
        """Seconds of a video, if the file is known; it is not opened."""
        entry = self._find(path, _version(path))
        if entry is None:
            return None
        tell(str(path), entry.remarks)
        return entry.duration

    def take_new(self) -> dict[str, Entry]:
        """Returns what was measured since the index was made or saved, by absolute path."""
        return dict(self._new)

    def add(self, entries: dict[str, Entry]) -> None:
        """Takes what was measured elsewhere, as `take_new` gives it."""
        for path, entry in entries.items():
            folder, name = os.path.split(path)
            self._of_folder(folder)[name] = entry
            self._new[path] = entry

    def save(self) -> None:
        """Writes what is new; where that is not possible it says so, and the next process measures again."""
        folders = {os.path.dirname(path) for path in self._new} if self.writes else set()
        self._new.clear()
        try:
            for folder in folders:
                self._write(folder)
        except OSError as error:
            logger.warning(
                "%s: the durations of videos cannot be kept (%s): every start measures them", self.folder, error
            )

    def _find(self, path: Path, version: tuple[int, int]) -> Entry | None:
        folder, name = os.path.split(os.path.abspath(path))
        entry = self._of_folder(folder).get(name)
        return entry if entry is not None and (entry.size, entry.changed) == version else None

    def _of_folder(self, folder: str) -> dict[str, Entry]:
        if folder not in self._known:
            self._known.setdefault(folder, self._read(folder))  # threads may read it twice, and keep one
        return self._known[folder]

    def _file(self, folder: str) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]}.jsonl"

    def _read(self, folder: str) -> dict[str, Entry]:
        try:
            head, *lines = self._file(folder).read_bytes().splitlines()
        except (FileNotFoundError, ValueError):
            return {}
        except OSError as error:
            logger.warning("%s; the videos in %s are measured again", error, folder)
            return {}
        if head != _checked(_written_by()):
            return {}
        found = {}
        for line in lines:
            if line == _checked(content := line[9:]):
                name, size, changed, duration, remarks, timeline = json.loads(content)
                found[name] = Entry(size, changed, duration, tuple(remarks), timeline)
        if len(found) < len(lines):
            logger.warning("%s is damaged; %d videos are measured again", self._file(folder), len(lines) - len(found))
        return found

    def _write(self, folder: str) -> None:
        # Others may have written since; what is gone from the folder is forgotten.
        known = self._read(folder) | self._known[folder]
        if os.path.isdir(folder):
            there = set(os.listdir(folder))
        else:  # a shard
            there = {name for name in known if _version(Path(folder, name)) != _GONE}
        entries = {name: entry for name, entry in known.items() if name in there}
        lines = [_written_by(), *(json.dumps([name, *astuple(entry)]).encode() for name, entry in entries.items())]
        self.folder.mkdir(parents=True, exist_ok=True)
        # Written under another name first: who reads meanwhile finds the whole of the old or of the new.
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        try:
            partial.write_bytes(b"\n".join(map(_checked, lines)) + b"\n")
            partial.replace(self._file(folder))
        finally:
            partial.unlink(missing_ok=True)


def _version(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; of one that is not there, what no entry has."""
    with contextlib.suppress(OSError, ShardError):
        if location := locate(path):
            return location.size, location.changed
    return _GONE


@functools.cache
def _written_by() -> bytes:
    """What a timeline depends on besides the file: the code that reads it and the library underneath."""
    code = hashlib.sha256(inspect.getsource(video_timeline).encode()).hexdigest()[:16]
    return json.dumps([code, av.__version__, str(av.library_versions)]).encode()


def _checked(content: bytes) -> bytes:
    """A line with its check sum."""
    return b"%08x %s" % (zlib.crc32(content), content)


def _packed(timeline: Timeline) -> str:
    arrays = (timeline.timestamps, timeline.starts, timeline.parts, timeline.keyframes)
    # Mostly equal steps, which take next to no space.
    steps = b"".join(np.diff(array, prepend=0).astype("<i8").tobytes() for array in arrays)
    values = [
        *timeline.time_base.as_integer_ratio(),
        timeline.lead,
        timeline.duration,
        timeline.told_by,
        timeline.remarks,
    ]
    return json.dumps([len(timeline.starts), *values, base64.b64encode(zlib.compress(steps)).decode()])


def _unpacked(packed: str) -> Timeline:
    frames, numerator, denominator, lead, duration, told_by, remarks, steps = json.loads(packed)
    together = np.frombuffer(zlib.decompress(base64.b64decode(steps)), "<i8")
    arrays = (np.cumsum(part) for part in np.split(together, [frames, 2 * frames, 3 * frames]))
    timestamps, starts, parts, keyframes = arrays
    return Timeline(
        timestamps=timestamps,
        starts=starts,
        lead=lead,
        duration=duration,
        time_base=Fraction(numerator, denominator),
        keyframes=keyframes,
        parts=parts,
        told_by=told_by,
        remarks=tuple(remarks),
    )
