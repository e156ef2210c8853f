"""The tables of EPIC-KITCHENS-100 and EPIC-SOUNDS, by the READMEs of their repositories.

A file is one subset, which its name tells: `EPIC_100_train.csv`, `EPIC_Sounds_validation.csv`. Classes are called by
their ids as in OpenTAD's files (`id_003`; of an action `id_003,id_012`), which is also their order; with the published
`EPIC_100_verb_classes.csv` and `EPIC_100_noun_classes.csv` by the names there (`take`; of an action `take,plate`),
verbs and nouns in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..annotation_set import AnnotationError
from .annotation_file import AnnotationFile, Videos
from .format import Format
from .separated import has_columns, named_rows

_VIDEO = ("video_id", "start_timestamp", "stop_timestamp")


def _reader(*classes: str) -> Callable[[AnnotationFile], Videos]:
    def read(file: AnnotationFile) -> Videos:
        """Reads a row as an action whose class is in these columns."""
        videos = Videos()
        names = {column: _class_names(file, column.removesuffix("_class")) for column in classes}
        for place, row in named_rows(file, (*_VIDEO, *classes)):
            video_id = file.video_id(row["video_id"], place)
            videos.add_video(video_id, subset=file.subset_in_name)
            start, end = (file.seconds(row[name], f"{place}, {name}") for name in _VIDEO[1:])
            ids = {column: _class_id(file, row, column, place) for column in classes}
            label = ",".join(
                _label(file, number, names[column], f"{place}, {column}") for column, number in ids.items()
            )
            # Ids sort as their numbers do, names do not.
            alone = file.settings.classes and len(classes) == 1
            videos.add(video_id, start, end, label, ids[classes[0]] if alone else None)
        return videos

    return read


def _class_id(file: AnnotationFile, row: Mapping[str, str], column: str, place: str) -> int:
    if not row[column].isdecimal():
        raise file.error(f"{column} is {row[column][:50]!r}; it must be the number of a class", place)
    return int(row[column])


def _label(file: AnnotationFile, number: int, names: Mapping[int, str] | None, place: str) -> str:
    if names is None:
        return f"id_{number:03d}"
    if number not in names:
        raise file.error(f"there is no class {number} in the table of --classes", place)
    return names[number]


def _class_names(file: AnnotationFile, word: str) -> dict[int, str] | None:
    """The names of verbs or nouns by their ids, of the table whose name has this word; None where none is given."""
    if not file.settings.classes:
        return None
    tables = [path for path in file.settings.classes if word in path.name.lower()]
    if len(tables) != 1:
        raise file.error(f"give --classes one table of the {word}s, called as EPIC_100_{word}_classes.csv")
    if not tables[0].is_file():
        raise AnnotationError(f"{tables[0]}: this table of classes does not exist")
    table, names = AnnotationFile(tables[0]), dict[int, str]()
    for place, row in named_rows(table, ("id", "key")):
        number, name = _class_id(table, row, "id", place), table.label(row["key"], place)
        if number in names or name in names.values():
            raise table.error(f"class {number}, {name!r}, is there twice", place)
        names[number] = name
    return names


def recognises_sounds(file: AnnotationFile) -> bool:
    return has_columns(file, (*_VIDEO, "class", "class_id"))


VERBS = Format("epic-verbs", "verbs of EPIC-KITCHENS-100", None, _reader("verb_class"), of_ids=True)
NOUNS = Format("epic-nouns", "nouns of EPIC-KITCHENS-100", None, _reader("noun_class"), of_ids=True)
ACTIONS = Format("epic-actions", "actions of EPIC-KITCHENS-100", None, _reader("verb_class", "noun_class"), of_ids=True)
SOUNDS = Format("epic-sounds", "sounds of EPIC-SOUNDS", recognises_sounds, _reader("class_id"))
