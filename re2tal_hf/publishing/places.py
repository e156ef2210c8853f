"""Local paths in text that is published, shortened to names: they mean nothing elsewhere, and tell of the machine."""

from __future__ import annotations

import re
from typing import Any

_SLASH = r"[/\\]"
# A folder's name may hold spaces; one at the end of a path ends at a space, as nothing tells where it would.
_WORD = r"[^\s/\\\"'`<>|:*?,;=(){}\[\]]+"
_FOLDER = rf"{_WORD}(?: {_WORD}){{0,3}}{_SLASH}+"
_START = (
    rf"(?:file:/*(?:{_FOLDER})?(?=\S)|[A-Za-z]:{_SLASH}+|\\\\(?=\w)|~[\w.-]*{_SLASH}+|\$\{{?\w+\}}?{_SLASH}+"
    rf"|%\w+%{_SLASH}+|(?:{_WORD}{_SLASH}+)*\.\.{_SLASH}+)"
)
_PATH = re.compile(
    # Addresses on the network are passed over whole.
    r"(?P<address>\b(?!file:)[A-Za-z][A-Za-z0-9+.-]+://\S+)"
    rf"|(?<![\w.~%$/\\-])(?:(?P<rooted>{_START})(?:{_FOLDER})*(?:{_WORD})?|/+(?:{_FOLDER})+(?:{_WORD})?)"
)
_WHOLE = re.compile(rf"(?:{_START}|/)[^\n\r]*")
_HOME = re.compile(rf"(?:~[\w.-]*|.*{_SLASH}(?:home|Users|Documents and Settings){_SLASH}[^/\\]+|/root){_SLASH}*", re.I)


def without_places(value: Any) -> Any:
    """Returns a value with every local path in its texts shortened to the name that it ends in.

    Local is a path that is absolute, on any system, starts in a home folder or a variable, climbs by `..`, or is a
    `file:` address. Relative paths, names on the Hub and addresses on the network stay as they are; a home folder
    itself becomes `~`.

    Args:
        value: Text, or lists and dictionaries of values; anything else is returned as it is.

    Raises:
        ValueError: if two keys of a dictionary become the same.
    """
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if isinstance(value, dict):
        shortened = {without_places(key): without_places(item) for key, item in value.items()}
        if len(shortened) < len(value):
            raise ValueError(
                f"Two of the names {list(value)[:3]}, ... are the same without their folders: rename them."
            )
        return shortened
    return value


def file_name(path: str) -> str:
    """Returns the last part of a path of any system, or `~` of a home folder."""
    if _HOME.fullmatch(path):
        return "~"
    parts = [part for part in re.split(_SLASH, path) if part and part != ".."]
    return parts[-1] if parts else "."


def parent_name(path: str) -> str:
    """Returns the name of the folder that a path lies in; empty where it has none, or where it is a home folder."""
    parent = re.sub(rf"{_SLASH}*[^/\\]*{_SLASH}*$", "", path)
    name = file_name(parent) if parent else ""
    return "" if name in ("~", ".") else name


def _shorten(text: str) -> str:
    if not re.search(r"[/\\~]", text):
        return text
    one_path = _WHOLE.fullmatch(text) and not re.search(rf"\s(?:{_START}|/)", text)
    if one_path and not text.startswith("//") or _HOME.fullmatch(text):
        return file_name(text) if len(text.strip("/")) else text
    return _PATH.sub(lambda match: match[0] if match["address"] else file_name(match[0]), text)
