"""Pretrained weights of a backbone: from a library, from a file, or from a model of ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

OWN_PREFIXES = ("model.backbone.", "backbone.")


def load_backbone_weights(backbone: nn.Module, source: str) -> None:
    """Loads weights under the library's own names into a backbone; a classifier's weights are left out.

    Args:
        backbone (`nn.Module`): A rewired model without classifier (`Re2TALModel.backbone`).
        source (`str`): A torchvision name such as `Swin3D_T_Weights.KINETICS400_V1`; the path of a `.safetensors` or
            `.pth` file with the same keys; or a folder as `save_pretrained` writes it, of a Re2TAL model (such as the
            result of the classification stage) or of the library's own model.

    Raises:
        ValueError: if the source is neither, or a parameter of the backbone is missing or of another shape.
    """
    state = _read(source)
    own = backbone.state_dict()
    missing = sorted(own.keys() - state.keys())
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or shapes:
        wrong = f"lacks {missing[:3]}" if missing else f"has other shapes for {shapes[:3]}"
        raise ValueError(f"{source} does not fit the backbone: it {wrong}; check the sizes in model.backbone_config.")
    if unused := sorted(state.keys() - own.keys()):
        logger.info("Not used of %s: %s", source, unused)
    backbone.load_state_dict({name: state[name] for name in own})


def load_classifier_weights(classifier: nn.Module, label_names: Sequence[str], source: str) -> bool:
    """Loads the classifier of a model of ours where it tells the same classes apart; returns whether it does."""
    folder = Path(source)
    if not (folder / "config.json").is_file():
        return False
    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")
    names = [config.get("id2label", {}).get(str(index)) for index in range(len(label_names))]
    if names != list(label_names) or "classifier.weight" not in state:
        return False
    classifier.load_state_dict({name: state[f"classifier.{name}"] for name in ("weight", "bias")})
    return True


def _read(source: str) -> dict[str, Tensor]:
    path = Path(source)
    if (path / "model.safetensors").is_file():
        state = load_file(path / "model.safetensors")
        # Models with a head hold the backbone model as `model`, and that the network as `backbone`.
        own = {name.partition("backbone.")[2]: t for name, t in state.items() if name.startswith(OWN_PREFIXES)}
        return own or state
    if path.suffix == ".safetensors" and path.is_file():
        return load_file(path)
    if path.suffix in (".pth", ".pt") and path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state.get("state_dict", state)
    try:
        weights = torchvision.models.get_weight(source)
    except ValueError as error:
        raise ValueError(
            f"training.pretrained_backbone is {source!r}: neither a folder with model.safetensors, nor a .safetensors "
            "or .pth file, nor the name of torchvision weights such as 'Swin3D_T_Weights.KINETICS400_V1'."
        ) from error
    return weights.get_state_dict(progress=True, check_hash=True)
