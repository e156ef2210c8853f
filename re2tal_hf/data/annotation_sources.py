"""Files of annotations, of ours and of other tools alike: what each says of its videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..value_checks import shown
from .annotation_formats.annotation_file import MAX_BYTES, AnnotationFile, ReadingSettings
from .annotation_formats.format import Format
from .annotation_formats.formats import read_recognised, read_records, recognise
from .annotation_records import Record, parse_record
from .annotation_set import AnnotationError
from .json_files import read_json

_FORM = '{"database": {video_id: {"subset", "annotations": [{"segment": [start, end], "label"}]}}}'

Source = tuple[list[Record], Format | None, list[str]]


def read_file(path: Path, settings: ReadingSettings | None = None) -> Source:
    """Reads a file of ours, or of another tool if its content shows which.

    Args:
        path: The file; it is there.
        settings: What the file does not tell.

    Returns:
        Its videos with their actions in seconds, its format (None: JSON of ours), and how it was understood.

    Raises:
        AnnotationError: It is none, or malformed; names the file and the place.
        OSError: It cannot be read.
    """
    if path.stat().st_size <= MAX_BYTES:
        file = AnnotationFile(path, settings)
        if (found := recognise(file)) is not None:
            return read_recognised(file, found), found, file.notes
    entries = entries_of(path)
    return [parse_record(video_id, entry, path) for video_id, entry in entries.items()], None, []


def read_source(path: Path, kind: str | None = None, settings: ReadingSettings | None = None) -> Source:
    """Reads a file as `read_file` does, or as one of a kind that is given.

    Args:
        path: The file.
        kind: Of `FORMATS`; by default what its content shows.
        settings: What the file does not tell.

    Raises:
        AnnotationError: There is no such file, or it is none, or malformed.
        OSError: It cannot be read.
    """
    if kind is None and path.is_file() and (path.stat().st_size > MAX_BYTES or AnnotationFile(path).json is not None):
        return read_file(path, settings)
    return read_records(path, kind, settings)


def entries_of(path: Path) -> dict[str, Any]:
    """What a JSON file of ours says of each video, in whichever of the forms.

    Raises:
        AnnotationError: It is none.
    """
    content = read_json(path, f"{_FORM}; re2tal annotations convert makes it of files of other forms")
    if isinstance(content, list) and content and all(_is_detection(entry) for entry in content):
        return {path.stem: content}
    for key in ("database", "results"):
        inside = content.get(key) if isinstance(content, dict) else None
        if inside is not None and not (isinstance(inside, dict) and "annotations" in inside):  # of a video of this name
            content = inside
    if not isinstance(content, dict) or not content:
        raise AnnotationError(
            f'{path}: expected {_FORM}, {{video_id: {{"subset", "actions"}}}} or detections as re2tal predict and'
            f" evaluate write them, not {shown(content)}"
        )
    return content


def _is_detection(entry: Any) -> bool:
    return isinstance(entry, dict) and {"label", "start", "end"} <= entry.keys()
