"""Bounds on the values of a configuration, met before anything is built from it.

A configuration comes with a model from wherever the model does. Beyond these bounds, far above what is published,
building would take all memory or never end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

MAX_LABELS = 2**17
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

LARGEST = {
    "num_levels": 12,  # the coarsest level is 2**11 steps wide
    "num_labels": MAX_LABELS,
    "hidden_size": 2**13,
    "pred_hidden_size": 2**13,
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
    "boundary_kernel_size": 1024,
    "fusion_kernel": 1024,
    "pred_num_mask_tokens": 1024,
    "image_size": 2048,
    "crop_size": 2048,
    "spatial_size": 2048,
    "num_channels": 64,
    "in_chans": 64,
}
LAYER_COUNTS = ("depths", "layers", "stage_blocks")
MAX_STAGES = 8
WIDTHS = ("hidden_size", "embed_dim", "base_channels", "output_channels")
# Where nothing says how many layers there are.
USUAL_LAYERS = 12
VOLUMES = ("patch_size", "tubelet_size", "window_size", "patch_embed_kernel", "kernel_q", "kernel_kv")
# The last of them stands for "any length".
UNBOUNDED = ("regression_ranges",)


def check_settings(name: str, settings: Any) -> None:
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
            _check_number(place, value, math.inf if key in UNBOUNDED else LARGEST.get(key, MAX_NUMBER))
        if key in VOLUMES and not place.endswith("]"):
            _check_volume(place, value)
    _check_extent(name, values)


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


def check_clip_values(name: str, clip: Sequence[int], patch: Sequence[int], width: int, largest: int) -> None:
    """Checks the number of patches in a clip, multiplied by the width: the size of a table of their positions.

    Args:
        name: of the family, for error messages.
        clip: frames, height and width.
        patch: the same of a patch.
        width: of the network.
        largest: number of values allowed.

    Raises:
        ValueError: if there are more, or a size is not above 0.
    """
    if min(*clip, *patch, width) < 1:
        raise ValueError(
            f"{name}: clips of {list(clip)}, patches of {list(patch)}, width {width}: all must be above 0."
        )
    grid = [length // side for length, side in zip(clip, patch, strict=True)]
    if math.prod(grid) * width > largest:
        raise ValueError(
            f"{name}: clips of {grid[0]} x {grid[1]} x {grid[2]} patches and width {width} are more than {largest} "
            "values; use fewer frames, smaller images or larger patches."
        )


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
