"""Classifiers of mmaction2 (https://github.com/open-mmlab/mmaction2): Video Swin and SlowFast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..modeling_re2tal import Re2TALForVideoClassification, Re2TALModel
from .backbones import find_backbone, pool_every_frame
from .converted_model import Plan
from .names import renamed
from .opentad_options import backbone_settings
from .options_file import Options
from .settings import Settings
from .source import Source

CLASSIFIER = "cls_head.fc_cls"
ADVICE = "give --options, the config that it was trained with, or name them, as in backbone_config.resample_rate=8."


def plan_mmaction2(source: Source, options: Options | None, given: Mapping[str, Any]) -> Plan:
    """Plans the conversion of a classifier or, where that is left out, of a backbone.

    The network is as it was unless `rewiring=re2tal` is given: then it starts from the same weights and is fine-tuned.

    Args:
        source: The checkpoint.
        options: Config of its training.
        given: Settings that the user or a recipe names.

    Raises:
        ValueError: if the checkpoint is of another network, or a setting is contradicted or not known.
    """
    backbone = find_backbone(source.tensors)
    if backbone is None:
        raise ValueError(f"{source.name} holds none of mmaction2's backbones that are known, Video Swin and SlowFast.")
    state, prefix = dict(source.tensors), backbone.prefix
    classifies = f"{CLASSIFIER}.weight" in state
    settings = Settings(source.name)
    rewiring = backbone.settings["rewiring"]
    found = {name: value for name, value in backbone.settings.items() if name != "rewiring" or rewiring != "none"}
    settings.add(found, "the weights")
    if options is not None:
        settings.add(backbone_settings(options), options.name)
    settings.add(given, "the settings given")
    if "rewiring" not in settings.values:
        settings.add({"rewiring": "none"}, "the weights")
    settings.need(backbone.needed, ADVICE)
    inner = "model.backbone." if classifies else "backbone."
    names = {n: inner + renamed(n[len(prefix) :], backbone.rules) for n in state if n.startswith(prefix)}
    if classifies:
        names = {name: new for name, new in names.items() if not name.startswith("cls_head.")}
        names |= {f"{CLASSIFIER}.{part}": f"classifier.{part}" for part in ("weight", "bias")}
        weight = state[f"{CLASSIFIER}.weight"]
        settings.add({"num_labels": len(weight)}, "the weights")
        if settings.values["backbone_config.model_type"] == "slowfast":
            state[f"{CLASSIFIER}.weight"] = _slow_first(weight, backbone.settings["backbone_config.channel_ratio"])
            pool_every_frame(settings, "mmaction2's code")
    return Plan(
        source.name,
        Re2TALForVideoClassification if classifies else Re2TALModel,
        state,
        {name: new for name, new in names.items() if name in state},
        settings,
        source.origin,
    )


def _slow_first(weight: Tensor, channel_ratio: int) -> Tensor:
    """The classifier's columns, which are the fast pathway's, then the slow one's; ours are the other way round."""
    fast = weight.shape[1] // (channel_ratio + 1)
    return torch.cat((weight[:, fast:], weight[:, :fast]), dim=1)
