"""Checkpoints of OpenTAD (https://github.com/sming256/OpenTAD): detectors, and backbones rewired for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..modeling_re2tal import Re2TALForTemporalActionLocalization, Re2TALModel
from .backbones import FoundBackbone, find_backbone
from .converted_model import Plan
from .heads import FILLS, NEEDED, features_settings, head_settings, input_size
from .names import head_name, renamed
from .opentad_export import PROJECTS
from .opentad_options import opentad_settings
from .options_file import Options
from .settings import Settings
from .source import Source

HEAD_PARTS = ("projection.", "neck.", "rpn_head.", "roi_head.")
NORMALIZER = "rpn_head.loss_normalizer"
ADVICE = "give --options, the config that it was trained with, or name them, as in head_config.max_length=2304."
OF_THE_CODE: dict[str, dict[str, Any]] = {
    "actionformer": {"head_config.padding": "opentad", "head_config.norm_eps": 1e-6},
    "tridet": {"head_config.padding": "opentad", "head_config.norm_eps": 1e-6},
    "vsgn": {"head_config.padding": "opentad"},
}
# Parts of a checkpoint that a model of ours has no place for.
DROPPED = [
    (r"^(?!rpn_head)(\w+\.)*cls_head\.", "a classifier; a backbone and a localizer have none"),
    (r"(^|\.)data_preprocessor\.(mean|std)$", "what the frames are normalised by, which the processor says"),
    (r"^projection\.pos_embed$", "a table of positions, which is computed"),
]


def plan_opentad(source: Source, options: Options | None, given: Mapping[str, Any]) -> Plan:
    """Plans the conversion of a detector or, where there is no head, of a backbone.

    Args:
        source: The checkpoint.
        options: Config of its training.
        given: Settings that the user or a recipe names.

    Raises:
        ValueError: if the checkpoint is of neither, or a setting is contradicted or not known.
    """
    backbone = find_backbone(source.tensors)
    parts = {name: tensor for name, tensor in source.tensors.items() if name.startswith(HEAD_PARTS)}
    head = _kind_of_head(source.name, parts) if parts else None
    if backbone is None and (head is None or any(name.startswith("backbone.") for name in source.tensors)):
        raise ValueError(f"{source.name} holds none of OpenTAD's backbones that are known, Video Swin and SlowFast.")
    settings = Settings(source.name)
    needed, names = [], {}
    if backbone is not None:
        needed += backbone.needed
        settings.add(backbone.settings, "the weights")
        names = _backbone_names(source.tensors, backbone, "backbone." if head is None else "model.backbone.")
    if head is not None:
        ours = {name: head_name(PROJECTS[head], name) for name in parts if name != NORMALIZER}
        tensors = {new: parts[name] for name, new in ours.items()}
        settings.add(head_settings(source.name, head, tensors), "the weights")
        settings.add(OF_THE_CODE[head], "OpenTAD's code")
        if backbone is None:
            settings.add(features_settings(tensors), "the weights")
        else:
            _check_features(source.name, backbone, input_size(tensors))
        needed += [f"head_config.{name}" for name in NEEDED[head]]
        if backbone is not None and backbone.settings["backbone_config.model_type"] == "slowfast":
            # Its features are interpolated to as many as the head takes.
            needed.append("backbone_config.feature_stride")
        names |= {name: f"head.{new}" for name, new in ours.items()}
        if NORMALIZER in parts:
            names[NORMALIZER] = "criterion.normalizer"
    if options is not None:
        settings.add(opentad_settings(options, head), options.name)
    settings.add(given, "the settings given")
    settings.need(needed, ADVICE)
    dropped = {name: why for name in source.tensors for pattern, why in DROPPED if re.search(pattern, name)}
    return Plan(
        source.name,
        Re2TALModel if head is None else Re2TALForTemporalActionLocalization,
        source.tensors,
        {name: new for name, new in names.items() if name not in dropped},
        settings,
        source.origin,
        dropped,
        FILLS,
    )


def _check_features(source: str, backbone: FoundBackbone, taken: int) -> None:
    if backbone.feature_size != taken:
        raise ValueError(f"{source}: the backbone makes {backbone.feature_size} channels, and the head takes {taken}.")


def _kind_of_head(source: str, parts: Mapping[str, Tensor]) -> str:
    marks = {
        "tridet": r"rpn_head\.cls_start_head\.weight",
        "vsgn": r"projection\.pyramid_convs\.0\.conv\.weight",
        "actionformer": r"projection\.(stem|branch)\.0\.ln1\.weight",
    }
    for head, mark in marks.items():
        if any(re.fullmatch(mark, name) for name in parts):
            return head
    some = ", ".join(list(parts)[:3])
    raise ValueError(f"{source} has a head that is none of ActionFormer, TriDet and VSGN: {some}, ...")


def _backbone_names(state: Mapping[str, Tensor], backbone: FoundBackbone, ours: str) -> dict[str, str]:
    prefix = backbone.prefix
    return {
        name: ours + renamed(name[len(prefix) :], backbone.rules)
        for name in state
        if name.startswith(prefix) and not name.startswith(HEAD_PARTS)
    }
