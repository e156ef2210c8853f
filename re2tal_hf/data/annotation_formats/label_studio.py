"""Label Studio's JSON export of tasks with TimelineLabels: ranges of frames, counted from 1, both ends inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer


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


def text(videos: Sequence[VideoToWrite]) -> str:
    """Tasks to import: actions that a model found are their predictions, others their annotations."""
    return json.dumps(list(map(_task, videos)), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _task(video: VideoToWrite) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for number, (start, end, label) in enumerate(video.actions):
        first, after = video.frames(start, end)
        result = {
            "id": f"action{number}",
            "from_name": "actions",
            "to_name": "video",
            "type": "timelinelabels",
            "value": {"ranges": [{"start": first + 1, "end": after}], "timelinelabels": [label]},
        }
        results.append(result if video.scores is None else {**result, "score": video.scores[number]})
    found = {"result": results} if video.scores is None else {"result": results, "model_version": "re2tal"}
    made = "annotations" if video.scores is None else "predictions"
    return {"data": {"video": video.name, "fps": video.frame_rate}, made: [found]}


def _hint(labels: Sequence[str]) -> str:
    options = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    return (
        'set up the project with <View><Video name="video" value="$video" frameRate="$fps"/>'
        f'<TimelineLabels name="actions" toName="video">{options}</TimelineLabels></View>'
    )


_WRITER = Writer(".json", text, together=True, needs=("frame_rate",), hint=_hint)
FORMAT = Format("label-studio", "an export of Label Studio", recognises, read, _WRITER)
