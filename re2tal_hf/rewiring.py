"""`rewire`: the model of an architecture, with the coefficients and the backward pass of a rewiring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .architecture import BACKBONES, Architecture, architecture_of, build_library_model
from .backprop_parts import check_reach
from .backprop_plan import AnyBackprop, BackpropPlanner
from .coupling import COUPLING, COUPLINGS, DUAL_RESIDUAL, AnyCoupling, as_couplings, check_rewiring, default_backprop
from .dual_residual import BackpropSwitch
from .reversible import ReconstructionErrors
from .rewired_model import RewiredModel, rewired_class
from .value_checks import shown, suggesting


def build_backbone(
    backbone_config: Mapping[str, Any],
    rewiring: str = "re2tal",
    backprop: AnyBackprop | None = None,
    coupling: AnyCoupling | None = None,
    stream_bits: int | None = None,
) -> RewiredModel:
    """Builds a registered architecture by name, rewired.

    Args:
        backbone_config: `model_type` and the family's own settings.
        rewiring: As for `rewire`.
        backprop: As for `rewire`.
        coupling: As for `rewire`.
        stream_bits: As for `rewire`.

    Raises:
        ValueError: if `model_type` is missing or not registered, or a setting is not the family's.
    """
    # Not by the model's class: several architectures may describe it.
    architecture = BACKBONES.find(backbone_config.get("model_type"))
    model = build_library_model(backbone_config)
    return _rewired(model, type(model), architecture, rewiring, backprop, coupling, stream_bits)


@suggesting
def rewire(
    model: nn.Module,
    rewiring: str = "re2tal",
    backprop: AnyBackprop | None = None,
    coupling: AnyCoupling | None = None,
    stream_bits: int | None = None,
) -> RewiredModel:
    """Rewires a model in place, so that its activations need not be stored.

    Modules, parameters and `state_dict` keys stay as they are; what changes is the order in which the
    residual branches are added up (Re2TAL, arXiv 2211.14053, fig. 3). A rewired network does not compute what
    the original did: it starts from its weights and is fine-tuned. Dr2Net's coefficients are a buffer, `coupling`
    `[stages, 2]`; weights without it leave it as it is.

    Args:
        model: An instance of a registered architecture, such as torchvision's `swin3d_t()`.
        rewiring: `"re2tal"`, `"none"` for the network as it is, or `"dr2net"` for what lies between.
        backprop: `"reversible"` (the default of a rewired network), `"checkpoint"` (of one that is not) or `"plain"`:
            same outputs, same gradients, other memory. It may be set again later as `model.backprop`. Of Dr2Net,
            `"reversible"` inverts a stage once rounding allows it, and stores its inputs until then. `"auto"` takes
            for each stage the fastest mode with which the backbone keeps no more than `model.memory_budget` bytes, by
            default what is free; `model.plan` says which; where even the leanest keep more, it goes by clips if it can.
            `"clips"` does so for some of a video at a time, clips or chunks with what their features see around them,
            so that nothing grows with its length.
        coupling: Coefficients `(alpha, beta)` of Dr2Net, by default `(1, 0)`, the network as it is. They may be set
            again later by `model.set_coupling`.
        stream_bits: Rounds what each branch adds, so that the inverse is exact to the bit in any precision: 16 (to
            2^-8; stages hand on at most 128; they are kept as integers of two bytes) or 24 (to 2^-14, at most 1024). Of
            `"re2tal"` alone.

    Returns:
        The same object, whose class is now a mixture of this and its own.

    Raises:
        TypeError: if the model is none.
        ValueError: if the model's class, the rewiring or the backprop mode is unknown, or the two do not go together.

    Example:
        >>> from torchvision.models.video import swin3d_t
        >>> model = rewire(swin3d_t())
        >>> model.backprop
        'reversible'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {shown(model)}; it must be a network, such as torchvision's swin3d_t().")
    if isinstance(model, RewiredModel):
        original: type[nn.Module] = type(model).original_class
    else:
        original = type(model)
    return _rewired(model, original, architecture_of(original), rewiring, backprop, coupling, stream_bits)


def _rewired(
    model: nn.Module,
    original: type[nn.Module],
    architecture: Architecture,
    rewiring: str,
    backprop: AnyBackprop | None,
    coupling: AnyCoupling | None,
    stream_bits: int | None,
) -> RewiredModel:
    backprop = default_backprop(rewiring) if backprop is None else backprop
    check_rewiring(rewiring, backprop, coupling, stream_bits)
    for module in model.modules():
        if recast := architecture.recast_modules.get(type(module)):
            module.__class__ = recast
    model.__class__ = rewired_class(original)
    assert isinstance(model, RewiredModel)
    model.architecture = architecture
    model.rewiring = rewiring
    model.backprop = backprop
    model.stream_bits = stream_bits
    model.reconstruction_errors = ReconstructionErrors()
    model.backprop_switch = BackpropSwitch()
    model.backprop_planner = BackpropPlanner()
    if backprop == "clips":
        check_reach(model)
    stages = architecture.stages(model)
    model._couplings = as_couplings(
        coupling if coupling is not None else COUPLINGS.get(rewiring, COUPLINGS["none"]), len(stages)
    )
    model._buffers.pop(COUPLING, None)
    if rewiring == DUAL_RESIDUAL:
        model.register_buffer(COUPLING, torch.tensor(model._couplings))
    return model
