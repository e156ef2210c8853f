"""Localization heads, sized by their tensors under our names, whichever project they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .converted_model import Fill

FILLS = (
    Fill(
        r"\.(attention_scale|mlp_scale|perception_path\.scale|mlp_path\.scale)$",
        1.0,
        "without drop path the source has no scales of branches, which are then 1",
    ),
    Fill(r"^criterion\.", None, "the running mean of positives is not kept; it begins anew"),
)
"""What checkpoints of heads may leave out."""

# What no tensor tells and the predictions depend on.
NEEDED = {
    "actionformer": ["num_attention_heads", "attention_window", "use_position_embedding", "max_length"],
    "tridet": ["use_position_embedding", "max_length"],
    "vsgn": ["anchor_scales", "boundary_reach", "max_length"],
}


def head_settings(source: str, model_type: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns what a head's tensors tell, by the names of [`Settings`].

    Args:
        source: What messages call the checkpoint.
        model_type: Of the head.
        state: Its tensors under our names.

    Raises:
        ValueError: if they are not of such a head.
    """
    try:
        found = _vsgn(state) if model_type == "vsgn" else _pyramid(state)
        if model_type == "tridet":
            found |= _tridet(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"{source}: the head looks like {model_type}, but is not complete: it lacks {error}. Is it of another "
            "project (--from)?"
        ) from error
    num_labels = found.pop("num_labels")
    found["model_type"] = model_type
    return {f"head_config.{name}": value for name, value in found.items()} | {"num_labels": num_labels}


def features_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns what stands for the backbone of a head alone: stored features, in whose steps the model counts time.

    Args:
        state: The head's tensors under our names.
    """
    config = {"model_type": "features", "size": input_size(state), "stride": 1}
    return {f"backbone_config.{name}": value for name, value in config.items()} | {"rewiring": "none"}


def input_size(state: Mapping[str, Tensor]) -> int:
    """Returns the channels of the features that a head takes."""
    firsts = ("embedding.weight", "embedding.0.conv.weight", "classification.predictor.weight")
    return next(state[name].shape[1] for name in firsts if name in state)


def _pyramid(state: Mapping[str, Tensor]) -> dict[str, Any]:
    predictor = state["classification.predictor.weight"]
    hidden_size = state["neck.norms.0.weight"].numel()
    return {
        "hidden_size": hidden_size,
        "num_embedding_layers": _count(state, "embedding"),
        "num_stem_layers": _count(state, "stem"),
        "num_levels": _count(state, "pyramid") + 1,
        "num_head_layers": _count(state, "classification.layers"),
        "branch_size": None if predictor.shape[1] == hidden_size else predictor.shape[1],
        "branch_kernel_size": predictor.shape[2],
        **_relative_positions(state),
        "neck": "fpn" if any(name.startswith("neck.laterals.") for name in state) else "identity",
        "num_labels": predictor.shape[0],
    }


def _relative_positions(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Biases of places in the window tell how many heads there are and, if all blocks have them, how wide it is."""
    biases = [tensor for name, tensor in state.items() if name.endswith(".attention.relative_bias")]
    if not biases:
        return {}
    heads, window = biases[0].shape[-2:]
    found = {"use_relative_position_bias": True, "num_attention_heads": heads}
    everywhere = len(biases) == sum(name.endswith(".attention_norm.weight") for name in state)
    if everywhere and all(bias.shape[-1] == window for bias in biases):
        found["attention_window"] = window
    return found


def _tridet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = ["stem.0", *(f"pyramid.{level}" for level in range(_count(state, "pyramid")))]
    blocks = [name for name in blocks if f"{name}.gate.weight" in state]
    narrow, wide = ([state[f"{name}.{part}.weight"].shape[2] for name in blocks] for part in ("narrow", "wide"))
    return {
        "mlp_size": state[f"{blocks[0]}.mlp.0.weight"].shape[0],
        "window": narrow[0] if len(set(narrow)) == 1 else narrow,
        "window_factor": _window_factor(narrow, wide),
        "num_bins": state["boundary.predictor.weight"].shape[0] // 2 - 1,
        "boundary_kernel_size": state["start.predictor.weight"].shape[2],
    }


def _window_factor(narrow: Sequence[int], wide: Sequence[int]) -> float:
    """The roundest factor of `SGPBlock`'s windows, `(narrow + 1) * factor` made odd upwards, that gives the wide ones.

    Any other makes the same network.
    """
    low = max((width - 1.5) / (window + 1) for window, width in zip(narrow, wide, strict=True))
    high = min((width + 0.5) / (window + 1) for window, width in zip(narrow, wide, strict=True))
    for digits in range(4):
        # Half is rounded to even, so that the lower bound belongs to the range and the upper one does not.
        factor = math.ceil(low * 10**digits) / 10**digits
        if 0 < factor < high:
            return int(factor) if factor.is_integer() else factor
    raise KeyError("one factor between its windows on all levels")


def _vsgn(state: Mapping[str, Tensor]) -> dict[str, Any]:
    num_anchors = state["regression.predictor.weight"].shape[0] // 2
    return {
        "hidden_size": state["embedding.weight"].shape[0],
        "num_levels": _count(state, "encoder"),
        "num_neighbours": 0,
        "num_head_layers": _count(state, "classification.convs"),
        "num_labels": state["classification.predictor.weight"].shape[0] // num_anchors - 1,
    }


def _count(state: Mapping[str, Tensor], part: str) -> int:
    """How many numbers stand behind the name of a part."""
    return len({name[len(part) + 1 :].partition(".")[0] for name in state if name.startswith(f"{part}.")})
