"""Whether two networks with weights of the same names and shapes compute the same."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any, cast

from torch import nn
from transformers import PreTrainedConfig

# What acts in training only, what an input or output may be, and what the libraries note for themselves.
FREE = re.compile(
    r".*drop.*|.*prob|p|training|momentum|inplace|norm_eval|gradient_checkpointing|initializer_range"
    r"|image_size|img_size|crop_size|spatial_size|temporal_size|num_frames|frames_per_clip|num_patches|grid_size|grid_depth"
    r"|feature_stride|num_classes|num_labels|id2label|label2id|problem_type|return_dict|use_cache|norm_pix_loss"
    r"|output_attentions|output_hidden_states|name_or_path|kernel_config|loss_type|architectures|.*dtype|transformers_version|decoder_.*|pred_.*|.*pooler.*"
    r"|rewiring|backprop|coupling|stream_bits|temporal_shift|_.*"
)


def differences(original: nn.Module, network: nn.Module, left_out: Collection[str] = ()) -> list[str]:
    """Compares the settings of two networks, module by module.

    Args:
        original: The one network; may be on the meta device.
        network: The other, of the same architecture; it may, too.
        left_out: Attributes whose modules do not count, such as the classifier.

    Returns:
        Settings that change what is computed, with both values; by the names of the library's
        configuration where there is one.
    """
    found: dict[str, list[str]] = defaultdict(list)
    there, here = (dict(module.named_modules()) for module in (original, network))
    for name in there.keys() & here.keys():
        if name.split(".")[0] in left_out or FREE.fullmatch(name.rpartition(".")[2]):
            continue
        ours, theirs = _settings(here[name]), _settings(there[name])
        if name and type(there[name]) is not type(here[name]):
            ours, theirs = {"the layer": type(here[name]).__name__}, {"the layer": type(there[name]).__name__}
        for setting in ours.keys() & theirs.keys():
            if not _equal(ours[setting], theirs[setting]):
                found[f"{setting} is {theirs[setting]} there and {ours[setting]} here"].append(name)
    if found and (named := _config_differences(original, network)):
        return named
    return [f"{text} (at {min(names) or 'the top'} and {len(names) - 1} more)" for text, names in sorted(found.items())]


def _config_differences(original: nn.Module, network: nn.Module) -> list[str]:
    there, here = getattr(original, "config", None), getattr(network, "config", None)
    if not isinstance(there, PreTrainedConfig) or not isinstance(here, type(there)):
        return []
    pairs = [(f.name, getattr(there, f.name), getattr(here, f.name)) for f in dataclasses.fields(cast(Any, there))]
    return [f"{n} is {a!r} there and {b!r} here" for n, a, b in pairs if not (FREE.fullmatch(n) or _equal(a, b))]


def _settings(module: nn.Module) -> dict[str, Any]:
    values = {name: _plain(value) for name, value in vars(module).items() if not FREE.fullmatch(name)}
    return {name: value for name, value in values.items() if value is not NotImplemented}


def _plain(value: Any) -> Any:
    """A value that can be compared: lists as tuples, functions by name; NotImplemented for all else."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        values = tuple(map(_plain, value))
        return NotImplemented if NotImplemented in values else values
    return getattr(value, "__qualname__", NotImplemented) if callable(value) else NotImplemented


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are equal; of numbers the last digits may differ, as where one was written out."""
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b
