"""The three tasks of EPIC-KITCHENS-100: verbs, nouns, and actions, which are a verb and a noun.

The forms are those of its challenge: annotations as its tables have them (`EPIC_100_validation.csv`) or as OpenTAD's
JSON, detections as they are handed in. The mAP is the metric's, which as the challenge's own evaluation leaves out
detected classes that are nowhere annotated (OpenTAD's counts them as another class).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.annotation_records import parse_seconds
from ..data.json_files import read_json
from .measurement import measure

TASKS = ("verb", "noun", "action")
COLUMNS = ("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")
ANNOTATIONS = '{"database": {video_id: {"annotations": [{"segment", "verb_label", "noun_label"}]}}}'
DETECTIONS = '{"results": {video_id: [{"segment", "score", "verb", "noun", "action": "verb,noun"}]}}'

Event = dict[str, Any]
"""`segment`, labels as texts by task; of detections `score`."""


def verb_noun_map(
    detections: Mapping[str, Sequence[Event]],
    annotations: Mapping[str, Sequence[Event]],
    tiou_thresholds: Sequence[float],
    **settings: Any,
) -> dict[str, dict[str, Any]]:
    """Measures the tasks that the detections have labels of.

    Args:
        detections: By video.
        annotations: Likewise.
        tiou_thresholds: Of the mAP.
        settings: Of the metric.

    Returns:
        Task -> what the metric returns, `per_class` by label; the label of an action is `"verb,noun"`.
    """
    found = {}
    for task in TASKS:
        predictions, references = (_rows(videos, task) for videos in (detections, annotations))
        if not any(row["labels"] for row in predictions):
            continue
        names = sorted({label for row in [*predictions, *references] for label in row["labels"]})
        ids = {name: number for number, name in enumerate(names)}
        for row in [*predictions, *references]:
            row["labels"] = [ids[label] for label in row["labels"]]
        found[task] = measure(predictions, references, names, tiou_thresholds, **settings)
    return found


def read_annotations(path: Path, subset: str) -> dict[str, list[Event]]:
    """Reads what is there, by video.

    Args:
        path: A `.csv` of EPIC-KITCHENS-100, or JSON.
        subset: Of a JSON file; a table is one.

    Raises:
        ValueError: The file is of another form, or has no action of the subset.
        OSError: It cannot be read.
    """
    found = _read_table(path) if path.suffix.lower() == ".csv" else _read_database(path, subset)
    if not any(found.values()):
        raise ValueError(f"{path} has no action of the subset {subset!r}; give --subset as the file spells it.")
    return found


def read_detections(path: Path) -> dict[str, list[Event]]:
    """Reads what was found, by video.

    Raises:
        ValueError: The file is of another form, or some detections have labels of a task and others not.
        OSError: It cannot be read.
    """
    content = read_json(path, DETECTIONS)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise ValueError(f"{path} is not of the form {DETECTIONS}.")
    found = {
        video: [_detection(path, video, row) for row in _listed(path, video, rows)] for video, rows in results.items()
    }
    tasks = {task for rows in found.values() for row in rows for task in TASKS if task in row}
    for video, rows in found.items():
        for row in rows:
            if lacking := sorted(tasks - row.keys()):
                raise ValueError(f"{path}, video {video!r}: a detection has no {lacking[0]!r}, and others have one.")
    return found


def _rows(videos: Mapping[str, Sequence[Event]], task: str) -> list[dict[str, Any]]:
    rows = []
    for video_id, events in videos.items():
        own = [event for event in events if task in event]
        row = {"video_id": video_id, "segments": [event["segment"] for event in own]}
        rows.append(
            row | {"labels": [event[task] for event in own], "scores": [event.get("score", 0.0) for event in own]}
        )
    return rows


def _read_table(path: Path) -> dict[str, list[Event]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table in UTF-8 with commas ({error}).") from error
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{path} has no column {lacking[0]!r}: it must be a table as EPIC_100_validation.csv.")
    found: dict[str, list[Event]] = {}
    for number, row in enumerate(rows, start=2):
        times = [parse_seconds(row[name], f"{path}, line {number}, {name}") for name in COLUMNS[1:3]]
        verb, noun = (str(row[name]).strip() for name in COLUMNS[3:])
        found.setdefault(str(row["video_id"]), []).append(_labelled(times, verb, noun))
    return found


def _read_database(path: Path, subset: str) -> dict[str, list[Event]]:
    content = read_json(path, ANNOTATIONS)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise ValueError(f"{path} is not of the form {ANNOTATIONS}.")
    found = {}
    for video, entry in database.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, video {video!r}: it is not of the form {ANNOTATIONS}.")
        if entry.get("subset", subset) != subset:
            continue
        rows = _listed(path, video, entry.get("annotations", []))
        for row in rows:
            if lacking := [name for name in ("verb_label", "noun_label") if name not in row]:
                raise ValueError(f"{path}, video {video!r}: an action has no {lacking[0]!r}.")
        found[video] = [
            _labelled(_segment(path, video, row), _label(row["verb_label"]), _label(row["noun_label"])) for row in rows
        ]
    return found


def _labelled(segment: list[float], verb: str, noun: str) -> Event:
    return {"segment": segment, "verb": verb, "noun": noun, "action": f"{verb},{noun}"}


def _detection(path: Path, video: str, row: Mapping[str, Any]) -> Event:
    labels = {task: _label(row[task]) for task in TASKS[:2] if task in row}
    if "action" in row:
        labels["action"] = ",".join(_label(part) for part in str(row["action"]).split(","))
    elif len(labels) == 2:
        labels["action"] = ",".join(labels.values())
    score = parse_seconds(row.get("score"), f"{path}, video {video!r}, score")
    return {"segment": _segment(path, video, row), "score": score, **labels}


def _segment(path: Path, video: str, row: Mapping[str, Any]) -> list[float]:
    segment = row.get("segment")
    if not isinstance(segment, list) or len(segment) != 2:
        raise ValueError(f"{path}, video {video!r}: a segment is {segment!r}; write [start, end] in seconds.")
    return [parse_seconds(time, f"{path}, video {video!r}, segment") for time in segment]


def _label(value: Any) -> str:
    """A class as a text: 3, "3" and OpenTAD's "id_3" are one."""
    return str(value).strip().removeprefix("id_")


def _listed(path: Path, video: str, rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}, video {video!r}: it must have a list of objects.")
    return rows
