"""The sidecar of X-AnyLabeling's video classifier, by "Data Format" in its documentation."""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format


def recognises(file: AnnotationFile) -> bool:
    return isinstance(file.json, dict) and file.json.get("type") == "video_classification" and "segments" in file.json


def read(file: AnnotationFile) -> Videos:
    """Reads the segments of its one video, which are in milliseconds."""
    name, length, videos = file.json.get("video"), file.json.get("duration_ms"), Videos()
    video_id = file.video_id(name, "video") if name else file.own_video_id
    videos.add_video(video_id, None if length is None else file.seconds(length, "duration_ms", "milliseconds"))
    for number, segment in enumerate(file.get(file.json, "segments", list, "file")):
        place = f"segments[{number}]"
        label = file.label(file.get(segment, "label", str, place), place)
        start, end = (file.seconds(segment.get(f"{key}_ms"), place, "milliseconds") for key in ("start", "end"))
        videos.add(video_id, start, end, label)
    return videos


FORMAT = Format("x-anylabeling", "a sidecar of X-AnyLabeling's video classifier", recognises, read)
