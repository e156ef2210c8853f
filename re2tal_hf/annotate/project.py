"""A folder of videos and the annotations in it: one file, saved at once and as a whole."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from ..data.annotation_files import annotations_text
from ..data.annotation_formats.formats import FORMATS, WRITERS
from ..data.annotation_records import Record, check_case, clean_label
from ..data.annotation_set import POINT_HINT, AnnotationError
from ..data.annotation_sources import read_source
from ..data.annotation_writing import texts_for_tool, video_of_reader
from ..data.annotations import find_record_files
from ..data.json_files import check_unique, some
from ..data.timeline_index import TimelineIndex
from ..data.video_files import find_videos
from ..data.whole_files import check_writable, written_whole
from ..value_checks import Range, check_value, shown
from ..video_reader import VideoReader

ANNOTATIONS = "annotations.json"
# What was in that file and is none of what this page writes.
ORIGINAL = "annotations.original.json"
# Passed over where videos are looked for.
HIDDEN = ".re2tal"
OWN = "json"
MOST_ACTIONS = 20_000
MOST_LETTERS = 200
# Of rounding, beyond the last frame.
SLACK = 0.05


class ChangedElsewhere(ValueError):
    """The annotations have been changed by someone else since they were shown."""


class Project:
    """The videos of a folder, and their annotations in `annotations.json` there.

    A video is finished as soon as its record has a subset: then what is not marked in it is background.

    Args:
        folder: Of the videos; nothing is written anywhere else.
        source: Annotations to begin with, in any format; only where there is no `annotations.json` yet.

    Attributes:
        paths: Of the videos, in order.
        ids: Of the videos: the stems of their names.
        hidden: Folder in it for what can be made again.

    Raises:
        ValueError, OSError: The folder holds no videos, or two of one name, or cannot be written to.
        AnnotationError: The annotations are malformed, or of other videos.
    """

    def __init__(self, folder: Path, source: Path | None = None):
        self.folder = folder
        self.file = folder / ANNOTATIONS
        self.hidden = folder / HIDDEN
        check_writable(folder, "The folder")
        found = find_videos(folder)
        if twice := [paths for paths in found.values() if len(paths) > 1]:
            raise ValueError(f"{folder}: several videos have one name: {some(twice[0])}; rename them.")
        self.paths = [paths[0] for paths in found.values()]
        self.ids = list(found)
        if source is not None and self.file.exists():
            raise ValueError(f"{self.file} is there already: leave --annotations out, or move that file away.")
        # A list, since annotations may also be of videos that are elsewhere.
        self._others: list[Record] = []
        self._records = [Record(video_id, "", None) for video_id in self.ids]
        self.revisions = [0] * len(self.ids)
        self._timelines = TimelineIndex(self.hidden / "timelines")
        self._lock = threading.RLock()
        start = source or (self.file if self.file.exists() else None)
        if start is not None:
            self._take(start)
        self._seen = _version(self.file)
        self._kept = self.file.read_text(encoding="utf-8") if self._seen else ""
        if source is not None:
            self._save()

    def labels(self) -> list[str]:
        """Returns the label of every action."""
        with self._lock:
            return [str(label) for record in (*self._records, *self._others) for label in record.labels]

    def record(self, number: int) -> Record:
        """Returns what is known of a video by its place in `ids`."""
        return self._records[number]

    def reader(self, number: int) -> VideoReader:
        """Opens a video, and keeps what it tells of its frames' times.

        Raises:
            VideoReadError: It cannot be read.
        """
        with self._lock:
            reader = self._timelines.open(self.paths[number])
            self._timelines.save()
        return reader

    def duration(self, number: int) -> float:
        """Returns the seconds of a video; of one that was opened before without opening it.

        Raises:
            VideoReadError: It cannot be read.
        """
        with self._lock:
            return self._timelines.duration(self.paths[number])

    def mark(self, number: int, actions: Any, finished: Any, revision: Any) -> int:
        """Puts actions in the place of those of a video, and saves them.

        Args:
            number: Of the video.
            actions: A list of `{"start", "end", "label"}`, seconds.
            finished: Whether all actions of the video are marked.
            revision: What `revisions` was when they were shown.

        Returns:
            The new revision.

        Raises:
            ValueError: Something is not as it must be; nothing is changed then.
            ChangedElsewhere: Someone else has changed them meanwhile.
            OSError: They cannot be saved.
        """
        duration = self.duration(number)
        rows = checked_actions(actions, duration)
        check_value("finished", finished, bool)
        with self._lock:
            if revision != self.revisions[number]:
                raise ChangedElsewhere(f"{self.ids[number]} was changed in another window: load it again.")
            if self._seen != _version(self.file):
                raise ChangedElsewhere(f"{self.file.name} was changed by another program: start re2tal annotate again.")
            before = self._records[number]
            subset = (before.subset or "training") if finished else ""
            record = replace(before, subset=subset, duration=duration)
            record.segments = [(start, end) for start, end, _ in rows]
            record.labels, record.label_ids = [label for *_, label in rows], [None] * len(rows)
            self._records[number] = record
            try:
                check_case(self.labels(), self.file.name)
                self._save()
            except BaseException:
                self._records[number] = before
                raise
            self.revisions[number] += 1
            return self.revisions[number]

    def written(self, kind: str) -> tuple[str, bytes]:
        """Returns the annotations as a file to be taken away, and its name.

        Args:
            kind: Of `WRITERS`, or `json` for ours.

        Raises:
            ValueError: There is no such format, or nothing is marked yet.
            VideoReadError: A video cannot be read.
        """
        with self._lock:
            records = list(self._records)
        if kind == OWN:
            return ANNOTATIONS, annotations_text([*_marked(records), *self._others]).encode(errors="backslashreplace")
        if kind not in WRITERS:
            raise ValueError(f"{shown(kind)} is none of the formats: {', '.join([OWN, *WRITERS])}.")
        videos = []
        for number, record in enumerate(records):
            if record.labels:
                actions = sorted((*segment, str(x)) for segment, x in zip(record.segments, record.labels, strict=True))
                with self.reader(number) as reader:
                    videos.append(video_of_reader(self._name(number), actions, reader))
        if not videos:
            raise ValueError("Nothing is marked yet.")
        ending = WRITERS[kind].ending
        texts = texts_for_tool(videos, kind, Path(f"annotations{ending}" if WRITERS[kind].together else ""))
        if WRITERS[kind].together:
            [(path, text)] = texts.items()
            return path.name, text.encode(errors="backslashreplace")
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in texts.items():
                archive.writestr(path.name, text.encode(errors="backslashreplace"))
        return f"{kind}.zip", content.getvalue()

    def _name(self, number: int) -> str:
        return self.paths[number].relative_to(self.folder).as_posix()

    def _take(self, source: Path) -> None:
        records, _, _ = read_source(source)
        check_unique((record.video_id for record in records), str(source))
        check_case((str(label) for record in records for label in record.labels), str(source))
        find_record_files(records, self.folder)
        numbers = {path: number for number, path in enumerate(self.paths)}
        for record in records:
            if any(start == end for start, end in record.segments):
                raise AnnotationError(f"{source}: {record.video_id} has actions that are points in time; {POINT_HINT}")
            if (number := numbers.get(Path(str(record.path)))) is None:
                self._others.append(record)
            else:
                self._records[number] = replace(record, video_id=self.ids[number], subset=record.subset or "")

    def _save(self) -> None:
        text = annotations_text([*_marked(self._records), *self._others])
        if self._kept and not _same(self._kept, text) and not (original := self.folder / ORIGINAL).exists():
            with written_whole(original) as partial:
                partial.write_text(self._kept, encoding="utf-8")
        self._kept = ""
        with written_whole(self.file) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        self._seen = _version(self.file)


def checked_actions(actions: Any, duration: float) -> list[tuple[float, float, str]]:
    """Returns actions as start, end and label, sorted; the ends are within the video.

    Raises:
        ValueError: One of them is not as it must be.
    """
    if not isinstance(actions, list) or len(actions) > MOST_ACTIONS:
        raise ValueError(f"actions must be a list of at most {MOST_ACTIONS}.")
    rows = []
    for place, action in enumerate(actions):
        if not isinstance(action, Mapping) or not {"start", "end", "label"} <= action.keys():
            raise ValueError(f"actions[{place}] must have start, end and label.")
        start, end = (
            check_value(f"actions[{place}].{name}", action[name], Annotated[float, Range(0, 1e8)])
            for name in ("start", "end")
        )
        label = clean_label(check_value(f"actions[{place}].label", action["label"], str))
        if not label or len(label) > MOST_LETTERS:
            raise ValueError(f"An action needs the name of its class, of at most {MOST_LETTERS} letters.")
        if end > duration + SLACK:
            raise ValueError(f"{label}: its end, {end:.2f} s, is after that of the video, {duration:.2f} s.")
        end = min(end, duration)
        if not start < end:
            raise ValueError(f"{label}: its end, {end:.2f} s, is not after its start, {start:.2f} s.")
        rows.append((start, end, label))
    return sorted(rows)


def formats() -> dict[str, str]:
    """Returns what annotations are downloaded as, by the name of the format."""
    return {OWN: "JSON for training", **{name: FORMATS[name].title for name in WRITERS}}


def _marked(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.labels or record.subset]


def _same(one: str, other: str) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns
