"""What an annotation file says of a video, one value after the other: names, times, labels."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..value_checks import shown
from .annotation_set import AnnotationError
from .hub_video import HubVideo
from .video_files import same_name

# Three years; what is more are dates, or another unit.
_MAX_SECONDS = 1e8
_MAX_RATE = 1000.0
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:s|sec|seconds)?", re.IGNORECASE | re.ASCII)
_TIMECODE = re.compile(r"(?:(\d{1,4}):)?(\d{1,5}):([0-5]?\d(?:[.,]\d+)?)", re.ASCII)
# They join or part letters of one word, and change how it reads.
_JOINERS = "\u200c\u200d"


@dataclass
class Record:
    """A video as its file describes it: labels not yet resolved, segments not yet checked.

    Attributes:
        video_id: Its name in the file.
        subset: As the file spells it, empty where it has none; `None` where the form of the file has no place for it.
        duration: Seconds, where the file says them.
        segments: Start and end of every action in seconds.
        labels: Of every action the name or, where it has none, the id.
        label_ids: Of every action the id, where it has one.
        found: Rules of `RULES` that the file itself breaks, each with an example.
        path: The video, where the annotations name it.
        frame_rate: Frames per second of the video, where the file says them.
        folders: In which it lies, in a folder of the form of the Hub.
    """

    video_id: str
    subset: str | None
    duration: float | None
    segments: list[tuple[float, float]] = field(default_factory=list)
    labels: list[str | int] = field(default_factory=list)
    label_ids: list[int | None] = field(default_factory=list)
    found: list[tuple[str, str]] = field(default_factory=list)
    path: Path | HubVideo | None = None
    folders: tuple[str, ...] = ()
    frame_rate: float | None = None

    def widen_points(self, width: float) -> None:
        """Gives actions that start where they end so many seconds about that time, within the video."""
        last = math.inf if self.duration is None else self.duration
        for index, (start, end) in enumerate(self.segments):
            if start == end:
                first, final = (min(max(start + side * width / 2, 0.0), last) for side in (-1, 1))
                self.segments[index] = (first, final)


def parse_record(video_id: Any, entry: Any, source: str | Path) -> Record:
    """Reads what a file says of one video: an object with `annotations` or `actions`, or a list of them alone.

    One with a `subset` and a `duration` may have none.

    Raises:
        AnnotationError: A value is not as it must be; names the video, the annotation and the value.
    """
    if isinstance(video_id, int) and not isinstance(video_id, bool):
        video_id = str(video_id)
    if not isinstance(video_id, str) or not video_id.strip():
        raise AnnotationError(f"{source}: {shown(video_id)} is no id of a video; name each as its file is called")
    where = f"{source}: video {shown(video_id)}"
    if isinstance(entry, list):
        record = Record(video_id, None, None)
        actions: Any = entry
    elif isinstance(entry, dict) and (
        entry.keys() & {"annotations", "actions"} or {"subset", "duration"} <= entry.keys()
    ):
        # Videos of a test whose actions are kept back have a subset and a duration only.
        record = Record(video_id, _subset(entry.get("subset"), where), _duration(entry.get("duration"), where))
        actions = entry["annotations"] if "annotations" in entry else entry.get("actions")
        record.frame_rate = _frame_rate(entry, record.duration)
    else:
        raise AnnotationError(f'{where}: expected an object with "annotations" (or "actions"), not {shown(entry)}')
    if not isinstance(actions, list | None):
        raise AnnotationError(
            f'{where}: "annotations" is {shown(actions)}; it must be a list of {{"segment": ..., "label": ...}}'
        )
    for number, action in enumerate(actions or []):
        _add_action(record, action, f"{where}, annotation {number}")
    return record


def joined(records: Iterable[Record]) -> list[Record]:
    """Makes those of one video one, of files that hold one class each."""
    videos: dict[str, Record] = {}
    for record in records:
        video = videos.setdefault(record.video_id, record)
        if video is not record:
            video.segments += record.segments
            video.labels += record.labels
            video.label_ids += record.label_ids
            video.found += record.found
    return list(videos.values())


@functools.lru_cache(maxsize=4096)
def clean_label(label: str) -> str:
    """The name of a class as everyone reads it.

    Blanks and characters that are not seen are taken away around it, and inside are one blank or none; accents are
    written together with their letters.
    """
    seen = (
        " " if c.isspace() else c
        for c in same_name(label)
        if c.isspace() or c in _JOINERS or unicodedata.category(c) not in ("Cc", "Cf")
    )
    return " ".join("".join(seen).split()).strip(f" {_JOINERS}")


def check_case(labels: Iterable[str], source: str | Path) -> None:
    """Refuses names that are one for a reader: which of two spellings is meant, only the user knows.

    Args:
        labels: Of all actions, as `clean_label` gives them.
        source: What the message calls them.

    Raises:
        AnnotationError: Names them.
    """
    counts = Counter(labels)
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            listing = " and ".join(f"{shown(name)} ({counts[name]} actions)" for name in names[:5])
            raise AnnotationError(
                f"{source}: labels {listing} differ only in case: write one name in one way, or give label_names"
                " (--labels of re2tal make_dataset) where they are classes of their own"
            )


def parse_seconds(value: Any, where: str) -> float:
    """Seconds as a number, as its text, or as a timecode (1:02:03.5).

    Raises:
        AnnotationError: It is none of them; `where` stands before the message.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Of whole numbers there is no largest one.
        seconds = float(value) if abs(value) <= _MAX_SECONDS else math.inf
    elif isinstance(value, str) and (number := _NUMBER.fullmatch(value.strip())):
        seconds = float(number[1])
    elif isinstance(value, str) and (timecode := _TIMECODE.fullmatch(value.strip())):
        hours, minutes = int(timecode[1] or 0), int(timecode[2])
        if not timecode[1] or minutes < 60:
            seconds = 3600 * hours + 60 * minutes + float(timecode[3].replace(",", "."))
    if not abs(seconds) <= _MAX_SECONDS:
        raise AnnotationError(
            f"{where}: {shown(value)} is not a number of seconds of a video, nor a timecode such as 1:02:03.5"
        )
    return seconds


