"""Types, ranges and bounds of settings, checked before anything is done with them.

Types and ranges are declared where the setting is: `drop_path: Annotated[float, BELOW_ONE] = 0.1` is a number from 0 to
below 1; of `Annotated[list[float], SHARE]` every number is one from 0 to 1. No number may be NaN or infinite, and
`True` is no number.

Bounds are of every setting of a model, declared or not, by its name. A configuration comes with a model from wherever
the model does; beyond these bounds, far above what is published, building would take all memory or never end.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

import torch

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


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

DTYPE = Literal["float32", "bfloat16", "float16", "float64"] | torch.dtype | None
"""Of the numbers of a model."""

# Of a value in a message.
SHOWN_LETTERS = 150
MAX_LETTERS = 1000
MAX_LAYERS = 256
MAX_VALUES = 2**14
MAX_DEPTH = 8
# Of any number without a bound of its own.
MAX_NUMBER = 2**16
# Layers times the square of the width; a transformer has 12 times as many parameters. InternVideo2's 6B has 5e8.
MAX_LAYER_VALUES = 2**30
# Of the numbers of a kernel, patch or window, multiplied.
MAX_VOLUME = 2**12

# The coarsest level is 2**11 steps wide.
MAX_LEVELS = 12
LARGEST = {
    "num_levels": MAX_LEVELS,
    "num_labels": 2**17,
    "hidden_size": 2**13,
    "pred_hidden_size": 2**13,
    "branch_size": 2**13,
    "input_channels": 2**13,
    "output_channels": 2**13,
    "intermediate_size": 2**15,
    "mlp_size": 2**15,
    "mlp_ratio": 16,
    "pred_mlp_ratio": 16,
    "embed_dim": 2**10,
    "base_channels": 2**10,
    "window_factor": 64,
    "window": 1024,
    "attention_window": 4096,
    "num_bins": 1024,
    "num_neighbours": 1024,
    "branch_kernel_size": 64,
    "boundary_kernel_size": 64,
    "fusion_kernel": 1024,
    "pred_num_mask_tokens": 1024,
    "image_size": 2048,
    "crop_size": 2048,
    **dict.fromkeys(("height", "width", "shortest_edge", "longest_edge"), 2**13),
    "spatial_size": 2048,
    "regression_ranges": 1e12,  # the last of them stands for "any length"
    "num_channels": 64,
    "in_chans": 64,
}
LAYER_COUNTS = ("depths", "layers", "stage_blocks")
MAX_STAGES = 8
WIDTHS = ("hidden_size", "branch_size", "embed_dim", "base_channels", "output_channels")
# Where nothing says how many layers there are.
USUAL_LAYERS = 12
VOLUMES = ("patch_size", "tubelet_size", "window_size", "patch_embed_kernel", "kernel_q", "kernel_kv")


def fields_of(cls: type) -> dict[str, Any]:
    """Returns the type hints of a class's own attributes, ranges included."""
    # transformers imports torch for type checkers only.
    return inspect.get_annotations(cls, eval_str=True, locals={"torch": torch, **vars(cls)})


class Arguments(dict[str, Any]):
    """The type hints of what something is built from by name, ranges included; `Any` where there is none.

    Attributes:
        others: whether arguments of other names are taken, too.
        defaults: values of those that need not be given.
    """

    def __init__(self, hints: Mapping[str, Any], others: bool = False, defaults: Mapping[str, Any] | None = None):
        super().__init__(hints)
        self.others = others
        self.defaults = dict(defaults or {})


def arguments_of(part: Callable[..., Any]) -> Arguments:
    """Returns the arguments of a function or of a class.

    Those of a class are the fields of its `config_class` where it has one, or else the arguments of its `__init__`,
    and those of its base's, as long as what is not named is handed on.
    """
    if config_class := getattr(part, "config_class", None):
        return Arguments(_all_fields_of(config_class))
    if not isinstance(part, type):
        return _arguments_of_function(part)
    found = Arguments({}, others=True)
    for base in part.__mro__:
        if found.others and (build := vars(base).get("__init__")):
            of_base = _arguments_of_function(build)
            found = Arguments(of_base | found, of_base.others, of_base.defaults | found.defaults)
    found.pop("self", None)
    return found


def _all_fields_of(cls: type) -> dict[str, Any]:
    bases = [base for base in reversed(cls.__mro__) if base is not object]
    found = {name: hint for base in bases for name, hint in fields_of(base).items()}
    return {name: hint for name, hint in found.items() if get_origin(hint) is not ClassVar}


def check_fields(instance: Any) -> None:
    """Checks the fields of an instance of a dataclass as `check_values` does."""
    check_values("", vars(instance), _all_fields_of(type(instance)))


def _arguments_of_function(function: Callable[..., Any]) -> Arguments:
    parameters = inspect.signature(function).parameters.values()
    try:
        hints = inspect.get_annotations(function, eval_str=True)
    except NameError:  # imported for type checkers only
        hints = {}
    named = [part for part in parameters if part.kind in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY)]
    return Arguments(
        {part.name: hints.get(part.name, Any) for part in named},
        others=any(part.kind is part.VAR_KEYWORD for part in parameters),
        defaults={part.name: part.default for part in named if part.default is not part.empty},
    )


