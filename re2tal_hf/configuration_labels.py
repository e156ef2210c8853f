"""The classes of a configuration: how many there are and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from .value_checks import MAX_LETTERS

MAX_LABELS = 2**17


def check_labels(num_labels: Any, id2label: Any, label2id: Any) -> None:
    """Checks the number of classes and their names.

    Raises:
        ValueError: if there are too many, or a name is no text or too long.
        TypeError: if the number is no whole one.
    """
    if num_labels is not None:
        if isinstance(num_labels, bool) or not isinstance(num_labels, Integral):
            raise TypeError(f"num_labels is {str(num_labels)[:50]!r}; it must be a whole number.")
        if not 0 <= int(num_labels) <= MAX_LABELS:
            raise ValueError(f"num_labels is {num_labels}; it must be from 0 to {MAX_LABELS}.")
    for name, labels in (("id2label", id2label), ("label2id", label2id)):
        if labels is None:
            continue
        if not isinstance(labels, Mapping):
            raise TypeError(f"{name} is a {type(labels).__name__}; it must map ids to names, or names to ids.")
        if len(labels) > MAX_LABELS:
            raise ValueError(f"{name} has {len(labels)} classes; at most {MAX_LABELS}.")
        for pair in labels.items():
            if any(len(str(part)) > MAX_LETTERS for part in pair):
                raise ValueError(f"{name}: {str(pair)[:50]!r} is longer than {MAX_LETTERS} letters.")
            if any("\ud800" <= letter <= "\udfff" for part in pair for letter in str(part)):
                raise ValueError(f"{name}: {str(pair)[:50]!r} holds half of a pair of code units; it is no text.")
