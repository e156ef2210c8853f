"""Praat's TextGrid, long and short, by "TextGrid file formats" in its manual: only what stands free is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from .annotation_file import AnnotationFile, Videos
from .format import Format

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)|(<exists>)|![^\n]*', re.ASCII)


def recognises(file: AnnotationFile) -> bool:
    start = (file.text or "")[:500]
    return '"ooTextFile' in start and '"TextGrid"' in start


def read(file: AnnotationFile) -> Videos:
    """Reads the intervals of all tiers that have a text, and points as segments without length."""
    values = _values(file)
    video_id, videos = file.own_video_id, Videos()
    for _ in range(3):  # both words of the head, the start
        next(values)
    videos.add_video(video_id, _number(file, values, "xmax"))
    next(values)  # <exists>
    for tier in range(1, _count(file, values, "size") + 1):
        kind, name = next(values), next(values)
        place = f"tier {tier} {str(name)[:50]!r}"
        if kind not in ("IntervalTier", "TextTier"):
            raise file.error(f"{str(kind)[:50]!r} is no IntervalTier and no TextTier", place)
        next(values), next(values)
        for item in range(1, _count(file, values, place) + 1):
            where = f"{place}, item {item}"
            start = _number(file, values, where)
            end = _number(file, values, where) if kind == "IntervalTier" else start
            text = next(values)
            if not isinstance(text, str):
                raise file.error("a text in quotes is missing", where)
            if text.strip():
                videos.add(video_id, start, end, file.label(text, where))
    return videos


def _values(file: AnnotationFile) -> Iterator[str | float]:
    """What stands free, texts without their quotes; an error at the end."""
    for token in _TOKEN.finditer("\n".join(file.lines())):
        text, number, flag = token.groups()
        if number:
            yield float(number)
        elif flag:
            yield flag
        elif text is not None:  # what follows an exclamation mark is a comment
            yield text.replace('""', '"')
    _ends(file)


def _ends(file: AnnotationFile) -> NoReturn:
    raise file.error("it ends within a tier; save it from Praat again")


def _number(file: AnnotationFile, values: Iterator[str | float], place: str) -> float:
    return file.seconds(next(values), place)


def _count(file: AnnotationFile, values: Iterator[str | float], place: str) -> int:
    count = next(values)
    if not isinstance(count, float) or not 0 <= count < 1e7 or count % 1:
        raise file.error(f"{str(count)[:50]!r} is no number of items", place)
    return int(count)


FORMAT = Format("textgrid", "a TextGrid of Praat", recognises, read)
