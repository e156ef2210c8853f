"""Ego4D's moments (`moments_train.json`), read as its baseline does (EGO4D/episodic-memory, MQ/Convert_annotation.py).

A video here is a clip, called by its `clip_uid`; times in the file count from the video that it is cut from. Of the
labels of all annotators the primary ones count.
"""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format


def recognises(file: AnnotationFile) -> bool:
    videos = file.json.get("videos") if isinstance(file.json, dict) else None
    return isinstance(videos, list) and bool(videos) and isinstance(videos[0], dict) and "clips" in videos[0]


def read(file: AnnotationFile) -> Videos:
    """Reads every clip that has a primary label, and those of a subset without any, such as the test's."""
    videos, left_out = Videos(), 0
    for number, video in enumerate(file.json["videos"]):
        subset = file.get(video, "split", str, f"videos[{number}]")
        for clip_number, clip in enumerate(file.get(video, "clips", list, f"videos[{number}]")):
            place = f"videos[{number}].clips[{clip_number}]"
            clip_id = file.video_id(file.get(clip, "clip_uid", str, place), place)
            first, last = (file.seconds(clip.get(f"video_{end}_sec"), f"{place}.video_{end}_sec") for end in _ENDS)
            first = max(first, 0.0)
            annotators = file.get(clip, "annotations", list, place) if clip.get("annotations") else []
            actions = [action for each in annotators for action in file.get(each, "labels", list, place)]
            primary = [action for action in actions if file.get(action, "primary", bool, place)]
            if "annotations" in clip and not primary:
                left_out += 1
                continue
            videos.add_video(clip_id, last - first, subset)
            for action in primary:
                start, end = (file.seconds(action.get(f"video_{end}_time"), place) - first for end in _ENDS)
                videos.add(clip_id, start, end, file.label(action.get("label"), place))
    if left_out:
        file.notes.append(f"left out as in the baseline: {left_out} clips without a primary label")
    return videos


_ENDS = ("start", "end")
FORMAT = Format("ego4d", "moments of Ego4D", recognises, read)
