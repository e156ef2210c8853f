"""Annotations of Vidat, by the format in its README: actions in seconds, their classes in the configuration."""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format


def recognises(file: AnnotationFile) -> bool:
    annotation = file.json.get("annotation") if isinstance(file.json, dict) else None
    return isinstance(annotation, dict) and "actionAnnotationList" in annotation


def read(file: AnnotationFile) -> Videos:
    """Reads the actions of its one video."""
    annotation, videos = file.json["annotation"], Videos()
    video = file.get(annotation, "video", dict, "annotation")
    video_id = file.video_id(video.get("src"), "annotation.video.src") if video.get("src") else file.own_video_id
    if video_id.startswith(("blob:", "data:")):
        video_id = file.own_video_id
    length = video.get("duration")
    videos.add_video(video_id, None if length is None else file.seconds(length, "annotation.video.duration"))
    config = file.get(file.json, "config", dict, "file")
    names = {}
    for number, action in enumerate(file.get(config, "actionLabelData", list, "config")):
        place = f"config.actionLabelData[{number}]"
        names[str(file.get(action, "id", int, place))] = file.get(action, "name", str, place)
    for number, action in enumerate(file.get(annotation, "actionAnnotationList", list, "annotation")):
        place = f"actionAnnotationList[{number}]"
        label = names.get(str(file.get(action, "action", int, place)))
        start, end = (file.seconds(action.get(key), f"{place}.{key}") for key in ("start", "end"))
        videos.add(video_id, start, end, file.label(label, f"{place}: action {action['action']}"))
    return videos


FORMAT = Format("vidat", "annotations of Vidat", recognises, read)
