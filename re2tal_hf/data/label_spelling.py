"""Names of classes that are likely one: in other case, with other marks between words, or with a letter wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import combinations

# Shorter names differ by a letter on purpose; and so do classes that are all frequent.
_LEAST_LETTERS = 4
_RARER = 4


def labels_alike(counts: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Returns pairs of names that look like one, the rarer first, each with what tells them apart.

    Args:
        counts: Of the actions of each class.
    """
    plain = {name: _letters(name) for name in counts}
    found = []
    for one, other in combinations(sorted(counts, key=lambda name: (counts[name], name)), 2):
        if plain[one] == plain[other]:
            found.append((one, other, "case, spaces or marks"))
        elif (
            min(len(plain[one]), len(plain[other])) >= _LEAST_LETTERS
            and counts[one] * _RARER <= counts[other]
            and _digits(one) == _digits(other)
            and _one_slip(plain[one], plain[other])
        ):
            found.append((one, other, "one letter"))
    return found


def _letters(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum()) or name


def _digits(name: str) -> str:
    return "".join(c for c in name if c.isdigit())


def _one_slip(one: str, other: str) -> bool:
    """Whether one letter more, less or another, or two exchanged, make one name the other."""
    if abs(len(one) - len(other)) > 1:
        return False
    short, long = sorted((one, other), key=len)
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    rest_short, rest_long = short[start:], long[start:]
    if len(short) < len(long):
        return rest_short == rest_long[1:]
    swapped = rest_short[:2] == rest_long[:2][::-1] and rest_short[2:] == rest_long[2:]
    return rest_short[1:] == rest_long[1:] or swapped
