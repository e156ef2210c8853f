"""Models of ours under OpenTAD's names, so that they run there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.whole_files import written_whole
from ..modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALModel
from .names import Rules, renamed

_SWIN: Rules = [
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^features\.(\d*[02468])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (r"^features\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.downsample."),
]
_SWIN_REWIRED: Rules = [
    *_SWIN,
    (r"(\.blocks\.\d+\.)(norm1|attn)\.", r"\1inv_block.Fm.\2."),
    (r"(\.blocks\.\d+\.)(norm2|mlp)\.", r"\1inv_block.Gm.\2."),
]
_SLOWFAST_REWIRED: Rules = [
    (r"(\.layer\d+)\.0\.(conv\d)\.", r"\1.blocks.0.Fm.\2."),
    (r"(\.layer\d+)\.0\.downsample\.", r"\1.blocks.0.downsample."),
    (r"(\.layer\d+)\.(\d+)\.(conv\d)\.", r"\1.blocks.\2.inv_block.Fm.\3."),
]
_BLOCKS: Rules = [
    (r"\battention_norm\b", "ln1"),
    (r"\bmlp_norm\b", "ln2"),
    (r"\battention\.(query|key|value)\.conv\b", r"attn.\1_conv.conv"),
    (r"\battention\.(query|key|value)\.norm\b", r"attn.\1_norm"),
    (r"\battention\.(query|key|value)\.linear\b", r"attn.\1"),
    (r"\battention\.output\b", "attn.proj"),
    (r"\battention_scale$", "drop_path_attn.scale"),
    (r"\bmlp_scale$", "drop_path_mlp.scale"),
]
_TRIDET_BLOCKS: Rules = [
    (r"\bmlp_norm\b", "gn"),
    (r"^((?:stem|pyramid)\.\d+)\.norm\b", r"\1.ln"),
    (r"\bgate\b", "psi"),
    (r"\bnarrow\b", "convw"),
    (r"\bwide\b", "convkw"),
    (r"\binstant\b", "fc"),
    (r"\bcontext\b", "global_fc"),
    (r"\bperception_path\b", "drop_path_out"),
    (r"\bmlp_path\b", "drop_path_mlp"),
    (r"^(start|end)\.layers\.", r"rpn_head.cls_\1_convs."),
    (r"^(start|end)\.predictor\.", r"rpn_head.cls_\1_head."),
]
_PYRAMID: Rules = [
    (r"^neck\.norms\.", "neck.fpn_norms."),
    (r"^embedding\.", "projection.embed."),
    (r"^stem\.", "projection.stem."),
    (r"^pyramid\.", "projection.branch."),
    (r"^classification\.layers\.", "rpn_head.cls_convs."),
    (r"^boundary\.layers\.", "rpn_head.reg_convs."),
    (r"^classification\.predictor\.", "rpn_head.cls_head."),
    (r"^boundary\.predictor\.", "rpn_head.reg_head."),
    (r"^level_scales\.(\d+)$", r"rpn_head.scale.\1.scale"),
]
_VSGN: Rules = [
    (r"^embedding\.", "projection.stem_convs.conv."),
    (r"^encoder\.(\d+)\.", r"projection.pyramid_convs.\1.conv."),
    (r"^neck\.top\.", "neck.levels_transit.0."),
    (r"^neck\.laterals\.(\d+)\.", r"neck.levels_enc.\1.0."),
    (r"^neck\.upsamplings\.(\d+)\.", r"neck.levels_dec.\1.0."),
    (r"^neck\.fusions\.(\d+)\.", r"neck.levels_fuse.\1.0."),
    (r"^classification\.convs\.(\d+)\.", r"rpn_head.cls_tower.\1.0."),
    (r"^classification\.norms\.(\d+)\.", r"rpn_head.cls_tower.\1.1."),
    (r"^regression\.convs\.(\d+)\.", r"rpn_head.reg_tower.\1.0."),
    (r"^regression\.norms\.(\d+)\.", r"rpn_head.reg_tower.\1.1."),
    (r"^classification\.predictor\.", "rpn_head.cls_head."),
    (r"^regression\.predictor\.", "rpn_head.reg_head."),
    (r"^evaluation\.(\d+)\.0\.", r"rpn_head.tem_head.tem.\1.0.conv."),
    (r"^evaluation\.(\d+)\.2\.", r"rpn_head.tem_head.tem.\1.1.conv."),
    (r"^(start|end)_adjustment\.conv\.", r"roi_head.\1_conv.0."),
    (r"^(start|end)_adjustment\.predictor\.", r"roi_head.\1_conv.2."),
]
_HEADS = {"actionformer": [*_BLOCKS, *_PYRAMID], "tridet": [*_TRIDET_BLOCKS, *_PYRAMID], "vsgn": _VSGN}
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
    if localizer and (head_config["model_type"] not in _HEADS or head_config.get("neck", "identity") != "identity"):
        raise ValueError(f"OpenTAD has no head of these settings: {head_config['model_type']} and its neck.")
    if head_config.get("num_neighbours", 0 if head_config.get("model_type") != "vsgn" else 1):
        raise ValueError("OpenTAD's VSGN has no graphs: head_config.num_neighbours must be 0.")
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            state[theirs + renamed(name[len(prefix) :], rules)] = tensor
        elif name.startswith("head."):
            new = renamed(name[len("head.") :], _HEADS[head_config["model_type"]])
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
    if family not in ("video_swin", "slowfast") or rewiring not in ("re2tal", "none"):
        raise ValueError(f"OpenTAD has no backbone {family!r} with rewiring={rewiring!r}.")
    if family == "slowfast":
        return _SLOWFAST_REWIRED if rewiring == "re2tal" else []
    depths = config.backbone_config.get("depths") or (0,) * 4
    return [*(_SWIN_REWIRED if rewiring == "re2tal" else _SWIN), (r"^norm\.", f"norm{len(depths) - 1}.")]
