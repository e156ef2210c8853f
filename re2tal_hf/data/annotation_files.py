"""Annotation files of ours, written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .annotation_records import Record
from .whole_files import written_whole

# Microseconds.
DIGITS = 6


def write_annotations(path: Path, records: Sequence[Record]) -> None:
    """Writes annotations as JSON in the form of ActivityNet, as `read_annotations` reads them.

    The file is complete whenever it is there.
    """
    database = {record.video_id: _entry(record) for record in records}
    text = json.dumps({"database": database}, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _entry(record: Record) -> dict[str, object]:
    known = {"subset": record.subset, "duration": record.duration}
    actions = sorted(zip(record.segments, map(str, record.labels), strict=True))
    return {
        **{key: value for key, value in known.items() if value},
        "annotations": [
            {"segment": [round(start, DIGITS), round(end, DIGITS)], "label": label} for (start, end), label in actions
        ],
    }


def points(records: Iterable[Record]) -> int:
    """How many actions start where they end."""
    return sum(start == end for record in records for start, end in record.segments)
