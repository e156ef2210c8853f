"""The classes of a configuration: how many there are and what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from .value_checks import MAX_LETTERS

MAX_LABELS = 2**17

Labels = tuple[dict[int, str] | None, dict[str, int] | None]
"""`id2label` and `label2id`."""


def checked_labels(num_labels: Any, id2label: Any, label2id: Any) -> Labels:
    """Checks the classes; what of the two mappings is missing is made from the other.

    Args:
        num_labels: number of classes, or None.
        id2label: names by id, or None. Ids may be text, as in JSON.
        label2id: ids by name, or None. The names that transformers gives by default, `LABEL_0` and so on, give way.

    Raises:
        ValueError: if there are too many or none, ids are not 0, 1, 2, ..., names are no text, too long, or not all
            different, or number and mappings do not go together.
        TypeError: if the number is no whole one or a mapping is none.
    """
    if num_labels is not None:
        if isinstance(num_labels, bool) or not isinstance(num_labels, Integral):
            raise TypeError(f"num_labels is {str(num_labels)[:50]!r}; it must be a whole number.")
        if not 1 <= int(num_labels) <= MAX_LABELS:
            raise ValueError(f"num_labels is {num_labels}; it must be from 1 to {MAX_LABELS}.")
    names = None if id2label is None else _names("id2label", id2label)
    by_name = None if label2id is None else _names("label2id", label2id)
    if names is None and by_name is None:
        return None, None
    if names is not None and by_name is not None and names != by_name:
        if any(name != f"LABEL_{index}" for index, name in by_name.items()):
            index = next(i for i in [*names, *by_name] if names.get(i) != by_name.get(i))
            raise ValueError(
                f"label2id has {by_name.get(index)!r} for class {index}, and id2label {names.get(index)!r}; "
                "give one of them only."
            )
        by_name = None
    names = names or by_name or {}
    if num_labels is not None and len(names) != num_labels:
        which = "label2id" if id2label is None else "id2label"
        raise ValueError(f"num_labels is {num_labels}, but {which} names {len(names)} classes; leave one of them out.")
    return names, {name: index for index, name in names.items()}


def _names(setting: str, labels: Any) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    if not isinstance(labels, Mapping):
        raise TypeError(f"{setting} is a {type(labels).__name__}; it must map ids to names, or names to ids.")
    if not 1 <= len(labels) <= MAX_LABELS:
        raise ValueError(f"{setting} has {len(labels)} classes; it must have 1 to {MAX_LABELS}.")
    names: dict[int, str] = {}
    for first, second in labels.items():
        index, name = (first, second) if setting == "id2label" else (second, first)
        number = _number(index)
        if number is None:
            raise ValueError(f"{setting}: the id {str(index)[:50]!r} is no whole number from 0.")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{setting}: the name of class {number} is {str(name)[:50]!r}; it must be text.")
        if len(name) > MAX_LETTERS:
            raise ValueError(f"{setting}: {name[:50]!r} is longer than {MAX_LETTERS} letters.")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"{setting}: {name[:50]!r} holds half of a pair of code units; it is no text.")
        if number in names:
            raise ValueError(f"{setting} has the id {number} twice.")
        names[number] = name
    if missing := [index for index in range(len(names)) if index not in names]:
        raise ValueError(
            f"{setting} has no class {missing[0]}; the ids of {len(names)} classes must be 0 to {len(names) - 1}."
        )
    if len(set(names.values())) < len(names):
        twice, count = Counter(names.values()).most_common(1)[0]
        raise ValueError(f"{setting} has the name {twice!r} {count} times.")
    return dict(sorted(names.items()))


def _number(index: Any) -> int | None:
    if isinstance(index, Integral) and not isinstance(index, bool):
        return int(index) if int(index) >= 0 else None
    if isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 10:
        return int(index)
    return None
