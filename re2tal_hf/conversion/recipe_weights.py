"""A checkpoint of another project as the model of a recipe, which says what the weights do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..configuration_re2tal import Re2TALConfig
from ..head import HEADS
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..training.arguments import Recipe
from ..value_checks import arguments_of
from .converted_model import Converted, convert
from .heads import NEEDED
from .kinds import KINDS
from .source import read_source

_RATES = ("resample_rate", "speed_ratio")


def convert_for_recipe(
    path: Path, kind: str, recipe: Recipe, labels: Sequence[str], weights: str | None = None
) -> Converted:
    """Converts a detector that was trained with the settings of a recipe.

    Args:
        path: The checkpoint.
        kind: Of `KINDS`, the project that it comes from.
        recipe: Of the settings; its processor becomes the model's.
        labels: Names of the classes, in the order of the checkpoint.
        weights: Name of the weights in the checkpoint, where it has several.

    Raises:
        ValueError: if the checkpoint is none of the project, or its network is another than the recipe's.
    """
    with torch.device("meta"):
        wanted = Re2TALForTemporalActionLocalization(Re2TALConfig(**recipe.model, id2label=dict(enumerate(labels))))
    plan = KINDS[kind](read_source(path, weights, None), None, _untold(recipe, wanted))
    plan.labels = list(labels)
    where = f"{path} is not of the recipe {recipe.name}"
    if plan.model_class is not Re2TALForTemporalActionLocalization:
        raise ValueError(f"{where}: it holds a backbone without a head; give the checkpoint of the whole detector.")
    if (found := plan.settings.values.get("num_labels", len(labels))) != len(labels):
        raise ValueError(f"{where}: it tells {found} classes apart, and there are {len(labels)} in the annotations.")
    if (rewiring := plan.settings.values["rewiring"]) != wanted.config.rewiring:
        raise ValueError(f"{where}: its rewiring is {rewiring!r}, and the recipe's {wanted.config.rewiring!r}.")
    converted = convert(plan)
    ours, theirs = (
        {name: list(t.shape) for name, t in model.state_dict().items()} for model in (wanted, converted.model)
    )
    if differing := [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]:
        name = min(differing)
        shapes = " and ".join(
            f"{shapes.get(name, 'missing')} {side}" for shapes, side in ((theirs, "in it"), (ours, "there"))
        )
        raise ValueError(f"{where}: {len(differing)} tensors differ in shape, such as {name}, {shapes}.")
    return converted


def _untold(recipe: Recipe, model: Re2TALForTemporalActionLocalization) -> dict[str, Any]:
    """What weights do not tell of the model of a recipe, and its processor."""
    head = dict(recipe.model.get("head_config") or {})
    registered = HEADS[model.config.head_config["model_type"]].head_class
    known = arguments_of(getattr(registered, "config_class", None) or registered).defaults | head
    needed = {name: known[name] for name in NEEDED.get(model.config.head_config["model_type"], ())}
    backbone = recipe.model.get("backbone_config") or {}
    rates = {name: getattr(model.model.backbone, name) for name in _RATES if hasattr(model.model.backbone, name)}
    if "feature_stride" in backbone:
        rates["feature_stride"] = backbone["feature_stride"]
    sections = {"head_config": needed, "backbone_config": rates, "processor": recipe.processor}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
