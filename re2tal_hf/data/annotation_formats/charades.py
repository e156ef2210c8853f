"""Charades' tables, read as `parse_charades_csv` in PyVideoResearch's datasets/charades.py does.

A row is a video, with its actions as `c092 11.90 21.20;c147 0.00 12.60` and its length in seconds; a file is one
subset, which its name tells (`Charades_v1_train.csv`).
"""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format
from .separated import has_columns, named_rows

_COLUMNS = ("id", "actions", "length")


def recognises(file: AnnotationFile) -> bool:
    return has_columns(file, (*_COLUMNS, "script"))


def read(file: AnnotationFile) -> Videos:
    """Reads every video, also those in which nothing happens."""
    videos = Videos()
    for place, row in named_rows(file, _COLUMNS):
        video_id = file.video_id(row["id"], place)
        videos.add_video(video_id, file.seconds(row["length"], f"{place}, length"), file.subset_in_name)
        for action in filter(None, row["actions"].split(";")):
            label, *times = action.split()
            if len(times) != 2:
                raise file.error(f"{action[:50]!r} is no action of the form 'c092 11.90 21.20'", place)
            start, end = (file.seconds(time, place) for time in times)
            videos.add(video_id, start, end, file.label(label, place))
    return videos


FORMAT = Format("charades", "a table of Charades", recognises, read)
