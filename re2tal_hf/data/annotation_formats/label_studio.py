"""Label Studio's JSON export of tasks with TimelineLabels: ranges of frames, counted from 1, both ends inside."""

from __future__ import annotations

from typing import Any

from .annotation_file import AnnotationFile, Videos
from .format import Format


def recognises(file: AnnotationFile) -> bool:
    first = file.json[0] if isinstance(file.json, list) and file.json else None
    return isinstance(first, dict) and "data" in first and bool({"annotations", "predictions"} & first.keys())


def read(file: AnnotationFile) -> Videos:
    """Reads the last annotation of every task that was not skipped, else the last prediction.

    The frame rate is `fps` or `framerate` in the data of a task, else the one that is given.
    """
    videos = Videos()
    for number, task in enumerate(file.json):
        place = f"task {number}"
        data = file.get(task, "data", dict, place)
        name = data.get("video") or next((value for value in data.values() if isinstance(value, str)), None)
        video_id = file.video_id(name, f"{place}, data")
        videos.add_video(video_id)
        rate = data.get("fps", data.get("framerate", file.settings.frame_rate))
        for result_number, result in enumerate(_results(file, task, place)):
            where = f"{place}, result {result_number}"
            value = file.get(result, "value", dict, where)
            if "timelinelabels" in value:
                labels = [file.label(label, where) for label in file.get(value, "timelinelabels", list, where)]
                for span in file.get(value, "ranges", list, where):
                    first, last = (file.get(span, key, int, where) for key in ("start", "end"))
                    start, end = file.frames(first - 1, rate, where), file.frames(last, rate, where)
                    for label in labels:
                        videos.add(video_id, start, end, label)
    return videos


def _results(file: AnnotationFile, task: dict[str, Any], place: str) -> list[Any]:
    for key in ("annotations", "predictions"):
        given = file.get(task, key, list, place) if task.get(key) else []
        made = [each for each in given if isinstance(each, dict) and not each.get("was_cancelled")]
        if made:
            return file.get(made[-1], "result", list, f"{place}, {key}")
    return []


FORMAT = Format("label-studio", "an export of Label Studio", recognises, read)
