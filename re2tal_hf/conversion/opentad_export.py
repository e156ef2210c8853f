"""Models of ours under OpenTAD's names, so that they run there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.whole_files import written_whole
from ..modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALModel
from .names import HEADS_BACK, SLOWFAST_BACK_REWIRED, SWIN_BACK, SWIN_BACK_REWIRED, Rules, renamed

PROJECTS = {"actionformer": "opentad", "tridet": "tridet", "vsgn": "vsgn"}
"""What `names` calls OpenTAD's heads, by our names."""

# What is a convolution over one step there and a linear layer here, and scales with dimensions of batch and time.
_ONE_STEP = re.compile(r"\.attn\.(query|key|value|proj)\.weight$|^projection\..*\.mlp\.\d\.weight$")
_SCALE = re.compile(r"\.drop_path_\w+\.scale$")


def opentad_state(model: Re2TALModel | Re2TALForTemporalActionLocalization) -> dict[str, Tensor]:
    """Returns the tensors of a model under OpenTAD's names and in its shapes.

    Raises:
        ValueError: if the model has a backbone, a rewiring or a head that is not there.
    """
    config, localizer = model.config, isinstance(model, Re2TALForTemporalActionLocalization)
    rules = _backbone_rules(config)
    prefix, theirs = ("model.backbone.", "backbone.model.backbone.") if localizer else ("backbone.", "backbone.")
    head_config = config.head_config if localizer else {}
    if localizer and (head_config["model_type"] not in PROJECTS or head_config.get("neck", "identity") != "identity"):
        raise ValueError(f"OpenTAD has no head of these settings: {head_config['model_type']} and its neck.")
    if head_config.get("num_neighbours", 0 if head_config.get("model_type") != "vsgn" else 1):
        raise ValueError("OpenTAD's VSGN has no graphs: head_config.num_neighbours must be 0.")
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            state[theirs + renamed(name[len(prefix) :], rules)] = tensor
        elif name.startswith("head."):
            new = renamed(name[len("head.") :], HEADS_BACK[PROJECTS[head_config["model_type"]]])
            state[new] = tensor.unsqueeze(-1) if _ONE_STEP.search(new) else tensor
            if _SCALE.search(new):
                state[new] = tensor.view(1, -1, 1)
        elif name == "criterion.normalizer":
            state["rpn_head.loss_normalizer"] = tensor
    return state


def save_for_opentad(model: Re2TALModel | Re2TALForTemporalActionLocalization, path: Path) -> None:
    """Writes a checkpoint as OpenTAD's own training does; a backbone as those that its training begins with.

    Raises:
        ValueError: as `opentad_state` does.
        OSError: if it cannot be written.
    """
    state = opentad_state(model)
    localizer = isinstance(model, Re2TALForTemporalActionLocalization)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()} if localizer else state
    checkpoint: dict[str, Any] = {"epoch": 0, "state_dict": wrapped, "state_dict_ema": wrapped}
    with written_whole(path) as partial:
        torch.save(checkpoint if localizer else {"state_dict": state}, partial)


def _backbone_rules(config: Any) -> Rules:
    family, rewiring = config.backbone_config["model_type"], config.rewiring
    if family == "features":
        return []
    if family not in ("video_swin", "slowfast") or rewiring not in ("re2tal", "none"):
        raise ValueError(f"OpenTAD has no backbone {family!r} with rewiring={rewiring!r}.")
    if family == "slowfast":
        return SLOWFAST_BACK_REWIRED if rewiring == "re2tal" else []
    depths = config.backbone_config.get("depths") or (0,) * 4
    return [*(SWIN_BACK_REWIRED if rewiring == "re2tal" else SWIN_BACK), (r"^norm\.", f"norm{len(depths) - 1}.")]
