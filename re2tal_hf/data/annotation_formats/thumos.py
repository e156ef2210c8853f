"""The files of THUMOS-14 and MultiTHUMOS: one for each class, which its name tells, with a line for each action.

The form is `video_validation_0000266 72.80 76.40`, as vedatad's tools/data/thumos14/txt2json.py and arctix's
dataset/multithumos.py read it. The subset is in the name of the video; training is on `validation`.
"""

from __future__ import annotations

import re

from .annotation_file import AnnotationFile, Videos
from .format import Format

_LINE = re.compile(r"(video_(validation|test)_\d{7})\s+(\S+)\s+(\S+)", re.ASCII)
_NO_CLASS = "Ambiguous"


def recognises(file: AnnotationFile) -> bool:
    first = next((line.strip() for line in (file.text or "")[:1000].splitlines() if line.strip()), "")
    return _LINE.fullmatch(first) is not None


def read(file: AnnotationFile) -> Videos:
    """Reads the actions of the class; segments that are ambiguous are none."""
    videos = Videos()
    label = re.sub("_(val|validation|test)$", "", file.path.stem)
    for number, line in enumerate(file.lines(), start=1):
        if not line.strip():
            continue
        parts, place = _LINE.fullmatch(line.strip()), f"line {number}"
        if parts is None:
            raise file.error(f"{line[:60]!r} is not of the form 'video_validation_0000266 72.80 76.40'", place)
        video_id, subset, *times = parts.groups()
        videos.add_video(video_id, subset=subset)
        if label != _NO_CLASS:
            start, end = (file.seconds(time, place) for time in times)
            videos.add(video_id, start, end, file.label(label, place))
    file.notes.append(f"not read: segments that are {_NO_CLASS}" if label == _NO_CLASS else f"class {label!r}")
    return videos


FORMAT = Format("thumos", "a class of THUMOS-14 or MultiTHUMOS", recognises, read, of_class=True)
