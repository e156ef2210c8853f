"""Annotations and detections as JSON files hold them: read and checked, every fault named with its fix."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 50_000_000
MAX_LETTERS = 1000
ANNOTATION_FORM = (
    '{"database": {video_id: {"subset", "annotations": [{"segment", "label"}]}}} (ActivityNet) '
    'or a list of {"video_id", "segments", "labels"}'
)
DETECTION_FORM = (
    '{"results": {video_id: [{"segment", "label", "score"}]}} (ActivityNet submission) '
    'or a list of {"video_id", "segments", "labels", "scores"}'
)

Label = str | int
Row = dict[str, Any]
"""One video: `video_id`, `segments` [N, 2] in seconds, `labels` [N], `subset`, `duration`; detections: `scores` [N]."""


class InputError(ValueError):
    """A file or a setting that cannot be used; the message names it, the field and the fix."""


def read_annotations(path: str) -> list[Row]:
    """Reads ground truth in either form.

    Raises:
        InputError: If the file is not of this form.
    """
    name, data = Path(path).name, _read_json(path)
    if isinstance(data, list):
        return _plain_rows(data, name)
    database = data.get("database") if isinstance(data, dict) else None
    if not isinstance(database, dict):
        raise _wrong_form(name, ANNOTATION_FORM, data, swapped="results")
    rows = []
    for video_id, video in database.items():
        place = f"{name}, video {video_id!r}"
        if not isinstance(video, dict) or not isinstance(video.get("annotations"), list):
            raise InputError(f'{place}: "annotations" must be a list; write [] for a video without any action')
        row = _row(video_id, video["annotations"], place)
        rows.append(row | {"subset": str(video.get("subset", "")), "duration": _duration(video, place)})
    return _checked(rows, name)


def read_detections(path: str) -> list[Row]:
    """Reads detections in either form.

    Raises:
        InputError: If the file is not of this form or holds no detection.
    """
    name, data = Path(path).name, _read_json(path)
    results = data.get("results") if isinstance(data, dict) else None
    if isinstance(data, list):
        rows = _plain_rows(data, name)
    elif isinstance(results, dict):
        rows = [
            _row(video_id, entries, f"{name}, video {video_id!r}", scored=True) for video_id, entries in results.items()
        ]
    else:
        raise _wrong_form(name, DETECTION_FORM, data, swapped="database")
    rows = _checked(rows, name)
    if not any(row["labels"] for row in rows):
        raise InputError(f"{name}: it holds no detection; write at least one, or lower the score threshold it is from")
    return rows


def _read_json(path: str) -> Any:
    name, size = Path(path).name, Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{name}: {size / 1e6:.0f} MB, and the page takes {MAX_FILE_BYTES / 1e6:.0f}; keep the best detections of "
            "each video only, or measure in Python with evaluate.load, which has no limit"
        )
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if not text.strip():
            raise InputError(f"{name}: the file is empty; drop a JSON file")
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not a JSON file ({error}); write it with json.dump") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key!r} stands twice in one object")
    return unique


def _wrong_form(name: str, form: str, data: Any, swapped: str) -> InputError:
    if isinstance(data, dict) and swapped in data:
        return InputError(f'{name}: it has the field "{swapped}" of the other file; swap the two files')
    fields = f"an object with the fields {list(data)[:5]}" if isinstance(data, dict) else type(data).__name__
    return InputError(f"{name}: it must be {form}; it is {fields}")


def _row(video_id: str, entries: Any, place: str, scored: bool = False) -> Row:
    """A video in the ActivityNet form as a row of the plain form."""
    if not isinstance(entries, list):
        raise InputError(f"{place}: must be a list, got {type(entries).__name__}; write [] for none")
    row: Row = {"video_id": video_id, "segments": [], "labels": [], "subset": ""} | ({"scores": []} if scored else {})
    for number, entry in enumerate(entries):
        here = f"{place}, entry {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{here}: must be an object with segment and label, got {entry!r:.80}")
        segment = entry.get("segment")
        if not isinstance(segment, list) or len(segment) != 2:
            raise InputError(f'{here}: "segment" must be [start, end] in seconds, got {segment!r:.80}')
        row["segments"].append([_number(time, f'{here}: "segment"') for time in segment])
        row["labels"].append(entry.get("label"))
        if scored:
            row["scores"].append(_number(entry.get("score"), f'{here}: "score"'))
    return row


def _number(value: Any, place: str) -> float:
    try:  # times are strings in some published files
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{place} must hold finite numbers, got {value!r:.80}")
    return number


def _duration(video: dict[str, Any], place: str) -> float | None:
    """Seconds; None where it is not known, as many files say by a 0."""
    duration = video.get("duration")
    return _number(duration, f'{place}: "duration"') or None if duration is not None else None


def _plain_rows(data: list[Any], name: str) -> list[Row]:
    for number, row in enumerate(data):
        if not isinstance(row, dict) or not isinstance(row.get("video_id"), str):
            raise InputError(f'{name}, entry {number}: must be an object with "video_id" (text), got {row!r:.80}')
        if not isinstance(row.get("labels"), list):
            raise InputError(f'{name}, video {row["video_id"]!r}: "labels" must be a list; write [] for no segment')
    places = [f"{name}, video {row['video_id']!r}" for row in data]
    more = [
        {"subset": str(row.get("subset", "")), "duration": _duration(row, place)}
        for row, place in zip(data, places, strict=True)
    ]
    return _checked([row | fields for row, fields in zip(data, more, strict=True)], name)


def _checked(rows: list[Row], name: str) -> list[Row]:
    """The rows, if each video stands once and the labels are all names or all integers."""
    if not rows:
        raise InputError(f"{name}: it holds no video")
    video_id, count = Counter(row["video_id"] for row in rows).most_common(1)[0]
    if count > 1:
        raise InputError(f"{name}: video {video_id!r:.80} stands {count} times; merge its segments into one entry")
    for row in rows:
        place = f"{name}, video {row['video_id']!r:.80}"
        _check_text(row["video_id"], f"{place}: its id")
        _check_text(row.get("subset", ""), f'{place}: "subset"')
        for number, label in enumerate(row["labels"]):
            _check_text(label, f'{place}, entry {number}: "label"')
            if type(label) not in (str, int) or label == "":
                raise InputError(
                    f'{name}, video {row["video_id"]!r}, entry {number}: "label" must be a name or an integer, '
                    f"got {label!r:.80}"
                )
    if len({type(label) for row in rows for label in row["labels"]}) > 1:
        raise InputError(f'{name}: "label" is a name in some entries and an integer in others; use one of the two')
    return rows


def _check_text(value: Any, place: str) -> None:
    text = str(value)
    if len(text) > MAX_LETTERS:
        raise InputError(f"{place} has over {MAX_LETTERS} letters; shorten it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{place} holds half of a pair of code units, {text!r:.80}, which is no text; rename it")
