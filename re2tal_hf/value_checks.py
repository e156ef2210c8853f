"""Types and ranges of settings, declared where the setting is and checked before anything is done with it.

`drop_path: Annotated[float, BELOW_ONE] = 0.1` is a number from 0 to below 1; of `Annotated[list[float], SHARE]` every
number is one from 0 to 1. No number may be NaN or infinite, and `True` is no number.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """The numbers that make sense for a setting.

    Attributes:
        low, high: bounds.
        with_low, with_high: whether the bounds themselves are meant.
        length: how many numbers a list must have; None for one or more.
        rising: whether no number of a list may be below the one before.
    """

    low: float = -math.inf
    high: float = math.inf
    with_low: bool = True
    with_high: bool = True
    length: int | None = None
    rising: bool = False

    def __contains__(self, number: float) -> bool:
        low = self.low <= number if self.with_low else self.low < number
        return low and (number <= self.high if self.with_high else number < self.high)

    def __str__(self) -> str:
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'at least' if self.with_low else 'above'} {self.low:.10g}")
        if self.high < math.inf:
            bounds.append(f"{'at most' if self.with_high else 'below'} {self.high:.10g}")
        return " and ".join(bounds) or "finite"


COUNT = Range(low=1)
NOT_NEGATIVE = Range(low=0)
POSITIVE = Range(low=0, with_low=False)
SHARE = Range(low=0, high=1)
POSITIVE_SHARE = Range(low=0, high=1, with_low=False)
BELOW_ONE = Range(low=0, high=1, with_high=False)
INSIDE_ONE = Range(low=0, high=1, with_low=False, with_high=False)


def fields_of(cls: type) -> dict[str, Any]:
    """Returns the type hints of a class's own attributes, ranges included."""
    return inspect.get_annotations(cls, eval_str=True)


def arguments_of(cls: type) -> dict[str, Any]:
    """Returns the type hints of what a class is built from by name, ranges included.

    These are the fields of its `config_class` where it has one, or else the arguments of its `__init__`, and those
    of its base's, as long as what is not named is handed on.
    """
    if config_class := getattr(cls, "config_class", None):
        bases = [base for base in reversed(config_class.__mro__) if base is not object]
        return {name: hint for base in bases for name, hint in fields_of(base).items()}
    hints: dict[str, Any] = {}
    for base in cls.__mro__:
        if build := vars(base).get("__init__"):
            hints = inspect.get_annotations(build, eval_str=True) | hints
            if all(part.kind is not part.VAR_KEYWORD for part in inspect.signature(build).parameters.values()):
                break
    return hints


def check_values(where: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Checks the settings that have a hint, and that no number in any of them is NaN or infinite.

    Args:
        where: what stands before the name of a setting in a message, such as `"training."`.
        values: settings by name.
        hints: their types by name, as far as they are known.

    Raises:
        ValueError: if a value is not of its type or range; names the setting, the value and what it must be.
    """
    for name, value in values.items():
        check_value(where + name, value, hints.get(name, Any))


def check_value(name: str, value: Any, hint: Any) -> Any:
    """Checks one setting as `check_values` does; returns it, as a float where a whole number stands for one."""
    kind, expected = hint, Range()
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        expected = next((note for note in notes if isinstance(note, Range)), expected)
    if not _fits(value, kind):
        bounds = f", {expected}" if expected != Range() else ""
        quotes = " (put it in quotes)" if _fits(value, float) and _fits("", kind) else ""
        raise ValueError(f"{name} is {value!r}; it must be {_named(kind)}{bounds}{quotes}.")
    for place, number in leaves(name, value):
        if _fits(number, float) and (not math.isfinite(number) or number not in expected):
            raise ValueError(f"{place} is {number!r}; it must be {expected}.")
    if kind is not Any and expected != Range() and isinstance(value, Sequence):
        _check_list(name, value, expected)
    kinds = get_args(kind) or (kind,)
    return float(value) if _fits(value, int) and float in kinds and int not in kinds else value


def _check_list(name: str, values: Sequence[Any], expected: Range) -> None:
    if len(values) != (expected.length or max(len(values), 1)):
        raise ValueError(f"{name} is {list(values)}; it must hold {expected.length or 'one or more'} numbers.")
    if expected.rising and any(after < before for before, after in zip(values, values[1:], strict=False)):
        raise ValueError(f"{name} is {list(values)}; no number may be below the one before.")


def leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The single values in a setting, however deep, each with its place."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(f"{place}.{key}", part)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from leaves(f"{place}[{index}]", part)
    else:
        yield place, value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; types that no file of settings can hold are left to who takes them."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Annotated:
        return _fits(value, parts[0])
    if kind in (None, NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (dict, Mapping):
        return isinstance(value, Mapping)
    if kind in (list, tuple, Sequence, Collection):
        if not isinstance(value, (list, tuple)):
            return False
        if kind is tuple and parts and parts[-1] is not Ellipsis:
            return len(value) == len(parts) and all(map(_fits, value, parts))
        return not parts or all(_fits(item, parts[0]) for item in value)
    return True


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
