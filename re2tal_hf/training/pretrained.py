"""Pretrained weights of a backbone: from a library, from a file, or from a model of ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..configuration_re2tal import Re2TALConfig
from ..rewiring import RewiredModel

logger = logging.getLogger(__name__)

# What stands before the library's names: in our models with and without a head, and in mmaction2's files.
PREFIXES = ("model.backbone.", "backbone.")


def load_backbone_weights(backbone: RewiredModel, source: str) -> None:
    """Loads weights under the library's own names into a backbone; a classifier's weights are left out.

    Args:
        backbone (`RewiredModel`): A rewired model without classifier (`Re2TALModel.backbone`).
        source (`str`): One of
            - a torchvision name such as `Swin3D_T_Weights.KINETICS400_V1`;
            - the path of a `.safetensors` or `.pth` file with the same keys, or with `backbone.` before them as
              mmaction2 has it;
            - a folder as `save_pretrained` writes it of a Re2TAL model, such as the result of the classification stage;
            - a folder or a Hub id of the library's own model, where that is of transformers.

    Raises:
        ValueError: if the source is none of them, or a parameter of the backbone is missing or of another shape.
    """
    state = _read(backbone, source)
    for prefix in PREFIXES:
        state = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)} or state
    own = backbone.state_dict()
    missing = sorted(own.keys() - state.keys())
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or shapes:
        wrong = f"lacks {missing[:3]}" if missing else f"has other shapes for {shapes[:3]}"
        raise ValueError(f"{source} does not fit the backbone: it {wrong}; check the sizes in model.backbone_config.")
    if unused := sorted(state.keys() - own.keys()):
        logger.info("Not used of %s: %s", source, unused)
    backbone.load_state_dict({name: state[name] for name in own})


def load_classifier_weights(model: nn.Module, label_names: Sequence[str], source: str) -> bool:
    """Loads classifier and norm of a model of ours where it tells the same classes apart; returns whether it does."""
    folder = Path(source)
    if not _is_ours(folder):
        return False
    config, state = Re2TALConfig.from_pretrained(folder), _load_all(folder)
    names = [config.id2label.get(index) for index in range(len(label_names))]
    own = [name for name in model.state_dict() if not name.startswith(PREFIXES)]
    if names != list(label_names) or not all(name in state for name in own):
        return False
    model.load_state_dict({name: state[name] for name in own}, strict=False)
    return True


def _is_ours(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("model_type") == Re2TALConfig.model_type


def _load_all(folder: Path) -> dict[str, Tensor]:
    """Weights of a folder, in one file or in several."""
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def _read(backbone: RewiredModel, source: str) -> dict[str, Tensor]:
    path, library_class = Path(source), type(backbone).original_class
    of_transformers = issubclass(library_class, PreTrainedModel)
    if path.suffix == ".safetensors" and path.is_file():
        return load_file(path)
    if path.suffix in (".pth", ".pt") and path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state.get("state_dict", state)
    if _is_ours(path):
        return _load_all(path)
    try:
        if of_transformers:
            return cast(Any, library_class).from_pretrained(source).state_dict()
        return torchvision.models.get_weight(source).get_state_dict(progress=True, check_hash=True)
    except (ValueError, KeyError, OSError) as error:
        named = "Hub id of transformers" if of_transformers else "name of torchvision weights"
        raise ValueError(
            f"training.pretrained_backbone is {source!r}: neither a .safetensors or .pth file, nor a folder of a "
            f"Re2TAL model, nor a {named} for {library_class.__name__} ({error})."
        ) from error
