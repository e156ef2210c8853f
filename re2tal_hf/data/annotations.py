"""Annotation files: which actions happen in which video, from when to when."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tqdm.auto import tqdm

from ..value_checks import NOT_NEGATIVE, POSITIVE, SHARE, check_values, shown
from .annotation_records import Record, check_case, clean_label, parse_record
from .annotation_set import (
    RULES,
    AnnotatedVideo,
    AnnotationError,
    AnnotationSet,
    PointOf,
    RuleLog,
    repair_segments,
    repair_video,
)
from .annotation_sources import read_file
from .hub_video import HubVideo
from .json_files import check_unique, read_text, some
from .time_units import MAX_LOST, check_times
from .video_files import files_of_id, find_features, find_videos, same_name

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

logger = logging.getLogger(__name__)

_SETTINGS = {
    "subset": str | None,
    "label_names": Sequence[str] | None,
    "first_label_id": Annotated[int, NOT_NEGATIVE],
    "point_width": Annotated[float | None, POSITIVE],
    "points": PointOf | None,
    "max_lost": Annotated[float, SHARE],
}
_SUBSET_SYNONYMS = (
    frozenset({"train", "training"}),
    frozenset({"val", "valid", "validation"}),
    frozenset({"test", "testing"}),
)


def read_annotations(
    source: str | Path,
    *,
    subset: str | None = None,
    video_folder: str | Path | None = None,
    feature_folder: str | Path | None = None,
    label_names: Sequence[str] | None = None,
    first_label_id: int = 0,
    repair: bool = True,
    point_width: float | None = None,
    points: PointOf | None = None,
    max_lost: float = MAX_LOST,
    streaming: bool = False,
) -> AnnotationSet:
    """Reads and checks the annotations of one subset.

    Five forms are read, with times in seconds or as timecodes (`1:02:03.5`):

    - ActivityNet: `{"database": {video_id: {"subset", "duration", "annotations": [{"segment":
      [start, end], "label"}]}}}`. Times may be strings, the duration may be absent, and `label_id`
      may stand in for `label`.
    - MultiTHUMOS: `{video_id: {"subset", "duration", "actions": [[label_id, start, end]]}}`.
    - A dataset on the Hub, or a folder of that form: videos and a `metadata.jsonl` (one, or one
      per split folder) with a line per video, `{"file_name", "annotations"}` and optionally
      `video_id` (else the file's stem), `duration` and `subset` (else the split, which in a folder
      is told by the names of the folders as `datasets` does, see `read_hub_rows`; the name of any
      other folder is understood too).
    - Files of other tools, where their content shows which: see `annotation_formats`. Those that count frames and
      do not say their rate are for `re2tal annotations convert`.
    - Detections, as `re2tal predict` writes them for one video (its id is the name of the file) and
      `re2tal evaluate` for many: `[{"label", "start", "end"}]`, `{"results": {video_id: [{"label",
      "segment"}]}}`. They have no subsets, and are all of the one asked for.

    Blanks and characters that are not seen are taken away from labels, and counted. Labels that then
    differ only in case are an error, unless `label_names` or the card of a dataset have both.

    Args:
        source: File, folder with `metadata.jsonl`, or dataset on the Hub, "user/name" or
            "user/name@revision".
        subset: Subset to read, in any case. A name that stands in the file comes first; else
            "train" means "training", "val" and "valid" "validation", "test" "testing", and back.
            Which subset a benchmark trains on is its own matter: THUMOS-14 files call their
            training videos "Validation", "training" or "train". `None` reads all; an empty name is
            an error.
        video_folder: Where the videos lie, in any subfolder, as `<id>.<ext>` or `v_<id>.<ext>`; an id
            may have the extension and folders (`train/a.mp4`). Hidden folders are passed over.
        feature_folder: In place of `video_folder`, that of stored features, a file for each video, called as a video
            would be.
        label_names: The classes, in order; any other label is an error. Default: those that the
            card of a dataset declares, else the labels of all subsets of the file, by their ids
            where it gives both, else sorted.
        first_label_id: Id of `label_names[0]` in files that give ids only (MultiTHUMOS: 1).
        repair: Drop or clip what breaks one of `RULES`, as training needs. `False` counts it but
            keeps every segment and video as it stands: the ground truth of the ActivityNet metric.
        point_width: Makes segments of this many seconds, about its time, of every action that starts
            where it ends; otherwise such points count as a broken rule.
        points: In place of that: actions are points in time, "middle" or "start" of those that have a length.
        max_lost: With `repair`, the largest share of the segments that may be dropped because they lie
            outside their video, or end before they start, by the durations in the file: more are times
            that are not seconds (see `check_times`).
        streaming: Leave each video on the Hub until `AnnotatedVideo.local_path` is asked for it.
            `False` fetches those of the subset now.

    Raises:
        AnnotationError: Malformed file, duplicate ids, unknown subset or label, labels that differ only
            in case, no video files, no such dataset, times that are not seconds.
        TypeError, ValueError: An argument is of another type, or out of its range.
        FileNotFoundError: No such annotation file or video folder.
        VideoReadError: A video cannot be fetched from the Hub.
    """
    folders = {"video_folder": video_folder, "feature_folder": feature_folder}
    for name, value in {"source": source, **{name: folder or "" for name, folder in folders.items()}}.items():
        if not isinstance(value, str | os.PathLike):
            raise TypeError(f"{name} is {shown(value)}; it must be a path.")
    settings = {
        "subset": subset,
        "label_names": label_names if isinstance(label_names, str | int | None) else list(label_names),
        "first_label_id": first_label_id,
        "point_width": point_width,
        "points": points,
        "max_lost": max_lost,
    }
    check_values("", settings, _SETTINGS)
    if points is not None and point_width is not None:
        raise ValueError("points and point_width exclude each other: actions are points, or segments of that width.")
    records, declared_names = _read_records(source)
    names = list(label_names) if label_names is not None else declared_names or _label_names(records, source)
    records = _select_subset(records, subset, source)
    if feature_folder is not None:
        find_record_files(records, Path(feature_folder), find_features)
    elif video_folder is not None:
        find_record_files(records, Path(video_folder), find_videos)
    rules = RuleLog()
    class_ids = _class_ids(records, names, first_label_id, source)
    names_files = video_folder is not None or feature_folder is not None or not os.path.isfile(source)
    videos = []
    for record in records:
        for rule, example in record.found:
            rules.add(rule, example)
        if record.path is None and names_files:
            rules.add("missing_file", record.video_id)
            if repair:
                continue
        videos.append(_annotated_video(record, class_ids, point_width, points))
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
    """Reads class names from a text file, one a line; blank lines are skipped.

    Raises:
        AnnotationError: Not such a file: no text, no names, or a name twice.
    """
    lines = read_text(Path(path)).splitlines()
    names = [name for line in lines if (name := clean_label(line))]
    if not names or any(unicodedata.category(c) == "Cc" for line in lines for c in line if not c.isspace()):
        raise AnnotationError(f"{path}: no names of classes in it; give one on each line")
    if lines[0].lstrip().startswith(("[", "{", "<")):
        raise AnnotationError(f"{path}: this is no list of names, but begins {shown(lines[0])}; give one on each line")
    check_unique(names, path)
    return names


def _annotated_video(
    record: Record, class_ids: dict[str | int, int], point_width: float | None, points: PointOf | None
) -> AnnotatedVideo:
    if point_width is not None:
        record.widen_points(point_width)
    segments = np.array(record.segments, dtype=np.float64).reshape(-1, 2)
    if points is not None:
        right = segments[:, 0] <= segments[:, 1]
        segments[right] = (segments[:, :1] if points == "start" else segments.mean(axis=1, keepdims=True))[right]
    labels = [class_ids[label] for label in record.labels]
    return AnnotatedVideo(
        record.video_id,
        record.subset or "",
        record.path,
        record.duration,
        segments,
        labels,
        record.frame_rate,
        points=points is not None,
    )


def hub_dataset(source: str | Path) -> str | None:
    """Returns the dataset on the Hub that a source of annotations names; None where it is a file or folder here."""
    path = Path(source)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", str(source)) and path.suffix.lower() != ".json"
    return str(source) if named and not os.path.exists(source) else None


def _read_records(source: str | Path) -> tuple[list[Record], list[str] | None]:
    """The videos of all subsets, and the names of the classes where the source declares them."""
    path = Path(source)
    # Path.is_file raises of paths that are no paths.
    if os.path.isfile(source):
        records, _, notes = read_file(path)
        for note in dict.fromkeys(notes):
            logger.info("%s: %s", path, note)
        return records, None
    if not os.path.exists(source) and hub_dataset(source) is None:
        raise FileNotFoundError(f"annotations {str(source)[-200:]} do not exist; give a JSON file or a folder")
    from .hub_annotations import read_hub_rows  # here, because it takes seconds to import and files do not need it

    rows, names = read_hub_rows(source)
    records = []
    for row in rows:
        record = parse_record(row["video_id"], row, row["source"])
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


def _select_subset(records: list[Record], subset: str | None, source: str | Path) -> list[Record]:
    selected = records
    if subset is not None and not subset.strip():
        selected = []
    elif subset is not None:
        asked = subset.strip().lower()
        # Where the form of the file has no place for subsets, all is of the one asked for.
        records = [replace(record, subset=subset) if record.subset is None else record for record in records]
        present = {str(record.subset).lower() for record in records}
        wanted = {asked}
        if not wanted & present:
            wanted.update(*(names for names in _SUBSET_SYNONYMS if asked in names))
        selected = [record for record in records if str(record.subset).lower() in wanted] or [
            replace(record, subset=subset)
            for record in records
            if asked in (folder.lower() for folder in record.folders)
        ]
    if not selected:
        available = Counter(record.subset or "" for record in records)
        listing = ", ".join(f"{shown(name)} ({count} videos)" for name, count in available.most_common(8) if name)
        wanting = (
            f"no videos in subset {shown(subset)}" if subset and subset.strip() else "the name of the subset is empty"
        )
        has = (
            f"the file has {listing}"
            if listing
            else 'no video has a "subset"; give each one, as re2tal annotations split does'
        )
        raise AnnotationError(f"{source}: {wanting}; {has}")
    check_unique((record.video_id for record in selected), source)
    return selected


def find_record_files(
    records: Sequence[Record], folder: Path, find: Callable[[Path], dict[str, list[Path]]] = find_videos
) -> None:
    """Sets the path of each record to its file in a folder, None where there is none.

    Args:
        records: The videos.
        folder: Of the files.
        find: The files of a folder by their stems.

    Raises:
        AnnotationError: A video has several files, a file several videos, or none has any.
        FileNotFoundError: There is no such folder, or no such file in it.
    """
    files = find(folder)
    ids: dict[Path, str] = {}
    for record in records:
        found = files_of_id(record.video_id, files, folder)
        if len(found) > 1:
            alike = len({same_name(str(path)) for path in found}) == 1
            hint = " (their names differ only in how accents are written)" if alike else ""
            raise AnnotationError(
                f"{folder}: several files for video {shown(record.video_id)}: {some(found)}{hint}; keep one"
            )
        record.path = found[0] if found else None
        if found and (other := ids.setdefault(found[0], record.video_id)) != record.video_id:
            raise AnnotationError(
                f"{folder}: {shown(other)} and {shown(record.video_id)} are both called by {found[0].name}; keep one"
                " entry of a video, or put its file into the folder that its id names"
            )
    if all(record.path is None for record in records):
        kind = "features" if find is find_features else "videos"
        raise AnnotationError(
            f"{folder}: none of its {len(files)} {kind} is one of the {len(records)} annotated ones"
            f" (first annotated: {shown(records[0].video_id)}, first file: {shown(next(iter(files)))})"
        )


def _label_names(records: list[Record], source: str | Path) -> list[str]:
    ids: dict[Any, Any] = {}
    for record in records:
        for label, label_id in zip(record.labels, record.label_ids, strict=True):
            if ids.setdefault(label, label_id) != label_id:
                raise AnnotationError(
                    f"{source}: video {shown(record.video_id)}: label {shown(label)} has label_id {shown(label_id)}"
                    f" here and {shown(ids[label])} elsewhere; give it one"
                )
    if len({type(label) for label in ids}) > 1:
        raise AnnotationError(f"{source}: some labels are names and some are ids; use one kind, or give label_names")
    check_case((label for record in records for label in record.labels if isinstance(label, str)), source)
    if any(label_id is None for label_id in ids.values()):
        return [str(label) for label in sorted(ids)]
    return [str(label) for label in sorted(ids, key=ids.__getitem__)]


def _class_ids(
    records: list[Record], names: list[str], first_label_id: int, source: str | Path
) -> dict[str | int, int]:
    """Maps every label of the records, name or id, to its index in `names`."""
    index = {clean_label(name): i for i, name in enumerate(names)}
    if len(index) < len(names):
        raise AnnotationError(f"{source}: label_names repeats a name: {some(names)}")
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
            f"{source}: unknown labels {some(sorted(unknown, key=str))}{hint}; the label names given are {some(names)}"
        )
    return class_ids
