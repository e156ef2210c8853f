"""Projects of the VGG Image Annotator for video (VIA 3), by its sources _via_metadata.js and _via_attribute.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer

# Of an attribute; the value of a checkbox has several ids of options.
_TEXT, _CHECKBOX, _SELECT = 1, 2, 4
# Of a file: a video that the user chooses.
_VIDEO, _LOCAL = 4, 1


def recognises(file: AnnotationFile) -> bool:
    return isinstance(file.json, dict) and {"project", "attribute", "file", "view", "metadata"} <= file.json.keys()


def read(file: AnnotationFile) -> Videos:
    """Reads the temporal segments; what has a place in the picture, or no two times, is passed over and counted."""
    project, videos, passed = file.json, Videos(), 0
    attributes = file.get(project, "attribute", dict, "project")
    views = {key: _video(file, key) for key in file.get(project, "view", dict, "project")}
    for video_id in views.values():
        videos.add_video(video_id)
    for key, segment in file.get(project, "metadata", dict, "project").items():
        place = f"metadata {key[:50]!r}"
        times = file.get(segment, "z", list, place)
        if segment.get("xy") or len(times) != 2:
            passed += 1
            continue
        start, end = (file.seconds(time, place) for time in times)
        view = str(segment.get("vid"))
        if view not in views:
            raise file.error(f"there is no view {view[:50]!r}", place)
        for label in _labels(file, file.get(segment, "av", dict, place), attributes, place):
            videos.add(views[view], start, end, label)
    if passed:
        file.notes.append(f"{passed} regions that are no temporal segments were passed over")
    return videos


def _video(file: AnnotationFile, view: str) -> str:
    place = f"view {view[:50]!r}"
    ids = file.get(file.json["view"][view], "fid_list", list, place)
    entry = file.get(file.json["file"], str(ids[0]) if ids else "", dict, place)
    # Of a file that was opened by its address, fname is the address.
    return file.video_id(entry.get("fname"), place)


def _labels(file: AnnotationFile, values: dict[str, Any], attributes: dict[str, Any], place: str) -> list[str]:
    """The values of a segment's attributes; ids of options by their names."""
    labels = []
    for key, value in values.items():
        attribute = attributes.get(key)
        options = attribute.get("options") if isinstance(attribute, dict) else None
        kind = attribute.get("type") if isinstance(attribute, dict) else _TEXT
        given = value.split(",") if isinstance(value, str) and kind == _CHECKBOX else [value]
        for each in given:
            name = options.get(each, each) if isinstance(options, dict) and isinstance(each, str) else each
            if name != "":
                labels.append(file.label(name, place))
    if not labels:
        raise file.error("the segment has no label; choose one in VIA", place)
    return labels


def text(videos: Sequence[VideoToWrite]) -> str:
    """A project with one attribute, from whose options each segment has one."""
    labels = sorted({label for video in videos for label in video.labels})
    options = {label: str(number) for number, label in enumerate(labels)}
    ids = {str(number): video for number, video in enumerate(videos, start=1)}
    metadata = {
        f"{view}_{number:08d}": {
            "vid": view,
            "flg": 0,
            "z": [round(start, 3), round(end, 3)],
            "xy": [],
            "av": {"1": options[label]},
        }
        for view, video in ids.items()
        for number, (start, end, label) in enumerate(video.actions)
    }
    attribute = {
        "aname": "action",
        "anchor_id": "FILE1_Z2_XY0",
        "type": _SELECT,
        "desc": "",
        "options": {number: label for label, number in options.items()},
        "default_option_id": "",
    }
    project = {
        "project": {
            "pid": "__VIA_PROJECT_ID__",
            "rev": "__VIA_PROJECT_REV_ID__",
            "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
            "pname": "actions",
            "creator": "re2tal_hf",
            "created": 0,
            "data_format_version": "3.1.1",
            "vid_list": list(ids),
        },
        "config": {
            "file": {"loc_prefix": dict.fromkeys("1234", "")},
            "ui": {
                "file_content_align": "center",
                "file_metadata_editor_visible": True,
                "spatial_metadata_editor_visible": True,
                "temporal_segment_metadata_editor_visible": True,
                "spatial_region_label_attribute_id": "",
                "gtimeline_visible_row_count": "4",
            },
        },
        "attribute": {"1": attribute},
        "file": {
            view: {"fid": view, "fname": video.name, "type": _VIDEO, "loc": _LOCAL, "src": ""}
            for view, video in ids.items()
        },
        "view": {view: {"fid_list": [view]} for view in ids},
        "metadata": metadata,
    }
    return json.dumps(project, ensure_ascii=False, allow_nan=False) + "\n"


_WRITER = Writer(".json", text, together=True)
FORMAT = Format("via", "a project of the VGG Image Annotator", recognises, read, _WRITER)
