"""LoRA (arXiv 2106.09685) by peft: small matrices that are trained beside the weights of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from .architecture import ADAPTERS
from .rewired_model import RewiredModel
from .value_checks import BELOW_ONE, POSITIVE, Range, arguments_of, check_arguments, one_line

KINDS = (nn.Linear, nn.Conv2d, nn.Conv3d)
"""What may be adapted."""

# What peft puts into the names of the weights beside which its own stand.
_BASE_LAYER = ".base_layer."


def add_lora(
    backbone: RewiredModel,
    *,
    r: Annotated[int, Range(1, 2**10)] = 8,
    lora_alpha: Annotated[float, POSITIVE] = 16.0,
    lora_dropout: Annotated[float, BELOW_ONE] = 0.0,
    target_modules: list[str] | None = None,
) -> None:
    """Puts LoRA into a backbone, in place; it begins as nothing, and only its weights are trainable.

    Arguments are called as in peft's `LoraConfig`.

    Args:
        backbone: Any that can be rewired.
        r: Rank.
        lora_alpha: What the matrices add is times `lora_alpha / r`.
        lora_dropout: Of their input.
        target_modules: Names of layers, or how they end; by default every linear layer and every convolution without
            groups in the residual branches.

    Raises:
        ValueError: if there is no layer of a name, or none that can be adapted.
        ImportError: if peft is not installed.
    """
    peft = import_peft()
    layers = {n: layer for n, layer in backbone.named_modules() if _kind(layer) and not n.startswith(f"{ADAPTERS}.")}
    if target_modules is None:
        inside = {
            part for stage in backbone.architecture.stages(backbone) for b in stage.branches for part in b.modules()
        }
        chosen = [name for name, layer in layers.items() if layer in inside]
    else:
        for end in target_modules:
            if not any(f".{name}".endswith(f".{end}") for name in layers):
                near = sorted({name.rpartition(".")[2] for name in layers})
                raise ValueError(
                    f"lora.target_modules: no layer is called {end!r}; they end in {', '.join(near[:20])}."
                )
        chosen = [name for name in layers if any(f".{name}".endswith(f".{end}") for end in target_modules)]
    if not chosen:
        raise ValueError(f"lora: a backbone of type {backbone.architecture.model_type!r} has no layer to adapt.")
    for name in chosen:
        # peft builds its convolutions by the class of theirs, as whose arguments it takes those of PyTorch's.
        layers[name].__class__ = cast(type[nn.Module], _kind(layers[name]))
    config = peft.LoraConfig(r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=chosen)
    try:
        peft.inject_adapter_in_model(config, backbone)
    except (ValueError, TypeError) as error:
        raise ValueError(f"lora: {one_line(error)}") from error


def check_lora(settings: Mapping[str, Any], where: str = "lora.") -> None:
    """Raises a `ValueError` if a setting is none of [`add_lora`], or not of its type or range."""
    known = arguments_of(add_lora)
    known.pop("backbone")
    check_arguments(where, settings, known)


def begin_lora(backbone: nn.Module) -> None:
    """Draws its matrices anew."""
    for layer in _adapted(backbone).values():
        layer.reset_lora_parameters("default", True)


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is LoRA's."""
    return ".lora_" in name


def library_name(name: str) -> str:
    """Returns what a tensor of a backbone was called before LoRA came beside it."""
    return name.replace(_BASE_LAYER, ".")


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """Returns the weights of a backbone under the library's names, what LoRA adds to them included."""
    state = {library_name(name): tensor for name, tensor in backbone.state_dict().items() if not is_lora(name)}
    for name, layer in _adapted(backbone).items():
        # peft's own merge() takes a convolution of 1x1xk for one of 1x1.
        down, up = (part["default"].weight.detach() for part in (layer.lora_A, layer.lora_B))
        added = torch.einsum("or,r...->o...", up.flatten(1), down) * layer.scaling["default"]
        state[f"{name}.weight"] = state[f"{name}.weight"] + added
    return state


def import_peft() -> ModuleType:
    """Returns peft.

    Raises:
        ImportError: if it is not installed; says how to.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA is peft's, which is not installed: pip install 're2tal_hf[peft]'.") from error
    return peft


def _adapted(backbone: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in backbone.named_modules() if hasattr(layer, "reset_lora_parameters")}


def _kind(layer: nn.Module) -> type[nn.Module] | None:
    """Which of `KINDS` a layer is, or computes the same as; None for others."""
    if getattr(layer, "groups", 1) != 1:
        return None
    return next((kind for kind in KINDS if isinstance(layer, kind) and type(layer).forward is kind.forward), None)
