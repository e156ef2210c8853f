"""To which network pretrained weights belong, told by a name of them, by their folder or by the tensors in a file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..architecture import BACKBONES
from ..backbone_image import import_timm
from ..configuration_re2tal import CONFIGS
from ..loaded_weights import is_computed
from ..rewiring import build_backbone
from ..saved_files import check_json
from ..value_checks import fields_of, shown
from .model_source import model_folder, near_folder
from .weight_files import FILE_SUFFIXES, read_weight_file, unwrap

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
# Variants of V-JEPA 2.1, whose authors publish files.
VJEPA2_1 = ("base", "large")
# Of timm, which files of weights are tried for, beside those of torchvision.
TIMM = (
    "tf_efficientnet_lite0", "tf_efficientnet_b0", "resnet18", "resnet50", "convnext_tiny", "vit_small_patch16_224",
    "vit_small_patch14_dinov2",
)  # fmt: skip


def backbone_of(name: str) -> dict[str, Any]:
    """Returns the `backbone_config` of a library's model, of a file of its weights, or of a model or run of ours.

    Raises:
        ValueError: if there is no such model, or it is none of a family that is known.
    """
    if Path(name).suffix in FILE_SUFFIXES:
        if not Path(name).is_file():
            raise ValueError(f"{name}: there is no such file{near_folder(name)}.")
        return _network_in(Path(name))
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
        name = str(model_folder(name))
        check_json(Path(name))
    try:
        values: Any = PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise ValueError(f"{name} has no config.json of transformers: {' '.join(str(error).split())[:200]}") from error
    family = values.get("model_type")
    if family in CONFIGS:
        return dict(values["backbone_config"])
    if "architecture" in values:
        return {"model_type": "image", "variant": str(values["architecture"])}
    config_class = getattr(BACKBONES.get(str(family)), "config_class", None)
    if config_class is None:
        raise ValueError(f"{name} is of type {shown(family)}, which is no family of transformers that is known.")
    own = fields_of(config_class)
    return {"model_type": family, **{key: value for key, value in values.items() if key in own}}


def _network_in(path: Path) -> dict[str, Any]:
    """The first of the usual networks whose tensors, all of them, a file holds in the same shapes."""
    state = read_weight_file(path)
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    for settings in _usual_networks():
        with torch.device("meta"):
            network = build_backbone(settings, "none", "plain")
        own = {name: tensor for name, tensor in network.state_dict().items() if not is_computed(tensor)}
        found = network.architecture.todays_names(network, unwrap(shapes, own.keys()))
        if all(name in found and found[name].shape == tensor.shape for name, tensor in own.items()):
            return settings
    raise ValueError(f"To which network the weights in {path} belong is not known: give model.backbone_config, too.")


def _usual_networks() -> Iterator[dict[str, Any]]:
    for model_type, variant in TORCHVISION.values():
        yield {"model_type": model_type, "variant": variant}
    yield from ({"model_type": "vjepa2_1", "variant": variant} for variant in VJEPA2_1)
    if find_spec("timm"):
        yield from ({"model_type": "image", "variant": variant} for variant in TIMM)
