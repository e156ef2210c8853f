"""BORIS: projects (.boris), and tables of events, aggregated or tabular, by its config.py and export_observation.py."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer, lanes
from .separated import cell, first_rows, rows_of


class _Event(NamedTuple):
    """A time at which a behaviour starts or stops, or a point; those of one `key` start and stop in turns."""

    time: float
    key: tuple[str, ...]
    label: str
    is_state: bool
    place: str


def recognises_project(file: AnnotationFile) -> bool:
    return isinstance(file.json, dict) and {"observations", "behaviors_conf"} <= file.json.keys()


def read_project(file: AnnotationFile) -> Videos:
    """Reads the events of all observations of media; a behaviour is a class, whoever shows it."""
    kinds = {}
    for key, behavior in file.get(file.json, "behaviors_conf", dict, "project").items():
        place = f"behaviors_conf {key[:50]!r}"
        kinds[file.get(behavior, "code", str, place)] = file.get(behavior, "type", str, place)
    videos = Videos()
    for name, observation in file.get(file.json, "observations", dict, "project").items():
        place = f"observation {name[:50]!r}"
        file.get(file.json["observations"], name, dict, "observations")
        if observation.get("type") not in ("MEDIA", None):
            file.notes.append(f"{place} is of no video and was passed over")
            continue
        media = _media(file, observation, place)
        if observation.get("time offset"):
            file.notes.append(f"{place} has a time offset; the times of its events are taken to count from its video")
        for video_id, length in media:
            videos.add_video(video_id, length)
        events = []
        for number, event in enumerate(file.get(observation, "events", list, place)):
            where = f"{place}, event {number}"
            if not isinstance(event, list) or len(event) < 3:
                raise file.error("it must be [time, subject, code, ...]", where)
            code = file.label(event[2], where)
            if event[2] not in kinds:
                raise file.error(f"there is no behavior {code[:50]!r} in behaviors_conf", where)
            key = (str(event[1]), code, str(event[3]) if len(event) > 3 else "")
            is_state = kinds[event[2]].lower().startswith("state")
            events.append(_Event(file.seconds(event[0], where), key, code, is_state, where))
        for start, end, label, where in _actions(file, events):
            video_id, shift = _file_at(file, media, start, end, where)
            videos.add(video_id, start - shift, end - shift, label)
    return videos


def _media(file: AnnotationFile, observation: dict[str, Any], place: str) -> list[tuple[str, float | None]]:
    """The videos that the first player shows, one after the other, with their lengths."""
    players = file.get(observation, "file", dict, place)
    paths = file.get(players, "1", list, f"{place}, file") if "1" in players else []
    if not paths:
        raise file.error("it has no media file in player 1", place)
    info = observation.get("media_info")
    lengths = info.get("length") if isinstance(info, dict) else None
    media = []
    for path in paths:
        length = lengths.get(path) if isinstance(lengths, dict) and isinstance(path, str) else None
        seconds = None if length is None else file.seconds(length, f"{place}, media_info.length")
        media.append((file.video_id(path, f"{place}, file"), seconds))
    return media


def _file_at(
    file: AnnotationFile, media: list[tuple[str, float | None]], start: float, end: float, place: str
) -> tuple[str, float]:
    """The video of an action and the time at which it starts in the queue of the player."""
    shift = 0.0
    for video_id, length in media[:-1]:
        if length is None:
            raise file.error("files in a queue, and media_info.length is missing; save it in BORIS again", place)
        if start < shift + length:
            if end > shift + length:
                raise file.error("it reaches from one file of the queue into the next", place)
            return video_id, shift
        shift += length
    return media[-1][0], shift


def _actions(file: AnnotationFile, events: Iterable[_Event]) -> Iterable[tuple[float, float, str, str]]:
    """Pairs the starts and stops of states; points start where they end."""
    open_events: dict[tuple[str, ...], _Event] = {}
    for event in sorted(events, key=lambda event: event.time):
        if not event.is_state:
            yield event.time, event.time, event.label, event.place
        elif (started := open_events.pop(event.key, None)) is None:
            open_events[event.key] = event
        else:
            yield started.time, event.time, event.label, event.place
    for event in open_events.values():
        raise file.error(f"{event.label[:50]!r} starts at {event.time:g} s and does not stop", event.place)


def _header(file: AnnotationFile) -> tuple[int, dict[str, int]] | None:
    """The line of the header of a table of events, and its columns."""
    for line, row in first_rows(file):
        columns = {name: column for column, name in enumerate(row)}
        if "Behavior" in columns and ({"Start (s)", "Stop (s)"} <= columns.keys() or "Time" in columns):
            return line, columns
    return None


def recognises_table(file: AnnotationFile) -> bool:
    return _header(file) is not None


def read_table(file: AnnotationFile) -> Videos:
    """Reads aggregated events (a row has start and stop) or tabular ones (a row is one of them)."""
    header = _header(file)
    if header is None:
        raise file.error("there is no header with Behavior and either Start (s) and Stop (s), or Time")
    head, columns = header
    videos, events = Videos(), defaultdict(list)
    name_column = next((columns[name] for name in _MEDIA_COLUMNS if name in columns), None)
    for line, row in rows_of(file):
        if line <= head:
            continue
        place = f"line {line}"
        name = cell(row, name_column)
        video_id = file.video_id(name.partition(";")[0], place) if name else file.own_video_id
        if re.search(r"#1:[^|]*;", cell(row, columns.get("Source"))):
            raise file.error("times of several files in a queue count from the first; read the project (.boris)", place)
        label = file.label(cell(row, columns["Behavior"]), place)
        kind = cell(row, columns.get("Behavior type", columns.get("Status"))).upper()
        if "Start (s)" in columns:
            start = file.seconds(cell(row, columns["Start (s)"]), place)
            end = start if kind == "POINT" else file.seconds(cell(row, columns["Stop (s)"]), place)
            videos.add(video_id, start, end, label)
        else:
            key = tuple(cell(row, columns.get(part)) for part in ("Observation id", "Subject", "Behavior"))
            time = file.seconds(cell(row, columns["Time"]), place)
            events[video_id].append(_Event(time, key, label, kind in ("START", "STOP"), place))
    for video_id, of_video in events.items():
        for start, end, label, _ in _actions(file, of_video):
            videos.add(video_id, start, end, label)
    return videos


_MEDIA_COLUMNS = ("Media file name", "Media file", "Media file path")


def text(videos: Sequence[VideoToWrite]) -> str:
    """A project with an observation of each video; actions of a class that overlap are of different subjects."""
    labels = sorted({label for video in videos for label in video.labels})
    behaviors = {
        str(number): {
            "type": "State event",
            "key": _KEYS[number % len(_KEYS)],
            "code": label,
            "description": "",
            "color": "",
            "category": "",
            "modifiers": {},
            "excluded": "",
            "coding map": "",
        }
        for number, label in enumerate(labels)
    }
    observations = {video.name: _observation(video) for video in videos}
    subjects = sorted({event[1] for each in observations.values() for event in each["events"]} - {""})
    project = {
        "time_format": "hh:mm:ss",
        "project_date": _DATE,
        "project_name": "actions",
        "project_description": "",
        "project_format_version": "7.0",
        "subjects_conf": {
            str(number): {"key": "", "name": name, "description": ""} for number, name in enumerate(subjects)
        },
        "behaviors_conf": behaviors,
        "observations": observations,
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    return json.dumps(project, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _observation(video: VideoToWrite) -> dict[str, Any]:
    events = []
    for label in video.labels:
        of_class = [action for action in video.actions if action[2] == label]
        for lane, (start, end, _) in zip(lanes(of_class), of_class, strict=True):
            subject = f"overlap {lane + 1}" if lane else ""
            events += [[round(time, 3), subject, label, "", ""] for time in (start, end)]
    info = {"length": video.duration, "fps": video.frame_rate, "hasVideo": True, "hasAudio": False}
    return {
        "file": {"1": [video.name], **{str(player): [] for player in range(2, 9)}},
        "type": "MEDIA",
        "date": _DATE,
        "description": "",
        "time offset": 0.0,
        "events": sorted(events, key=lambda event: event[0]),
        "independent_variables": {},
        "visualize_spectrogram": False,
        "close_behaviors_between_videos": False,
        "media_info": {**{key: {video.name: value} for key, value in info.items()}, "offset": {"1": 0.0}},
    }


_KEYS = "abcdefghijklmnopqrstuvwxyz0123456789"
# The same file for the same actions.
_DATE = "2026-01-01T00:00:00"
_WRITER = Writer(".boris", text, together=True, needs=("duration", "frame_rate"))
PROJECT = Format("boris", "a project of BORIS", recognises_project, read_project, _WRITER)
TABLE = Format("boris-table", "a table of events of BORIS", recognises_table, read_table)
