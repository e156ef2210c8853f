"""What a folder of stored features says of itself, and what a recipe must say to train on one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ..backbone_features import StoredFeaturesArchitecture
from ..data.json_files import read_json
from ..value_checks import check_values, fields_of, shown
from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_settings import VideoSettings
from .arguments import Recipe

DESCRIPTION = "features.json"
MODEL_TYPE = StoredFeaturesArchitecture.model_type
TIMES = ("feature_stride", "feature_offset", "feature_rate")


def read_description(folder: str | Path) -> dict[str, Any]:
    """Reads what `re2tal features` wrote of a folder beside the features; empty where others wrote them.

    Returns:
        `size` and the settings of the processor, `feature_stride`, `feature_offset` and `feature_rate`.

    Raises:
        ValueError: It is not as it was written.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        return {}
    values = read_json(path, "{size, feature_stride, feature_offset, feature_rate, ...}")
    hints = {"size": int, **{name: fields_of(VideoSettings)[name] for name in TIMES}}
    if not isinstance(values, dict) or (missing := [name for name in hints if name not in values]):
        raise ValueError(f"{path} has no {missing[0]!r}; compute the features again.")
    return check_values(f"{path}: ", {name: values[name] for name in hints}, hints)


def describe_features(folder: str | Path) -> dict[str, Any]:
    """What `re2tal features` wrote of a folder: which encoder, which windows; empty where others computed them."""
    found = read_json(Path(folder) / DESCRIPTION, "{size, ...}") if (Path(folder) / DESCRIPTION).is_file() else {}
    return found if isinstance(found, dict) else {}


def with_features(recipe: Recipe) -> Recipe:
    """A recipe with what the folder of its features says of them, where the recipe itself says nothing.

    Raises:
        ValueError: Features and the rest of the recipe do not go together.
    """
    backbone = recipe.model.get("backbone_config") or {}
    named = backbone.get("model_type") == MODEL_TYPE
    folder = recipe.data.features
    if folder is None:
        if named:
            raise ValueError("data.features is empty, and the backbone is 'features': name the folder of the features.")
        if recipe.processor.get("sampling") == "whole":
            raise ValueError("processor.sampling 'whole' is for data.features; take 'sliding' for videos.")
        return recipe
    if not named:
        raise ValueError(
            f"data.features is {shown(folder)}, and the backbone is {shown(backbone.get('model_type'))}: set "
            "model.backbone_config.model_type=features, as the recipe features_actionformer does."
        )
    if backbone.get("stride", 1) != 1:
        raise ValueError(
            f"model.backbone_config.stride is {backbone['stride']}: windows are counted in features, leave it at 1; "
            "how far they stand apart is processor.feature_stride."
        )
    if set(recipe.augmentation):
        raise ValueError("augmentation is of frames, and data.features has none: leave the section out.")
    if recipe.training.pretrained_backbone:
        raise ValueError("training.pretrained_backbone: features have no network to load it into; leave it out.")
    filled, found = copy.deepcopy(recipe), read_description(folder)
    for section, place, names in (
        (filled.model["backbone_config"], "model.backbone_config", ("size",)),
        (filled.processor, "processor", TIMES),
    ):
        for name in names:
            said = section.get(name)
            if name in found and name in section and said != found[name]:
                raise ValueError(
                    f"{place}.{name} is {said}, and {Path(folder) / DESCRIPTION} says {found[name]}: leave it out."
                )
            if name in found:
                section[name] = found[name]
    if "feature_stride" not in filled.processor and filled.processor.get("sampling") != "resized":
        raise ValueError(
            f"data.features {folder} has no {DESCRIPTION}: set processor.feature_stride and feature_offset, 4 and 8 "
            "for ActionFormer's features of THUMOS-14, or feature_stride=null where they are spread over the videos."
        )
    return filled


def check_described(folder: str | Path, processor: Re2TALVideoProcessor) -> None:
    """Refuses features of a folder that says that they were cut otherwise than those that a model was trained on."""
    found = read_description(folder)
    for name in TIMES:
        if name in found and getattr(processor, name) != found[name]:
            raise ValueError(
                f"{Path(folder) / DESCRIPTION} says {name}={found[name]}, and the model was trained on features of "
                f"{name}={getattr(processor, name)}: compute them as those were."
            )


def feature_size(recipe: Recipe) -> int:
    """Channels of a recipe's features."""
    size: int = StoredFeaturesArchitecture().build(size=recipe.model["backbone_config"].get("size", 2048)).size
    return size
