"""The group of each video: the person, place or day that it shares with others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..value_checks import shown
from .annotation_formats.annotation_file import AnnotationFile
from .annotation_formats.separated import cell, rows_of
from .annotation_formats.table import video_columns
from .annotation_set import AnnotationError
from .annotation_sources import entries_of
from .json_files import some
from .video_files import VIDEO_EXTENSIONS, same_name


def groups_by_pattern(video_ids: Sequence[str], pattern: str) -> list[str]:
    """Returns for each video what a regular expression finds in its name: its first group, else the whole match.

    Raises:
        ValueError: It is no regular expression.
        AnnotationError: It finds nothing in a name, or an empty text.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {shown(pattern)} is no regular expression: {error}.") from error
    found = [expression.search(video_id) for video_id in video_ids]
    groups = [match[1 if expression.groups else 0] if match else None for match in found]
    if lacking := [video_id for video_id, group in zip(video_ids, groups, strict=True) if not group]:
        raise AnnotationError(f"the pattern {shown(pattern)} finds nothing in the names {some(lacking)}")
    return [str(group) for group in groups]


def groups_of_column(path: Path, column: str) -> dict[str, str]:
    """Returns the group of each video by what annotations say of it under a name.

    Args:
        path: A table with a column of this name, or JSON of ours whose videos have a field of it.
        column: The name.

    Raises:
        AnnotationError: There is no such column, or a video has several values.
    """
    file = AnnotationFile(path)
    if file.json is not None:
        entries = entries_of(path)
        pairs = [(name, entry.get(column)) for name, entry in entries.items() if isinstance(entry, dict)]
        if all(value is None for _, value in pairs):
            raise AnnotationError(f"{path}: no video has {shown(column)}")
        return _unique([(name, value) for name, value in pairs if value is not None], path)
    (_, header), *rows = rows_of(file) or [(1, [])]
    if column not in header:
        raise AnnotationError(f"{path}: there is no column {shown(column)}; the first line has {some(header, 12)}")
    video, place = video_columns(header), header.index(column)
    names = [file.own_video_id if video is None else file.video_id(cell(row, video), f"line {n}") for n, row in rows]
    return _unique(list(zip(names, (cell(row, place) for _, row in rows), strict=True)), path)


def groups_of_file(path: Path) -> dict[str, str]:
    """Returns the group of each video by a file: JSON `{video_id: group}`, or a table of two columns.

    Raises:
        AnnotationError: It is none, or a video has several groups.
    """
    if not path.is_file():
        raise AnnotationError(f"{path}: this file of groups does not exist")
    file = AnnotationFile(path)
    if isinstance(file.json, dict):
        return _unique(list(file.json.items()), path)
    rows = rows_of(file)
    if wrong := [line for line, row in rows if len(row) != 2 or not all(row)]:
        raise AnnotationError(f"{path}: line {wrong[0]}: give two columns, a video and its group")
    return _unique([(video, group) for _, (video, group) in rows], path)


def matched_groups(video_ids: Sequence[str], groups: dict[str, str], source: str | Path) -> list[str]:
    """Returns the group of each video by its id, which here may lack folders and extension.

    Raises:
        AnnotationError: A video has none.
    """
    by_stem = {_stem(name): group for name, group in groups.items()}
    by_name = {same_name(name): group for name, group in groups.items()}
    found = [by_name.get(same_name(name)) or by_stem.get(_stem(name)) for name in video_ids]
    if lacking := [name for name, group in zip(video_ids, found, strict=True) if group is None]:
        raise AnnotationError(f"{source}: no group for the videos {some(lacking)}")
    return [str(group) for group in found]


def _stem(name: str) -> str:
    path = PurePosixPath(same_name(name).replace("\\", "/"))
    return path.stem if path.suffix.lower() in VIDEO_EXTENSIONS else path.name


def _unique(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for video, value in pairs:
        group = str(value).strip() if isinstance(value, str | int) else ""
        if not group:
            raise AnnotationError(f"{path}: video {shown(video)}: {shown(value)} is no group; give it a name")
        if groups.setdefault(video, group) != group:
            raise AnnotationError(f"{path}: video {shown(video)} is in the groups {shown(groups[video])} and {group!r}")
    return groups
