"""Pretrained models of torchvision, transformers and timm, by the library's own name of them, as backbones of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..backbone_image import import_timm
from ..configuration_re2tal import Re2TALConfig
from ..licensing.origins import find_origin
from ..modeling_re2tal import Re2TALModel
from ..rewiring import BACKBONES
from ..saved_files import check_json
from ..training.pretrained import load_backbone_weights
from ..value_checks import fields_of, shown
from .converted_model import Converted, Plan
from .settings import Settings

# What stands before the dot in torchvision's names of weights.
TORCHVISION = {
    "Swin3D_T_Weights": ("video_swin", "tiny"),
    "Swin3D_S_Weights": ("video_swin", "small"),
    "Swin3D_B_Weights": ("video_swin", "base"),
    "MViT_V1_B_Weights": ("mvit", "v1_b"),
    "MViT_V2_S_Weights": ("mvit", "v2_s"),
    "R3D_18_Weights": ("video_resnet", "r3d_18"),
    "MC3_18_Weights": ("video_resnet", "mc3_18"),
    "R2Plus1D_18_Weights": ("video_resnet", "r2plus1d_18"),
}


def convert_library(name: str, given: Mapping[str, Any], license: str | None) -> Converted:
    """Makes a library's pretrained model a backbone, rewired unless `rewiring` is given.

    Args:
        name: torchvision's of the weights, a folder or Hub id of a model of transformers, or timm's name.
        given: Settings from the command line.
        license: That the user states.

    Raises:
        ValueError: if there is no such model, it is none of a family that is known, or its weights do not fit.
    """
    settings = Settings(name)
    settings.add({f"backbone_config.{key}": value for key, value in backbone_of(name).items()}, "the library")
    settings.add({"rewiring": "re2tal", **given}, "the command line")
    origin = find_origin(name, license, download=True)
    model = Re2TALModel(Re2TALConfig(origin=origin.record(), **settings.config()))
    load_backbone_weights(model.backbone, name)
    state = model.backbone.state_dict()
    names = {key: f"backbone.{key}" for key in state}
    return Converted(Plan(name, Re2TALModel, state, names, settings, origin), model.eval(), {}, [])


def backbone_of(name: str) -> dict[str, Any]:
    """Returns the `backbone_config` of a library's model.

    Raises:
        ValueError: see `convert_library`.
    """
    weights = name.partition(".")[0]
    if weights in TORCHVISION and not Path(name).exists():
        model_type, variant = TORCHVISION[weights]
        return {"model_type": model_type, "variant": variant}
    if name.startswith(("timm/", "hf-hub:timm/")) or ("/" not in name and not Path(name).exists()):
        variant = name.rpartition("/")[2].partition(".")[0]
        if not import_timm().is_model(variant):
            known = ", ".join(f"{one}.*" for one in TORCHVISION)
            raise ValueError(
                f"{shown(name)} is none of timm's models, no folder and no Hub id; of torchvision: {known}."
            )
        return {"model_type": "image", "variant": variant}
    if Path(name).is_dir():
        check_json(Path(name))
    try:
        values: Any = PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise ValueError(f"{name} has no config.json of transformers: {' '.join(str(error).split())[:200]}") from error
    family = values.get("model_type")
    config_class = getattr(BACKBONES.get(str(family)), "config_class", None)
    if config_class is None:
        raise ValueError(f"{name} is of type {shown(family)}, which is no family of transformers that is known.")
    own = fields_of(config_class)
    return {"model_type": family, **{key: value for key, value in values.items() if key in own}}
