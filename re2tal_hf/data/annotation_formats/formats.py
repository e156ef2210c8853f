"""All formats of annotations, and which of them a file is of."""

from __future__ import annotations

from pathlib import Path

from ..annotation_records import Record, parse_record
from ..annotation_set import AnnotationError
from . import (
    audacity,
    boris,
    charades,
    cvat,
    deepethogram,
    ego4d,
    elan,
    epic,
    frame_labels,
    label_studio,
    open_sports,
    soccernet,
    subtitles,
    table,
    textgrid,
    thumos,
    via,
    vidat,
    x_anylabeling,
)
from .annotation_file import AnnotationFile, ReadingSettings
from .format import Format, Writer

# A table comes last: tables of tools have columns of these names, too.
_ALL = (
    elan.FORMAT,
    cvat.FORMAT,
    label_studio.FORMAT,
    via.FORMAT,
    vidat.FORMAT,
    boris.PROJECT,
    boris.TABLE,
    soccernet.FORMAT,
    open_sports.FORMAT,
    x_anylabeling.FORMAT,
    subtitles.FORMAT,
    textgrid.FORMAT,
    audacity.FORMAT,
    frame_labels.RUNS,
    frame_labels.LINES,
    deepethogram.FORMAT,
    charades.FORMAT,
    ego4d.FORMAT,
    epic.VERBS,
    epic.NOUNS,
    epic.ACTIONS,
    epic.SOUNDS,
    thumos.FORMAT,
    table.FORMAT,
)
FORMATS: dict[str, Format] = {each.name: each for each in _ALL}
"""By the name that options take."""
WRITERS: dict[str, Writer] = {each.name: each.writer for each in _ALL if each.writer is not None}
"""Of those that are written, too."""


def recognise(file: AnnotationFile) -> Format | None:
    """Returns the format of which the content of a file certainly is; None where that does not show.

    Raises:
        AnnotationError: It is XML that is not well-formed, or has a DOCTYPE, or JSON with a key twice.
    """
    return next((each for each in _ALL if each.recognises is not None and each.recognises(file)), None)


def read_records(
    path: Path, kind: str | None = None, settings: ReadingSettings | None = None
) -> tuple[list[Record], Format, list[str]]:
    """Reads a file of another tool.

    Args:
        path: The file.
        kind: Of `FORMATS`; by default what its content shows.
        settings: What the file does not tell.

    Returns:
        Its videos with their actions in seconds, the format, and how the file was understood.

    Raises:
        AnnotationError: It cannot be read as such, or its kind does not show; names the file and the place.
        OSError: It cannot be read.
    """
    if not path.is_file():
        wrong = "is a folder; name the file in it" if path.is_dir() else "does not exist"
        raise AnnotationError(f"{path}: this file of annotations {wrong}")
    if not path.stat().st_size:
        raise AnnotationError(f"{path}: this file of annotations is empty; write it again")
    file = AnnotationFile(path, settings)
    found = FORMATS[kind] if kind else recognise(file)
    if found is None:
        raise AnnotationError(f"{path}: its content does not show what wrote it; say --from {', '.join(FORMATS)}")
    if kind and found.recognises is not None and not found.recognises(file):
        raise AnnotationError(f"{path}: this is not {found.title}; leave --from out, or say another one")
    return read_recognised(file, found), found, file.notes


def read_recognised(file: AnnotationFile, found: Format) -> list[Record]:
    """Reads a file of a format that it is of.

    Raises:
        AnnotationError: It is malformed, or holds nothing.
    """
    videos = found.read(file)
    if not videos:
        raise AnnotationError(f"{file.path}: there are no videos and no actions in it")
    return [parse_record(video_id, entry, file.path) for video_id, entry in videos.items()]
