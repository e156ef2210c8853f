"""SoccerNet's Labels-v2.json and its kin: points in time of the halves of a match.

Read as `label2vector` in SoccerNet/Evaluation/ActionSpotting.py does.
"""

from __future__ import annotations

import re
from typing import Any

from .annotation_file import AnnotationFile, Videos
from .format import Format

_GAME_TIME = re.compile(r"\s*([1-9])\s*-\s*(\d{1,3}):(\d{1,2})\s*", re.ASCII)


def recognises(file: AnnotationFile) -> bool:
    return isinstance(file.json, dict) and "UrlLocal" in file.json and "annotations" in file.json


def read(file: AnnotationFile) -> Videos:
    """Reads the events as segments without length; each half of a match is a video of its own, `1_720p`, `2_720p`."""
    game, videos = file.video_id(file.json["UrlLocal"], "UrlLocal"), Videos()
    for number, event in enumerate(file.get(file.json, "annotations", list, "file")):
        place = f"annotations[{number}]"
        label = file.label(file.get(event, "label", str, place), place)
        file.get(event, "gameTime", str, place)
        half, time = event_time(file, event, "position", place)
        videos.add(f"{game}/{half}_720p", time, time, label)
    file.notes.append("the halves are taken to be the files 1_720p and 2_720p in the folder of their match")
    return videos


def event_time(file: AnnotationFile, event: dict[str, Any], position: str, place: str) -> tuple[int, float]:
    """The half and the seconds of an event: by its milliseconds under `position`, else by its clock `gameTime`.

    Raises:
        AnnotationError: It has neither, or one of another form.
    """
    half, seconds = 1, 0.0
    if "gameTime" in event or event.get(position) is None:
        clock = _GAME_TIME.fullmatch(file.get(event, "gameTime", str, place))
        if clock is None:
            raise file.error(f"gameTime {event['gameTime'][:50]!r} is not of the form '1 - 12:34'", place)
        half = int(clock[1])
        seconds = 60.0 * int(clock[2]) + int(clock[3])
    if event.get(position) is not None:  # the clock has whole seconds only
        seconds = file.seconds(event[position], f"{place}.{position}", "milliseconds")
    return half, seconds


FORMAT = Format("soccernet", "labels of SoccerNet", recognises, read)
