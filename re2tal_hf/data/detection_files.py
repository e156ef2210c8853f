"""Detections as files: JSON, CSV and subtitle tracks of a video, and one file for a set of videos."""

from __future__ import annotations

import csv
import html
import io
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..value_checks import check_values, shown
from .whole_files import written_whole

Detections = Sequence[dict[str, Any]]
"""Mappings with `label`, `score`, `start` and `end` (seconds), as the pipeline returns them."""

FIELDS = {"label": str, "score": float, "start": float, "end": float}
# Microseconds, and as much of a score.
DIGITS = 6
# The last is the minus sign of mathematics.
FORMULA_STARTS = ("=", "+", "-", "@", "\N{MINUS SIGN}")


def checked_detections(detections: Any, name: str = "detections") -> list[dict[str, Any]]:
    """Checks detections before anything is written of them.

    Args:
        detections: mappings with `label`, `score`, `start` and `end`.
        name: what messages call them.

    Returns:
        The same as a list, numbers of other libraries as Python's.

    Raises:
        TypeError: if they are no list of mappings.
        ValueError: if a field is missing, or a label is no text, or another field no finite number.
    """
    if not isinstance(detections, Sequence) or isinstance(detections, (str, bytes)):
        raise TypeError(f"{name} is {shown(detections)}; it must be a list of what the pipeline returns of a video.")
    rows = []
    for index, row in enumerate(detections):
        if not isinstance(row, Mapping):
            raise TypeError(f"{name}[{index}] is {shown(row)}; it must have label, score, start and end.")
        if missing := [field for field in FIELDS if field not in row]:
            raise ValueError(f"{name}[{index}] has no {missing[0]!r} but {shown([*row])}.")
        rows.append({**row, **check_values(f"{name}[{index}].", {field: row[field] for field in FIELDS}, FIELDS)})
    return rows


def to_json(detections: Detections) -> str:
    """A list of objects as the pipeline returns them, in their order."""
    return json.dumps(checked_detections(detections), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(detections: Detections) -> str:
    """Columns start, end (seconds), label and score, in order of time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["start", "end", "label", "score"])
    for row in by_time(detections):
        start, end, score = (round(row[name], DIGITS) for name in ("start", "end", "score"))
        writer.writerow([start, end, spreadsheet_cell(row["label"]), score])
    return text.getvalue()


def to_srt(detections: Detections) -> str:
    """SubRip: a numbered cue per detection, in order of time; of a point a second long."""
    cues = [
        f"{number}\n{_cue_times(row, ',')}\n{caption(row['label'], row['score'])}\n"
        for number, row in enumerate(by_time(detections), start=1)
    ]
    return "\n".join(cues)


def to_vtt(detections: Detections) -> str:
    """WebVTT: a cue per detection, in order of time; of a point a second long."""
    cues = []
    for row in by_time(detections):
        shown = html.escape(caption(row["label"], row["score"]), quote=False)
        cues.append(f"{_cue_times(row, '.')}\n{shown}\n")
    return "\n".join(["WEBVTT\n", *cues])


FORMATS: dict[str, Callable[[Detections], str]] = {"json": to_json, "csv": to_csv, "srt": to_srt, "vtt": to_vtt}


def write_detections(path: Path, detections: Detections) -> None:
    """Writes detections in the format that the ending of a path says, in UTF-8.

    Halves of letter pairs are written as their escapes, and a table begins with a byte order mark. The file is
    complete whenever it is there.
    """
    if (kind := path.suffix.removeprefix(".")) not in FORMATS:
        raise ValueError(f"{path}: end the name in one of {', '.join(FORMATS)}.")
    text = FORMATS[kind](detections)
    # Without its mark spreadsheets take a table for one in the code page of the machine.
    encoding = "utf-8-sig" if kind == "csv" else "utf-8"
    with written_whole(path) as partial:
        partial.write_text(text, encoding=encoding, errors="backslashreplace", newline="")


def write_submission(path: Path, detections: Mapping[str, Detections]) -> None:
    """Writes the detections of several videos, by `video_id`, in the form of the ActivityNet challenge.

    The file is complete whenever it is there.
    """
    if not isinstance(detections, Mapping):
        raise TypeError(f"detections is {shown(detections)}; it must be the detections of each video by video_id.")
    results = {
        video_id: [
            {"label": r["label"], "score": r["score"], "segment": [r["start"], r["end"]]}
            for r in checked_detections(rows, f"detections[{shown(video_id)}]")
        ]
        for video_id, rows in detections.items()
    }
    content = {"version": "VERSION 1.3", "external_data": {}, "results": results}
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def by_time(detections: Detections) -> list[dict[str, Any]]:
    """The same in order of their start, then of their end."""
    return sorted(checked_detections(detections), key=lambda row: (row["start"], row["end"]))


def one_line(label: str) -> str:
    """A label for a caption: without line breaks and other characters that are not seen."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in label).split())


def spreadsheet_cell(text: str) -> str:
    """A text that spreadsheets show and do not run: what would begin a formula gets an apostrophe.

    Labels and ids come from whoever trained the model or made the data. A formula begins with `=`, `+`, `-` or `@`,
    also full-width and behind space or characters that are not seen.
    """
    seen = (c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] not in "CZ")
    return f"'{text}" if next(seen, "") in FORMULA_STARTS or text.startswith(("\t", "\r", "\n")) else text


def caption(label: str, score: float | None = None) -> str:
    """A label as the text of a cue, with its score behind it."""
    # A line break or an arrow in a label would end the cue.
    text = one_line(label).replace("-->", "->")
    return text if score is None else f"{text} ({score:.2f})"


def _cue_times(row: Mapping[str, Any], separator: str) -> str:
    return f"{clock(row['start'], separator)} --> {clock(shown_until(row), separator)}"


def shown_until(row: Mapping[str, Any]) -> float:
    """The second until which a detection is named over a video: its end, of a point in time a second later."""
    return row["end"] if row["end"] > row["start"] else row["start"] + 1


def clock(seconds: float, separator: str) -> str:
    """A time as subtitles have it, with `separator` before the milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{separator}{milliseconds % 1000:03d}"
