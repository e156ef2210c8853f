"""JSON and texts as people hand them over, and what is said of files that hold none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..value_checks import shown
from .annotation_set import AnnotationError
from .video_files import same_name

NOT_JSON = (ValueError, RecursionError)
# By the ending of a file, in lower case.
_KINDS = {
    ".csv": "a CSV table",
    ".tsv": "a table with tabs",
    ".xlsx": "a spreadsheet",
    ".xls": "a spreadsheet",
    ".ods": "a spreadsheet",
    ".parquet": "a Parquet table",
    ".jsonl": "JSON lines (of a metadata.jsonl, give the folder)",
    ".txt": "a text",
    ".xml": "XML",
    ".eaf": "an ELAN file",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".srt": "subtitles",
    ".vtt": "subtitles",
    ".ass": "subtitles",
    ".mat": "a MATLAB file",
    ".npy": "a NumPy file",
    ".npz": "a NumPy file",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".zip": "an archive",
    ".gz": "an archive",
    ".tar": "an archive",
}
# By how a file begins, whatever it is called.
_STARTS = {
    b"version https://git-lfs": "the pointer of Git LFS in place of the file; run `git lfs pull`",
    b"<": "XML or HTML",
    b"PK\x03\x04": "an archive or a spreadsheet",
    b"PAR1": "a Parquet table",
    b"WEBVTT": "subtitles",
    b"\x1f\x8b": "an archive",
}


def read_json(path: Path, form: str) -> Any:
    """Reads a file of JSON in any of the encodings of Unicode.

    Args:
        path: The file.
        form: What it should hold, for the message.

    Raises:
        AnnotationError: It holds none, or an object has a key twice.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    try:
        return parse_json(content, str(path))
    except AnnotationError:
        raise
    except NOT_JSON as error:
        kind = _kind(path, content)
        reason = f"this is {kind}, which is not read" if kind else f"not a JSON file ({reason_of(error)})"
        raise AnnotationError(f"{path}: {reason}; give JSON of the form {form}") from error


def read_text(path: Path) -> str:
    """Reads a text file.

    Raises:
        AnnotationError: Not in UTF-8.
        OSError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not a text in UTF-8 ({error.reason}); save it as UTF-8") from error


def parse_json(content: bytes | str, where: str) -> Any:
    """The value of a text of JSON.

    Raises:
        AnnotationError: An object has a key twice.
        ValueError, RecursionError: One of `NOT_JSON`.
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) or not "".join(found).isascii():  # of most objects this is all there is to check
            check_unique((key for key, _ in pairs), where)
        return found

    return json.loads(content, object_pairs_hook=unique_keys)


def check_unique(ids: Iterable[str], where: str | Path) -> None:
    """Refuses ids, or other keys of an object, that are there twice.

    Raises:
        AnnotationError: Names them.
    """
    names = [same_name(key) for key in ids]
    if len(set(names)) < len(names):  # most objects are small, and there are many
        repeated = [key for key, count in Counter(names).items() if count > 1]
        raise AnnotationError(
            f"{where}: duplicate ids {some(repeated)}: keep one entry of each (accents written with their letters or"
            " apart from them are the same)"
        )


def some(values: Iterable[Any], limit: int = 5) -> str:
    """The first of several values, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return ", ".join(shown(str(value)) for value in values[:limit]) + more


def _kind(path: Path, content: bytes) -> str | None:
    """What else a file is, if it shows."""
    if not content.strip():
        return "an empty file"
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((kind for beginning, kind in _STARTS.items() if start.startswith(beginning)), None)
    return _KINDS.get(path.suffix.lower(), found)


def reason_of(error: Exception) -> str:
    """What an error of a library says, on one short line."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no text in UTF-8; save it as UTF-8"
    return " ".join(str(error).split())[:200]
