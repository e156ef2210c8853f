"""OpenSportsLib's JSON, version 2.0, by docs/data/osl-json-format.md: events of videos at a point in time."""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format
from .soccernet import event_time


def recognises(file: AnnotationFile) -> bool:
    data = file.json.get("data") if isinstance(file.json, dict) else None
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "inputs" in data[0]


def read(file: AnnotationFile) -> Videos:
    """Reads the events of every item's first video as segments without length."""
    videos = Videos()
    for number, item in enumerate(file.json["data"]):
        place = f"data[{number}]"
        inputs = file.get(item, "inputs", list, place)
        paths = [each.get("path") for each in inputs if isinstance(each, dict) and each.get("type") in ("video", None)]
        video_id = file.video_id(paths[0] if paths else item.get("id"), f"{place}.inputs")
        videos.add_video(video_id)
        for event_number, event in enumerate(file.get(item, "events", list, place) if item.get("events") else []):
            where = f"{place}.events[{event_number}]"
            label = file.label(file.get(event, "label", str, where), where)
            _, time = event_time(file, event, "position_ms", where)
            videos.add(video_id, time, time, label)
    return videos


FORMAT = Format("opensportslib", "annotations of OpenSportsLib", recognises, read)
