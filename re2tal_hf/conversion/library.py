"""Pretrained models of torchvision, transformers and timm, by the library's own name of them, as backbones of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..configuration_re2tal import Re2TALConfig
from ..licensing.origins import find_origin
from ..modeling_re2tal import Re2TALModel
from ..training.library_weights import backbone_of
from ..training.pretrained import load_backbone_weights
from .converted_model import Converted, Plan
from .settings import Settings


def convert_library(name: str, given: Mapping[str, Any], license: str | None) -> Converted:
    """Makes a library's pretrained model a backbone, rewired unless `rewiring` is given.

    Args:
        name: torchvision's of the weights, a folder or Hub id of a model of transformers, or timm's name.
        given: Settings that the user or a recipe names.
        license: That the user states.

    Raises:
        ValueError: if there is no such model, it is none of a family that is known, or its weights do not fit.
    """
    settings = Settings(name)
    settings.add({f"backbone_config.{key}": value for key, value in backbone_of(name).items()}, "the library")
    settings.add({"rewiring": "re2tal", **given}, "the settings given")
    origin = find_origin(name, license, download=True)
    model = Re2TALModel(Re2TALConfig(origin=origin.record(), **settings.config()))
    load_backbone_weights(model.backbone, name)
    state = model.backbone.state_dict()
    names = {key: f"backbone.{key}" for key in state}
    return Converted(Plan(name, Re2TALModel, state, names, settings, origin), model.eval(), {}, [])
