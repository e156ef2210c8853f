"""A file of annotations of another tool: its bytes as text, JSON or XML, and the times and names in it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element

from ...value_checks import shown
from ..annotation_records import clean_label, parse_seconds
from ..annotation_set import AnnotationError
from ..json_files import NOT_JSON, parse_json
from .xml_tree import parse_xml

# Annotations of an hour are some hundred kilobytes.
MAX_BYTES = 2**28
_SUBSETS = ("train", "training", "val", "valid", "validation", "test", "testing")
UNITS = ("seconds", "milliseconds", "frames")
# Hours, minutes, seconds and frames, as editors of video write them.
_SMPTE = re.compile(r"(\d{1,3}):([0-5]?\d):([0-5]?\d)[:;](\d{1,3})", re.ASCII)
_UPLOAD = re.compile(r"/upload/(?:\d+/)?[0-9a-f]{8}-([^/]+)$")

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class ReadingSettings:
    """What files do not tell of themselves.

    Attributes:
        frame_rate: Frames a second, of files that count frames.
        unit: One of `UNITS`, of tables whose headers do not name it.
        classes: Tables that name the classes of which a file has ids.
    """

    frame_rate: float | None = None
    unit: str | None = None
    classes: tuple[Path, ...] = ()


class Videos(dict[str, dict[str, Any]]):
    """What a file says of each video, by its id, as our own JSON has it: times in seconds."""

    def add_video(self, video_id: str, duration: float | None = None, subset: str | None = None) -> None:
        """Makes the entry of a video that has none yet, and adds to it what is known."""
        entry = self.setdefault(video_id, {"annotations": []})
        known = {"duration": duration or None, "subset": subset}
        entry.update({key: value for key, value in known.items() if value is not None})

    def add(self, video_id: str, start: float, end: float, label: str, label_id: int | None = None) -> None:
        """Adds an action, from `start` to `end` in seconds; by their ids, where they have some, classes are ordered."""
        self.add_video(video_id)
        own = {} if label_id is None else {"label_id": label_id}
        self[video_id]["annotations"].append({"segment": [start, end], "label": label} | own)


class AnnotationFile:
    """A file that is there, read once.

    Attributes:
        path: The file.
        settings: What it does not tell of itself.
        notes: What the user should know of how it was understood.
    """

    def __init__(self, path: Path, settings: ReadingSettings | None = None):
        self.path = path
        self.settings = settings or ReadingSettings()
        self.notes: list[str] = []
        if path.stat().st_size > MAX_BYTES:
            raise self.error(f"more than {MAX_BYTES // 2**20} MiB are no annotations; split it")
        self.content = path.read_bytes()

    @functools.cached_property
    def text(self) -> str | None:
        """Its text; None where it is none."""
        utf16 = self.content.startswith((b"\xff\xfe", b"\xfe\xff"))
        try:
            text = self.content.decode("utf-16" if utf16 else "utf-8-sig")
        except UnicodeDecodeError:
            return None
        return None if "\0" in text else text

    @functools.cached_property
    def json(self) -> Any:
        """The value in it; None where it is no JSON."""
        try:
            return parse_json(self.content, str(self.path))
        except AnnotationError:
            raise
        except NOT_JSON:
            return None

    @functools.cached_property
    def xml(self) -> Element | None:
        """The root of its elements; None where it is no XML, or a web page."""
        start = self.content.removeprefix(b"\xef\xbb\xbf").lstrip()
        utf16 = start.startswith((b"\xff\xfe<", b"\xfe\xff\0<"))
        if start[:15].lower().startswith((b"<!doctype html", b"<html")):
            return None
        return parse_xml(self.content, str(self.path)) if start.startswith(b"<") or utf16 else None

    def lines(self) -> list[str]:
        """Returns the lines of its text.

        Raises:
            AnnotationError: It is no text.
        """
        if self.text is None:
            raise self.error("this is no text in UTF-8 or UTF-16; save it as UTF-8")
        # Not by `splitlines`, which takes characters inside a label for ends of lines.
        return re.split(r"\r\n|\n|\r", self.text)

    def error(self, message: str, place: str = "") -> AnnotationError:
        """Returns the error that says what is wrong, where in the file."""
        return AnnotationError(f"{self.path}: {place}{': ' if place else ''}{message}")

    def get(self, mapping: Any, key: str, kind: type[Kind], place: str) -> Kind:
        """Returns a value of an object.

        Raises:
            AnnotationError: There is none of this name, or of another kind, or what should be an object is none.
        """
        value = mapping.get(key) if isinstance(mapping, dict) else None
        if not isinstance(value, kind):
            found = shown(value) if isinstance(mapping, dict) else f"in {shown(mapping)}"
            names: dict[Any, str] = {str: "a text", dict: "an object", list: "a list"}
            raise self.error(f'"{key}" is {found}; it must be {names.get(kind, kind.__name__)}', place)
        return value

    def label(self, value: Any, place: str) -> str:
        """Returns a name of a class.

        Raises:
            AnnotationError: It is no text, or an empty one.
        """
        if not isinstance(value, str) or not clean_label(value):
            raise self.error(f"{shown(value)} is no label; name the action", place)
        return clean_label(value)

    def seconds(self, value: Any, place: str, unit: str = "seconds") -> float:
        """Returns a time in seconds of a number in a unit of `UNITS`, or of a timecode.

        Raises:
            AnnotationError: It is no time, or counts frames and the frame rate is not known.
        """
        if isinstance(value, str) and (smpte := _SMPTE.fullmatch(value.strip())):
            hours, minutes, seconds, frames = map(int, smpte.groups())
            return 3600 * hours + 60 * minutes + seconds + self.seconds(frames, place, "frames")
        if unit == "frames":
            return self.frames(value, self.settings.frame_rate, place)
        # Checked before it is divided: what is a number of milliseconds is one of seconds, too.
        scale = 1000 if unit == "milliseconds" and not (isinstance(value, str) and ":" in value) else 1
        return parse_seconds(value, f"{self.path}: {place}") / scale

    def frames(self, value: Any, rate: Any, place: str) -> float:
        """Returns a time in seconds of a number of frames.

        Raises:
            AnnotationError: It is no number, or the frame rate is none.
        """
        if rate is None:
            raise self.error("times are frames; re2tal annotations takes how many a second has: --frame-rate", place)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1000:
            raise self.error(f"the frame rate is {shown(rate)}; it must be above 0 and at most 1000 a second", place)
        return parse_seconds(value, f"{self.path}: {place}") / rate

    def video_id(self, name: Any, place: str) -> str:
        """Returns the id of a video by its path or address; a path from where the annotations lie keeps its folders.

        Raises:
            AnnotationError: There is no name.
        """
        if not isinstance(name, str) or not name.strip():
            raise self.error(f"{shown(name)} is no name of a video", place)
        path = name.strip().replace("\\", "/")
        absolute = path.startswith("/") or re.match(r"[A-Za-z]:/|[A-Za-z][A-Za-z0-9+.-]+:", path)
        if absolute:
            path = _local_path(path).rstrip("/").rpartition("/")[2]
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        if not parts:
            raise self.error(f"{shown(name)} is no name of a video", place)
        return "/".join(parts)

    @property
    def own_video_id(self) -> str:
        """The id of the only video, by the name of the file."""
        return self.path.stem

    @property
    def subset_in_name(self) -> str:
        """The subset that the name of the file names, as `EPIC_100_train.csv` does; empty where it names none."""
        words = re.findall(r"[a-z]+", self.path.stem.lower())
        return next((word for word in reversed(words) if word in _SUBSETS), "")


def _local_path(address: str) -> str:
    """The path in an address, and of an upload to Label Studio the name that the file had before."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    local = parse_qs(parts.query).get("d")
    path = local[0] if local else unquote(parts.path) if parts.scheme else address
    upload = _UPLOAD.search(path)
    return upload[1] if upload else path