def check_arguments(where: str, values: Mapping[str, Any], arguments: Arguments) -> None:
    """Checks names, types and ranges of settings that something is built from; arguments as of `check_values`.

    Raises:
        ValueError: if there is no setting of a name, or as `check_values` does.
    """
    if not arguments.others:
        check_names(where, values, arguments)
    check_values(where, values, arguments)


def check_names(where: str, names: Iterable[Any], known: Collection[str]) -> None:
    """Raises a `ValueError` if a name is not known, with one that is like it."""
    for name in names:
        if name not in known:
            raise ValueError(f"{where}{str(name)[:100]}: there is no such setting; {did_you_mean(name, known)}")


def check_values(where: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the settings that have a hint, and that no number in any of them is NaN or infinite.

    Args:
        where: what stands before the name of a setting in a message, such as `"training."`.
        values: settings by name.
        hints: their types by name, as far as they are known.

    Returns:
        The settings as `check_value` returns them.

    Raises:
        ValueError: if a value is not of its type or range; names the setting, the value and what it must be.
    """
    return {name: check_value(where + name, value, hints.get(name, Any)) for name, value in values.items()}


def check_value(name: str, value: Any, hint: Any) -> Any:
    """Checks one setting as `check_values` does.

    Returns:
        It; as a float where another number stands for one, and of a scalar of NumPy or PyTorch the number in it.
    """
    kind, expected = hint, Range()
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        expected = next((note for note in notes if isinstance(note, Range)), expected)
    if not _fits(value, kind):
        bounds = f", {expected}" if str(expected) != str(Range()) else ""
        quotes = " (put it in quotes)" if _fits(value, float) and _fits("", kind) else ""
        raise ValueError(f"{name} is {shown(value)}; it must be {_named(kind)}{bounds}{quotes}.")
    for place, number in leaves(name, value):
        # A whole number may be too large to be a float.
        if _fits(number, float) and (number not in expected or not (_fits(number, int) or math.isfinite(number))):
            raise ValueError(f"{place} is {shown(number)}; it must be {expected}.")
    if kind is not Any and expected != Range() and isinstance(value, Sequence):
        _check_list(name, value, expected)
    kinds = get_args(kind) or (kind,)
    if list[float] in kinds and _fits(value, list[float]):
        return type(value)(_as_float(name, number) for number in value)
    return _as_float(name, value) if _fits(value, float) and float in kinds and int not in kinds else value


def _as_float(name: str, number: Any) -> float:
    try:
        return float(number)
    except OverflowError as error:
        raise ValueError(f"{name} is {shown(number)}; it must be finite.") from error


def shown(value: Any) -> str:
    """A value for a message: one line, and a short one; of an array or a tensor its type and shape."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{type(value).__name__} {kind} {list(value.shape)}"
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:  # Python writes out no number of more than 4300 digits
        text = f"{type(value).__name__} too long to show"
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict = 4, 10, 10, 10
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


def did_you_mean(name: Any, known: Collection[str]) -> str:
    """The end of a message on a name that is not known: the one that is nearest, or all."""
    near = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {sorted(known)}."


def suggesting(function: AnyFunction) -> AnyFunction:
    """Decorator: an argument of a name that is not known is refused with the one that is nearest."""
    # As transformers' `can_return_tuple` has it of every model.
    known = frozenset({*inspect.signature(function).parameters, "return_dict"})

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                options = [each for each in known if each not in ("self", "return_dict")]
                raise TypeError(f"{function.__name__}() has no argument {name!r}; {did_you_mean(name, options)}")
        return function(*args, **kwargs)

    return cast(AnyFunction, called)


def _check_list(name: str, values: Sequence[Any], expected: Range) -> None:
    if len(values) != (expected.length or max(len(values), 1)):
        kind = "numbers" if all(isinstance(value, Real) for value in values) else "values"
        raise ValueError(f"{name} is {shown(list(values))}; it must hold {expected.length or 'one or more'} {kind}.")
    if expected.rising and any(after < before for before, after in zip(values, values[1:], strict=False)):
        raise ValueError(f"{name} is {shown(list(values))}; no number may be below the one before.")


def leaves(place: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The single values in a setting, each with its place; `ValueError` if they are nested deeper than any setting."""
    if depth > 4 * MAX_DEPTH:
        raise ValueError(f"{place[:SHOWN_LETTERS]} is nested more than {4 * MAX_DEPTH} deep.")
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(f"{place}.{str(key)[:SHOWN_LETTERS]}", part, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from leaves(f"{place}[{index}]", part, depth + 1)
    else:
        yield place, value


def one_line(error: BaseException) -> str:
    """Returns the message of an error without its line breaks."""
    return " ".join(str(error).split())


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Annotated:
        return _fits(value, parts[0])
    if kind is Literal:
        return isinstance(value, str | int) and value in parts
    if kind in (None, NoneType):
        return value is None
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind in (dict, Mapping):
        if not isinstance(value, Mapping):
            return False
        return not parts or all(_fits(key, parts[0]) and _fits(part, parts[1]) for key, part in value.items())
    if kind in (list, tuple, Sequence, Collection):
        if not isinstance(value, (list, tuple)):
            return False
        if kind is tuple and parts and parts[-1] is not Ellipsis:
            return len(value) == len(parts) and all(map(_fits, value, parts))
        return not parts or all(_fits(item, parts[0]) for item in value)
    return isinstance(value, kind) if isinstance(kind, type) and kind is not Any else True


def _named(hint: Any) -> str:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return f"one of {list(parts)}"
    if kind in (Union, UnionType):
        return " | ".join(map(_named, parts))
    if kind is Annotated:
        return _named(parts[0])
    if kind in (None, NoneType):
        return "None"
    if kind in (list, tuple, Sequence, Collection):
        name = "tuple" if kind is tuple else "list"
        return f"{name}[{', '.join('...' if part is Ellipsis else _named(part) for part in parts)}]" if parts else name
    return getattr(kind, "__name__", str(kind))


def check_bounds(name: str, settings: Any) -> None:
    """Checks the numbers, lists and texts in a part of a configuration, however deep.

    Args:
        name: what error messages call it.
        settings: what JSON can hold; values of other types are left to who reads them.

    Raises:
        ValueError: if a value is out of bounds; names it and the bound.
    """
    values = list(itertools.islice(_values(name, settings), MAX_VALUES + 1))
    if len(values) > MAX_VALUES:
        raise ValueError(f"{name} holds more than {MAX_VALUES} values; no model needs so many.")
    for place, key, value in values:
        if isinstance(value, str) and len(value) > MAX_LETTERS:
            raise ValueError(f"{place} has {len(value)} letters, from {value[:20]!r}; at most {MAX_LETTERS}.")
        if isinstance(value, Real):
            _check_number(place, value, LARGEST.get(key, MAX_NUMBER))
        if key in VOLUMES and not place.endswith("]"):
            _check_volume(place, value)
    _check_extent(name, values)


def _values(place: str, value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Every value with its place and the name it has there: lists before what is in them."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{place} is nested more than {MAX_DEPTH} deep; no model needs that.")
    if isinstance(value, Mapping):
        for name, part in value.items():
            if len(str(name)) > MAX_LETTERS:
                raise ValueError(f"{place} has a key of {len(str(name))} letters; at most {MAX_LETTERS}.")
            yield from _values(f"{place}.{name}", part, str(name), depth + 1)
        return
    yield place, key, value
    if _is_list(value):
        for index, part in enumerate(value):
            yield from _values(f"{place}[{index}]", part, key, depth + 1)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_number(place: str, value: Any, largest: float) -> None:
    # Whole numbers may be too large to be a float.
    if not -largest <= value <= largest:
        text = (
            str(value) if isinstance(value, float) or abs(value) < 10**20 else f"a number of {value.bit_length()} bits"
        )
        raise ValueError(f"{place} is {text}; it must lie between {-largest:g} and {largest:g}.")


def _check_volume(place: str, value: Any) -> None:
    # One number is of a square.
    numbers = list(value) if _is_list(value) else [value, value]
    if len(numbers) > 3:
        raise ValueError(f"{place} has {len(numbers)} numbers; at most 3, of time, height and width.")
    if all(isinstance(number, Real) for number in numbers) and math.prod(map(abs, numbers)) > MAX_VOLUME:
        raise ValueError(f"{place} is {value}, multiplied more than {MAX_VOLUME}; use a smaller one.")


def _check_extent(name: str, values: Sequence[tuple[str, str, Any]]) -> None:
    """Checks the number of layers, stages and layers times width that the values come to."""
    stages = max((len(value) for _, key, value in values if key in LAYER_COUNTS and _is_list(value)), default=1)
    if stages > MAX_STAGES:
        raise ValueError(f"{name} has {stages} stages; at most {MAX_STAGES}.")
    numbers = [(key, abs(float(value))) for _, key, value in values if isinstance(value, Real)]
    layers = sum(value for key, value in numbers if key in LAYER_COUNTS or key.endswith("_layers"))
    layers += sum(len(value) for _, key, value in values if key == "block_setting" and _is_list(value))
    if layers > MAX_LAYERS:
        raise ValueError(f"{name} adds up to {layers:.0f} layers; at most {MAX_LAYERS}.")
    # The width doubles from stage to stage.
    width = max((value for key, value in numbers if key in WIDTHS), default=0.0) * 2 ** (stages - 1)
    layers = layers or USUAL_LAYERS
    if layers * width**2 > MAX_LAYER_VALUES:
        raise ValueError(f"{name} has {layers:.0f} layers up to {width:.0f} wide; use fewer or narrower ones.")
