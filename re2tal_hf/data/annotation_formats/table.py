"""Tables of rows with start, end and label, and the file where there are several; headers are guessed and shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .annotation_file import UNITS, AnnotationFile, Videos
from .format import Format
from .separated import cell, first_rows, rows_of

_ROLES = {
    "video": "video file filename name id clip media path movie source videoname videoid filepath mediafile recording",
    "start": "start begin from onset in tstart starts beginning",
    "end": "end stop to offset out tend finish ends ending",
    "length": "duration length",
    "point": "time timestamp position at",
    "label": "label class action activity category behavior behaviour event annotation tag code type actionlabel",
    "subset": "subset split set",
}
# The words that name a unit, and those that say nothing.
_UNIT_WORDS = {
    **dict.fromkeys(["s", "sec", "secs", "second", "seconds"], "seconds"),
    **dict.fromkeys(["ms", "msec", "msecs", "millisecond", "milliseconds", "millis"], "milliseconds"),
    **dict.fromkeys(["frame", "frames"], "frames"),
}
_CLOCK = re.compile(r"\d+(?:[.,]\d+)?|(?:\d+:)?\d+:\d+(?:[.,:;]\d+)?", re.ASCII)


@dataclass
class _Columns:
    """Columns by role, and the unit of those with times where their header says it."""

    places: dict[str, int] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    has_header: bool = True

    @property
    def complete(self) -> bool:
        given = self.places.keys()
        return "label" in given and ({"start", "end"} <= given or {"start", "length"} <= given or "point" in given)


def _guess(header: list[str]) -> _Columns:
    found = _Columns()
    for column, name in enumerate(header):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
        words = re.findall(r"[a-z]+", spaced.lower())
        unit = next((_UNIT_WORDS[word] for word in words if word in _UNIT_WORDS), None)
        rest = [word for word in words if word not in _UNIT_WORDS]
        for role, synonyms in _ROLES.items():
            known = synonyms.split()
            # Of "start time" the start counts, of "video name" the video.
            bare = [word for word in rest if word not in ("time", "the", "of", "segment")] or rest
            if role not in found.places and bare and (bare[0] in known or "".join(bare) in known):
                found.places[role] = column
                if unit:
                    found.units[role] = unit
                break
    return found


def _guess_without_header(row: list[str]) -> _Columns:
    """Columns of start and end, label, and perhaps file, by what is in them."""
    times = [column for column, text in enumerate(row) if _CLOCK.fullmatch(text)]
    others = [column for column in range(len(row)) if column not in times]
    found = _Columns(has_header=False)
    if len(times) == 2 and len(others) in (1, 2):
        found.places = {"start": times[0], "end": times[1], "label": others[-1]}
        if len(others) == 2:
            found.places["video"] = others[0]
    return found


def _columns(rows: list[tuple[int, list[str]]]) -> _Columns:
    if not rows:
        return _Columns()
    found = _guess(rows[0][1])
    return found if found.complete else _guess_without_header(rows[0][1])


def video_columns(header: list[str]) -> int | None:
    """Returns the column of a table with the names of videos, None where there is none."""
    return _guess(header).places.get("video")


def recognises(file: AnnotationFile) -> bool:
    return _columns(first_rows(file)).complete


def read(file: AnnotationFile) -> Videos:
    """Reads the rows; the unit of times is what their header says, else the one that is given, else seconds."""
    rows, videos = rows_of(file), Videos()
    columns = _columns(rows)
    if not columns.complete:
        shown = ", ".join(repr(name[:30]) for name in rows[0][1][:12]) if rows else "nothing"
        raise file.error(f"the first line has {shown}; name columns file, start, end and label", "line 1")
    places = columns.places
    names = rows[0][1] if columns.has_header else [f"column {column + 1}" for column in range(len(rows[0][1]))]
    units = {role: columns.units.get(role) or file.settings.unit or _default(file, columns) for role in places}
    times = [role for role in ("start", "end", "length", "point") if role in places]
    file.notes.append(
        ", ".join(
            f"{role}: {names[column]!r}{f' in {units[role]}' if role in times else ''}"
            for role, column in places.items()
        )
    )
    for line, row in rows[1:] if columns.has_header else rows:
        place = f"line {line}"
        name = cell(row, places.get("video"))
        if not name and "video" in places:
            raise file.error(f"the column {names[places['video']]!r} is empty", place)
        video_id = file.video_id(name, place) if name else file.own_video_id
        videos.add_video(video_id, subset=cell(row, places["subset"]) if "subset" in places else None)
        values = {role: _time(file, cell(row, places[role]), f"{place}, {role}", units[role]) for role in times}
        start = values.get("start", values.get("point", 0.0))
        end = values["end"] if "end" in values else start + values.get("length", 0.0)
        videos.add(video_id, start, end, file.label(cell(row, places["label"]), place))
    return videos


def _default(file: AnnotationFile, columns: _Columns) -> str:
    """Where one column of times names its unit, the others have it too."""
    named = {columns.units[role] for role in ("start", "end", "length", "point") if role in columns.units}
    return named.pop() if len(named) == 1 else UNITS[0]


def _time(file: AnnotationFile, text: str, place: str, unit: str) -> float:
    decimal = re.fullmatch(r"-?\d+,\d+", text, re.ASCII)
    return file.seconds(text.replace(",", ".") if decimal else text, place, unit)


FORMAT = Format("table", "a table of actions", recognises, read)
