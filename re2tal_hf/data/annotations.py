"""Annotation files: which actions happen in which video, from when to when."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .annotation_set import (
    RULES,
    AnnotatedVideo,
    AnnotationError,
    AnnotationSet,
    RuleLog,
    repair_segments,
    repair_video,
)
from .hub_video import HubVideo
from .time_units import MAX_LOST, check_times
from .video_files import VIDEO_EXTENSIONS, find_videos, same_name

__all__ = [
    "RULES",
    "AnnotatedVideo",
    "AnnotationError",
    "AnnotationSet",
    "RuleLog",
    "find_videos",
    "read_annotations",
    "read_label_names",
    "repair_segments",
]

_SUBSET_SYNONYMS = (
    frozenset({"train", "training"}),
    frozenset({"val", "valid", "validation"}),
    frozenset({"test", "testing"}),
)


@dataclass
class _Record:
    """A video as its file describes it: labels not yet resolved, segments not yet checked."""

    video_id: str
    subset: str
    duration: float | None
    segments: list[tuple[float, float]]
    labels: list[str | int]
    label_ids: list[int | None]
    path: Path | HubVideo | None = None
    folders: tuple[str, ...] = ()


def read_annotations(
    source: str | Path,
    *,
    subset: str | None = None,
    video_folder: str | Path | None = None,
    label_names: Sequence[str] | None = None,
    first_label_id: int = 0,
    repair: bool = True,
    max_lost: float = MAX_LOST,
    streaming: bool = False,
) -> AnnotationSet:
    """Reads and checks the annotations of one subset.

    Three forms are read:

    - ActivityNet: `{"database": {video_id: {"subset", "duration", "annotations": [{"segment":
      [start, end], "label"}]}}}`. Times may be strings, the duration may be absent, and `label_id`
      may stand in for `label`.
    - MultiTHUMOS: `{video_id: {"subset", "duration", "actions": [[label_id, start, end]]}}`.
    - A dataset on the Hub, or a folder of that form: videos and a `metadata.jsonl` (one, or one
      per split folder) with a line per video, `{"file_name", "annotations"}` and optionally
      `video_id` (else the file's stem), `duration` and `subset` (else the split, which in a folder
      is told by the names of the folders as `datasets` does, see `read_hub_rows`; the name of any
      other folder is understood too).

    Args:
        source: JSON file, folder with `metadata.jsonl`, or dataset on the Hub, "user/name" or
            "user/name@revision".
        subset: Subset to read, in any case. A name that stands in the file comes first; else
            "train" means "training", "val" and "valid" "validation", "test" "testing", and back.
            Which subset a benchmark trains on is its own matter: THUMOS-14 files call their
            training videos "Validation", "training" or "train". `None` reads all; an empty name is
            an error.
        video_folder: Where the videos lie, in any subfolder, as `<id>.<ext>` or `v_<id>.<ext>`.
        label_names: The classes, in order; any other label is an error. Default: those that the
            card of a dataset declares, else the labels of all subsets of the file, by their ids
            where it gives both, else sorted.
        first_label_id: Id of `label_names[0]` in files that give ids only (MultiTHUMOS: 1).
        repair: Drop or clip what breaks one of `RULES`, as training needs. `False` counts it but
            keeps every segment and video as it stands: the ground truth of the ActivityNet metric.
        max_lost: With `repair`, the largest share of the segments that may be dropped because they lie
            outside their video, or end before they start, by the durations in the file: more are times
            that are not seconds (see `check_times`).
        streaming: Leave each video on the Hub until `AnnotatedVideo.local_path` is asked for it.
            `False` fetches those of the subset now.

    Raises:
        AnnotationError: Malformed file, duplicate ids, unknown subset or label, no video files, no
            such dataset, times that are not seconds.
        FileNotFoundError: No such annotation file or video folder.
        VideoReadError: A video cannot be fetched from the Hub.
    """
    records, declared_names = _read_records(source)
    names = list(label_names) if label_names is not None else declared_names or _label_names(records, source)
    records = _select_subset(records, subset, source)
    if video_folder is not None:
        _find_files(records, Path(video_folder))
    rules = RuleLog()
    class_ids = _class_ids(records, names, first_label_id, source)
    names_files = video_folder is not None or not Path(source).is_file()
    videos = []
    for record in records:
        if record.path is None and names_files:
            rules.add("missing_file", record.video_id)
            if repair:
                continue
        videos.append(_annotated_video(record, class_ids))
    if not videos:
        raise AnnotationError(f"{source}: no video of the {len(records)} in subset {subset!r} has a file")
    if repair:
        check_times(videos, source, max_lost)
    repaired = [repair_video(video, rules) for video in videos]
    rules.warn(source, repaired=repair)
    videos = repaired if repair else videos
    if not streaming:
        _fetch(videos)
    return AnnotationSet(videos, names, dict(rules.counts), rules.lost)


def read_label_names(path: str | Path) -> list[str]:
    """Reads class names from a text file, one a line; blank lines are skipped."""
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _annotated_video(record: _Record, class_ids: dict[str | int, int]) -> AnnotatedVideo:
    segments = np.array(record.segments, dtype=np.float64).reshape(-1, 2)
    labels = [class_ids[label] for label in record.labels]
    return AnnotatedVideo(record.video_id, record.subset, record.path, record.duration, segments, labels)


def hub_dataset(source: str | Path) -> str | None:
    """Returns the dataset on the Hub that a source of annotations names; None where it is a file or folder here."""
    path = Path(source)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", str(source)) and path.suffix.lower() != ".json"
    return str(source) if named and not path.exists() else None


def _read_records(source: str | Path) -> tuple[list[_Record], list[str] | None]:
    """The videos of all subsets, and the names of the classes where the source declares them."""
    path = Path(source)
    if path.is_file():
        return _read_json(path), None
    if not path.exists() and hub_dataset(source) is None:
        raise FileNotFoundError(f"annotations {source} do not exist")
    from .hub_annotations import read_hub_rows  # here, because it takes seconds to import and files do not need it

    rows, names = read_hub_rows(source)
    records = []
    for row in rows:
        record = _parse_record(row["video_id"], row, row["source"])
        record.path, record.folders = row["path"], row.get("folders", ())
        records.append(record)
    return records, names


def _fetch(videos: list[AnnotatedVideo]) -> None:
    """Replaces files on the Hub by their copies here."""
    remote = [video for video in videos if isinstance(video.path, HubVideo)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        paths = pool.map(AnnotatedVideo.local_path, remote)
        for video, path in zip(remote, tqdm(paths, "fetching videos", len(remote), disable=not remote), strict=True):
            video.path = path


def _read_json(path: Path) -> list[_Record]:
    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_unique((key for key, _ in pairs), path)
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not a JSON file: {error}") from error
    database = content.get("database", content) if isinstance(content, dict) else None
    if not isinstance(database, dict) or not database:
        raise AnnotationError(
            f'{path}: expected {{"database": {{video_id: {{"subset", "annotations"}}}}}}'
            ' or {video_id: {"subset", "actions"}}'
        )
    return [_parse_record(video_id, entry, path) for video_id, entry in database.items()]


def _check_unique(ids: Iterable[str], source: str | Path) -> None:
    repeated = [key for key, count in Counter(map(same_name, ids)).items() if count > 1]
    if repeated:
        raise AnnotationError(
            f"{source}: duplicate ids {_some(repeated)}: keep one entry of each (accents written with their letters or"
            " apart from them are the same)"
        )


def _parse_record(video_id: str, entry: Any, source: str | Path) -> _Record:
    where = f"{source}: video {video_id!r}"
    if not isinstance(entry, dict) or not ("annotations" in entry or "actions" in entry):
        raise AnnotationError(f'{where}: expected an object with "annotations" (or "actions")')
    duration = entry.get("duration")
    if duration is not None:
        duration = _number(duration, f"{where}: duration")
        if duration <= 0:
            raise AnnotationError(f"{where}: duration {duration:g} is not positive; leave it out")
    record = _Record(video_id, str(entry.get("subset") or ""), duration, [], [], [])
    actions = entry["annotations"] if "annotations" in entry else entry["actions"]
    for i, action in enumerate(actions or []):
        label, label_id, segment = _parse_action(action, f"{where}, annotation {i}")
        record.labels.append(label)
        record.label_ids.append(label_id)
        record.segments.append(segment)
    return record


def _parse_action(action: Any, where: str) -> tuple[str | int, int | None, tuple[float, float]]:
    """One action -> (its name, or its id where it has no name; its id; start and end)."""
    if isinstance(action, dict):
        label_id, times = action.get("label_id"), action.get("segment")
        label = label_id if action.get("label") is None else action["label"]
    elif isinstance(action, list) and len(action) == 3:
        label, label_id, times = action[0], None, action[1:]
    else:
        label, label_id, times = None, None, None
    if not isinstance(label, str | int) or not isinstance(label_id, int | None):
        raise AnnotationError(f'{where}: no usable "label" (a name) or "label_id" (an integer)')
    if not isinstance(times, list) or len(times) != 2:
        raise AnnotationError(f'{where}: "segment" must be [start, end] in seconds, not {times!r}')
    start, end = (_number(time, f"{where}: segment") for time in times)
    return label, label_id, (start, end)


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise AnnotationError(f"{where}: {value!r} is not a number of seconds")
    return number


def _select_subset(records: list[_Record], subset: str | None, source: str | Path) -> list[_Record]:
    selected = records
    if subset is not None and not subset.strip():
        selected = []
    elif subset is not None:
        present = {record.subset.lower() for record in records}
        wanted = {subset.lower()}
        if not wanted & present:
            wanted.update(*(names for names in _SUBSET_SYNONYMS if subset.lower() in names))
        selected = [record for record in records if record.subset.lower() in wanted] or [
            replace(record, subset=subset)
            for record in records
            if subset.lower() in (folder.lower() for folder in record.folders)
        ]
    if not selected:
        available = Counter(record.subset for record in records)
        listing = ", ".join(f"{name!r} ({count} videos)" for name, count in available.items())
        wanting = f"no videos in subset {subset!r}" if subset and subset.strip() else "the name of the subset is empty"
        raise AnnotationError(f"{source}: {wanting}; the file has {listing}")
    _check_unique((record.video_id for record in selected), source)
    return selected


def _find_files(records: list[_Record], folder: Path) -> None:
    files = find_videos(folder)
    for record in records:
        stem = same_name(record.video_id)
        found = files.get(stem) or files.get(f"v_{stem}") or []
        if not found and Path(stem).suffix.lower() in VIDEO_EXTENSIONS:
            found = files.get(Path(stem).stem) or files.get(f"v_{Path(stem).stem}") or []
        if len(found) > 1:
            alike = len({same_name(str(path)) for path in found}) == 1
            hint = " (their names differ only in how accents are written)" if alike else ""
            raise AnnotationError(
                f"{folder}: several files for video {record.video_id!r}: {_some(found)}{hint}; keep one"
            )
        record.path = found[0] if found else None
    if all(record.path is None for record in records):
        raise AnnotationError(
            f"{folder}: none of its {len(files)} videos is one of the {len(records)} annotated ones"
            f" (first annotated: {records[0].video_id!r}, first file: {next(iter(files))!r})"
        )


def _label_names(records: list[_Record], source: str | Path) -> list[str]:
    ids: dict[Any, Any] = {}
    for record in records:
        for label, label_id in zip(record.labels, record.label_ids, strict=True):
            if ids.setdefault(label, label_id) != label_id:
                raise AnnotationError(
                    f"{source}: video {record.video_id!r}: label {label!r} has label_id {label_id}"
                    f" here and {ids[label]} elsewhere; give it one"
                )
    if len({type(label) for label in ids}) > 1:
        raise AnnotationError(f"{source}: some labels are names and some are ids; use one kind, or give label_names")
    if any(label_id is None for label_id in ids.values()):
        return [str(label) for label in sorted(ids)]
    return [str(label) for label in sorted(ids, key=ids.__getitem__)]


def _class_ids(
    records: list[_Record], names: list[str], first_label_id: int, source: str | Path
) -> dict[str | int, int]:
    """Maps every label of the records, name or id, to its index in `names`."""
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        raise AnnotationError(f"label_names repeats a name: {names}")
    class_ids: dict[str | int, int] = {}
    for label in {label for record in records for label in record.labels}:
        if str(label) in index:
            class_ids[label] = index[str(label)]
        elif isinstance(label, int) and 0 <= label - first_label_id < len(names):
            class_ids[label] = label - first_label_id
    unknown = {label for record in records for label in record.labels if label not in class_ids}
    if unknown:
        hint = " (where ids count from 1, set first_label_id=1)" if len(names) in unknown else ""
        raise AnnotationError(
            f"{source}: unknown labels {_some(sorted(unknown, key=str))}{hint};"
            f" the label names given are {', '.join(map(repr, names))}"
        )
    return class_ids


def _some(values: Iterable[Any], limit: int = 5) -> str:
    values = list(values)
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(repr(str(value)) for value in values[:limit]) + more
