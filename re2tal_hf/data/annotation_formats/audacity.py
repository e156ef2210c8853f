"""Label tracks of Audacity, by "Importing and Exporting Labels" in its manual: start, end and label, tabs between."""

from __future__ import annotations

import re

from .annotation_file import AnnotationFile, Videos
from .format import Format

_LINE = re.compile(r"-?\d+(?:[.,]\d+)?\t-?\d+(?:[.,]\d+)?(?:\t.*)?", re.ASCII)


def recognises(file: AnnotationFile) -> bool:
    lines = [line for line in (file.text or "").splitlines() if line.strip() and not line.startswith("\\")]
    return bool(lines) and _LINE.fullmatch(lines[0]) is not None and lines[0].count("\t") <= 2


def read(file: AnnotationFile) -> Videos:
    """Reads a track; lines that begin with a backslash are ranges of frequencies of the line before."""
    videos = Videos()
    videos.add_video(file.own_video_id)
    for number, line in enumerate(file.lines(), start=1):
        if line.strip() and not line.startswith("\\"):
            place = f"line {number}"
            *times, label = (line.split("\t", 2) + ["", ""])[:3]
            start, end = (file.seconds(time.replace(",", "."), place) for time in times)
            videos.add(file.own_video_id, start, end, file.label(label, place))
    return videos


FORMAT = Format("audacity", "a label track of Audacity", recognises, read)
