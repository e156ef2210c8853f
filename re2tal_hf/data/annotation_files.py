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

    The file is complete whenever it is there. Ids of labels, by which classes are ordered, are kept if each action has
    one, and each class its own.
    """
    text = annotations_text(records)
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def annotations_text(records: Sequence[Record]) -> str:
    """Returns what `write_annotations` writes."""
    pairs = {pair for record in records for pair in zip(record.labels, record.label_ids, strict=True)}
    labels, ids = (set(part) for part in zip(*pairs, strict=True)) if pairs else (set(), set())
    numbered = None not in ids and len(pairs) == len(labels) == len(ids)
    database = {record.video_id: _entry(record, numbered) for record in records}
    return json.dumps({"database": database}, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _entry(record: Record, numbered: bool) -> dict[str, object]:
    known = {"subset": record.subset, "duration": record.duration}
    numbers = [{"label_id": number} if numbered else {} for number in record.label_ids]
    actions = zip(record.segments, map(str, record.labels), numbers, strict=True)
    return {
        **{key: value for key, value in known.items() if value},
        "annotations": [
            {"segment": [round(start, DIGITS), round(end, DIGITS)], "label": label} | number
            for (start, end), label, number in sorted(actions, key=lambda action: action[:2])
        ],
    }


def points(records: Iterable[Record]) -> int:
    """How many actions start where they end."""
    return sum(start == end for record in records for start, end in record.segments)
