"""SoccerNet's Labels-v2.json and its kin: points in time of the halves of a match, or of one clip."""

from __future__ import annotations

import re

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
        clock = _GAME_TIME.fullmatch(file.get(event, "gameTime", str, place))
        if clock is None:
            raise file.error(f"gameTime {event['gameTime'][:50]!r} is not of the form '1 - 12:34'", place)
        half, minutes, seconds = map(int, clock.groups())
        # In milliseconds, where the clock has seconds only.
        position = event.get("position")
        time = 60.0 * minutes + seconds if position is None else file.seconds(position, place, "milliseconds")
        videos.add(f"{game}/{half}_720p", time, time, label)
    file.notes.append("the halves are taken to be the files 1_720p and 2_720p in the folder of their match")
    return videos


FORMAT = Format("soccernet", "labels of SoccerNet", recognises, read)
