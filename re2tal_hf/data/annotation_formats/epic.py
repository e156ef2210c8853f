"""The tables of EPIC-KITCHENS-100 and EPIC-SOUNDS, by the READMEs of their repositories.

A file is one subset, which its name tells: `EPIC_100_train.csv`, `EPIC_Sounds_validation.csv`. Classes are called by
their ids as in OpenTAD's files (`id_003`; of an action `id_003,id_012`), which is also their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .annotation_file import AnnotationFile, Videos
from .format import Format
from .separated import has_columns, named_rows

_VIDEO = ("video_id", "start_timestamp", "stop_timestamp")


def _reader(*classes: str) -> Callable[[AnnotationFile], Videos]:
    def read(file: AnnotationFile) -> Videos:
        """Reads a row as an action whose class is in these columns."""
        videos = Videos()
        for place, row in named_rows(file, (*_VIDEO, *classes)):
            video_id = file.video_id(row["video_id"], place)
            videos.add_video(video_id, subset=file.subset_in_name)
            start, end = (file.seconds(row[name], f"{place}, {name}") for name in _VIDEO[1:])
            videos.add(video_id, start, end, ",".join(_label(file, row, name, place) for name in classes))
        return videos

    return read


def _label(file: AnnotationFile, row: Mapping[str, str], column: str, place: str) -> str:
    if not row[column].isdecimal():
        raise file.error(f"{column} is {row[column][:50]!r}; it must be the number of a class", place)
    return f"id_{int(row[column]):03d}"


def recognises_sounds(file: AnnotationFile) -> bool:
    return has_columns(file, (*_VIDEO, "class", "class_id"))


VERBS = Format("epic-verbs", "verbs of EPIC-KITCHENS-100", None, _reader("verb_class"))
NOUNS = Format("epic-nouns", "nouns of EPIC-KITCHENS-100", None, _reader("noun_class"))
ACTIONS = Format("epic-actions", "actions of EPIC-KITCHENS-100", None, _reader("verb_class", "noun_class"))
SOUNDS = Format("epic-sounds", "sounds of EPIC-SOUNDS", recognises_sounds, _reader("class_id"))
