"""Detections as files: JSON, CSV and subtitle tracks."""

import csv
import html
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

Detections = Sequence[dict[str, Any]]


def to_json(detections: Detections) -> str:
    """A list of objects as the pipeline returns them, in order of time."""
    return json.dumps(_by_time(detections), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(detections: Detections) -> str:
    """Columns start, end (seconds), label and score, in order of time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["start", "end", "label", "score"])
    for row in _by_time(detections):
        times = f"{row['start']:.3f}", f"{row['end']:.3f}"
        writer.writerow([*times, _plain_cell(row["label"]), f"{row['score']:.4f}"])
    return text.getvalue()


def to_srt(detections: Detections) -> str:
    """SubRip: a numbered cue per detection."""
    cues = [
        f"{number}\n{_clock(row['start'], ',')} --> {_clock(row['end'], ',')}\n{_caption(row)}\n"
        for number, row in enumerate(_by_time(detections), start=1)
    ]
    return "\n".join(cues)


def to_vtt(detections: Detections) -> str:
    """WebVTT: a cue per detection."""
    cues = [
        f"{_clock(row['start'], '.')} --> {_clock(row['end'], '.')}\n{html.escape(_caption(row), quote=False)}\n"
        for row in _by_time(detections)
    ]
    return "\n".join(["WEBVTT\n", *cues])


FORMATS: dict[str, Callable[[Detections], str]] = {"json": to_json, "csv": to_csv, "srt": to_srt, "vtt": to_vtt}


def select(detections: Detections, threshold: float, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Those of the given classes that score at least `threshold`."""
    return [row for row in detections if row["score"] >= threshold and row["label"] in labels]


def _by_time(detections: Detections) -> list[dict[str, Any]]:
    return sorted(detections, key=lambda row: (row["start"], row["end"]))


def _caption(row: dict[str, Any]) -> str:
    # A line break or an arrow in a label would end the cue.
    label = " ".join(row["label"].split()).replace("-->", "->")
    return f"{label} ({row['score']:.2f})"


def _plain_cell(label: str) -> str:
    # Spreadsheets run what begins like a formula; labels come from whoever trained the model.
    return f"'{label}" if label.startswith(("=", "+", "-", "@", "\t", "\r")) else label


def _clock(seconds: float, separator: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{separator}{milliseconds % 1000:03d}"