def _subset(subset: Any, where: str) -> str:
    if not isinstance(subset, str | None):
        raise AnnotationError(f'{where}: "subset" is {shown(subset)}; it must be a name, such as "training"')
    return (subset or "").strip()


def _duration(duration: Any, where: str) -> float | None:
    if duration is None:
        return None
    seconds = parse_seconds(duration, f"{where}: duration")
    if seconds <= 0:
        raise AnnotationError(f"{where}: duration {seconds:g} is not positive; leave it out")
    return seconds


def _frame_rate(entry: dict[str, Any], duration: float | None) -> float | None:
    """Frames per second, as ActionFormer's files say them (`fps`) or OpenTAD's (`frame`, their number)."""
    rate, frames = entry.get("fps"), entry.get("frame")
    if rate is None and duration and isinstance(frames, int | float):
        rate = frames / duration
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= _MAX_RATE:
        return None
    return float(rate)


def _add_action(record: Record, action: Any, where: str) -> None:
    if isinstance(action, dict):
        label_id, times = action.get("label_id"), action.get("segment")
        label = label_id if action.get("label") is None else action["label"]
        if times is None and "start" in action and "end" in action:
            times = [action["start"], action["end"]]
        if "score" in action:
            record.found.append(("detection", f"{record.video_id} {label!r:.80}, {action['score']!r:.80}"))
    elif isinstance(action, list) and len(action) == 3:
        label, label_id, times = action[0], None, action[1:]
    else:
        raise AnnotationError(
            f'{where}: {shown(action)} must be {{"segment": [start, end], "label": ...}} or [label_id, start, end]'
        )
    name = _label(label, where)
    if isinstance(name, str) and name != same_name(str(label)):
        record.found.append(("label_spelling", f"{record.video_id} {label!r:.80}"))
    if not isinstance(times, list) or len(times) != 2:
        raise AnnotationError(f'{where}: "segment" must be [start, end] in seconds, not {shown(times)}')
    start, end = (parse_seconds(time, f"{where}: segment") for time in times)
    record.labels.append(name)
    record.label_ids.append(None if label_id is None else _class_id(label_id, where))
    record.segments.append((start, end))


def _label(label: Any, where: str) -> str | int:
    if not isinstance(label, str):
        return _class_id(label, where)
    name = clean_label(label)
    if not name:
        raise AnnotationError(f'{where}: "label" is {shown(label)}, an empty name; name the action')
    return name


def _class_id(value: Any, where: str) -> int:
    # Some write 3.0 for 3.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or value < 0:
        raise AnnotationError(
            f'{where}: no usable "label" (a name) or "label_id" (a whole number, 0 or more): {shown(value)}'
        )
    return int(value)
