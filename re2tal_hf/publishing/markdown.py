"""Markdown out of text that anybody may have written: a value shows as it is, whatever stands in it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import jinja2

from .places import without_places


class Markdown(str):
    """Text that is Markdown already, put together by us."""


def plain(text: str) -> str:
    """Returns text on one line, without local paths, control characters and marks that turn the reading direction."""
    kept = "".join(" " if unicodedata.category(c) in _UNSEEN and c not in _JOINERS else c for c in text)
    return str(without_places(" ".join(kept.split())))


def escape(text: str) -> Markdown:
    """Returns text as Markdown that shows it: in a line, a table cell, a heading or a list."""
    text = _SPECIAL.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), plain(text))
    return Markdown(_AT_START.sub(lambda match: f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}", text))


def code(text: str) -> Markdown:
    """Returns text as code in a line; what would end it is left out."""
    return Markdown(f"`{re.sub(r'[`|<>]', '_', plain(text)) or ' '}`")


def render(template: str, **values: Any) -> str:
    """Fills in a Jinja template; every value that is not `Markdown` is escaped."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_finalized, autoescape=False)
    return environment.from_string(template).render(code=code, **values)


# Control and format characters, halves of pairs, separators of lines.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# They join the parts of an emoji, and letters of some scripts.
_JOINERS = "\u200c\u200d"
_ENTITIES = {"<": "&lt;", ">": "&gt;"}
# Underscores within a word are letters; a colon and a dot could make a link.
_SPECIAL = re.compile(r"[\\`*\[\]|~#<>]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|:(?=//)|(?<=www)\.")
_AT_START = re.compile(r"^(?:[-+=](?=\s|[-=]|$)|\d{1,9}(?=[.)](?:\s|$)))")


def _finalized(value: Any) -> Any:
    return value if isinstance(value, Markdown) or not isinstance(value, str) else escape(value)
