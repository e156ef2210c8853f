"""A label for each frame: a text with a line per frame (MS-TCN, 50 Salads, GTEA), or per run of frames (Breakfast)."""

from __future__ import annotations

import re
from itertools import groupby

from .annotation_file import AnnotationFile, Videos
from .format import Format

# Frames in which nothing happens, as these data sets and their features' authors call them.
BACKGROUND = ("background", "sil", "bg", "action_start", "action_end")
_RUN = re.compile(r"\s*(\d{1,9})-(\d{1,9})\s+(\S.*?)\s*", re.ASCII)


def recognises_runs(file: AnnotationFile) -> bool:
    lines = [line for line in (file.text or "")[:10_000].splitlines() if line.strip()][:3]
    return bool(lines) and all(_RUN.fullmatch(line) for line in lines)


def read_lines(file: AnnotationFile) -> Videos:
    """Reads a label a line, the first of them of the first frame; blank lines at the end are no frames."""
    lines = [line.strip() for line in file.lines()]
    while lines and not lines[-1]:
        del lines[-1]
    labels = [file.label(line, f"line {number}") for number, line in enumerate(lines, start=1)]
    videos, frame = Videos(), 0
    videos.add_video(file.own_video_id, file.seconds(len(labels), "length", "frames"))
    for label, run in groupby(labels):
        end = frame + len(list(run))
        _add(file, videos, label, frame, end, f"line {frame + 1}")
        frame = end
    return videos


def read_runs(file: AnnotationFile) -> Videos:
    """Reads lines `first-last label`, frames counted from 1 and both inside."""
    videos = Videos()
    videos.add_video(file.own_video_id)
    for number, line in enumerate(file.lines(), start=1):
        place = f"line {number}"
        if line.strip():
            run = _RUN.fullmatch(line)
            if run is None:
                raise file.error(f"{line.strip()[:80]!r} is not of the form '1-30 label'", place)
            _add(file, videos, file.label(run[3], place), int(run[1]) - 1, int(run[2]), place)
    return videos


def _add(file: AnnotationFile, videos: Videos, label: str, first: int, end: int, place: str) -> None:
    if label.lower() in BACKGROUND:
        note = f"frames labelled {label} are background"
        if note not in file.notes:
            file.notes.append(note)
        return
    start, stop = (file.seconds(frame, place, "frames") for frame in (first, end))
    videos.add(file.own_video_id, start, stop, label)


# A list of names would look the same.
LINES = Format("frame-labels", "a text with the label of each frame", None, read_lines)
RUNS = Format("frame-runs", "a text with the label of each run of frames", recognises_runs, read_runs)
