"""DeepEthogram's labels, by docs/file_structure.md there: a row for each frame, ones and zeros for each behaviour."""

from __future__ import annotations

from itertools import groupby

from .annotation_file import AnnotationFile, Videos
from .format import Format
from .separated import cell, first_rows, rows_of


def recognises(file: AnnotationFile) -> bool:
    rows = [row for _, row in first_rows(file, 5)]
    return len(rows) > 1 and rows[0][:2] == ["", "background"] and set(rows[1][1:]) <= {"0", "1", "-1"}


def read(file: AnnotationFile) -> Videos:
    """Reads every run of ones but those of the background; its name is that of the video with `_labels` behind it."""
    (_, header), *rows = rows_of(file)
    video_id, videos = file.own_video_id.removesuffix("_labels"), Videos()
    videos.add_video(video_id, file.seconds(len(rows), "length", "frames"))
    columns = [(column, name) for column, name in enumerate(header) if column and name.lower() != "background"]
    for column, name in columns:
        label, frame = file.label(name, "header"), 0
        values = []
        for line, row in rows:
            if (value := cell(row, column)) not in ("0", "1"):
                wanted = "label this frame in DeepEthogram" if value == "-1" else "it must be 0 or 1"
                raise file.error(f"{value[:50]!r} of {name[:50]!r}: {wanted}", f"line {line}")
            values.append(value)
        for value, run in groupby(values):
            end = frame + len(list(run))
            if value == "1":
                start, stop = (file.seconds(time, name, "frames") for time in (frame, end))
                videos.add(video_id, start, stop, label)
            frame = end
    return videos


FORMAT = Format("deepethogram", "labels of DeepEthogram", recognises, read)
