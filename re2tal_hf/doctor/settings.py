"""A recipe by itself: learning rates, schedule, what is frozen, and the pretrained weights it names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.models import WeightsEnum, get_weight

from ..saved_files import read_json
from ..training.arguments import Recipe
from ..training.feature_settings import MODEL_TYPE
from ..training.model_source import model_folder
from ..training.optimization import learning_rate_factor
from ..video_processing_re2tal import Re2TALVideoProcessor
from .finding import Finding

# Above it AdamW moves every weight by more than it is in a few steps.
_HIGH_RATE = 0.03
# A backbone that begins anew learns with a rate of the order of the head's.
_SLOWER = 0.1
# By so much in all AdamW can move a weight: some change that is seen, and none.
_LEAST_MOVE, _NO_MOVE = 5e-3, 1e-6
_LEAST_UPDATES = 30
# Share of the untrained weights in the average; of the weights that weight decay leaves.
_UNTRAINED, _LEFT = 0.3, 0.05
_HIGH_SCORE = 0.3
# Standard deviations that the mean of the frames may be off, and times that their spread may be another.
_OFF, _TIMES = 0.75, 1.8


def of_settings(recipe: Recipe) -> list[Finding]:
    """What is likely wrong whatever the data are."""
    found = _of_rates(recipe) + _of_schedule(recipe) + _of_scores(recipe)
    if (recipe.model.get("backbone_config") or {}).get("model_type") != MODEL_TYPE:
        found += _of_backbone(recipe) + _of_source(recipe)
    return found


def of_updates(recipe: Recipe, updates_per_epoch: int) -> list[Finding]:
    """What is likely wrong once it is known how many updates there are.

    Args:
        recipe: Of the training.
        updates_per_epoch: Updates of an epoch.
    """
    arguments, found = recipe.training, []
    updates = arguments.epochs * updates_per_epoch
    if updates < _LEAST_UPDATES:
        fix = f"training.epochs={-(-_LEAST_UPDATES * 20 // updates_per_epoch)}, or a higher data.windows_per_video"
        seen = f"{arguments.epochs} epochs of {updates_per_epoch} updates are {updates}"
        found.append(Finding("few_updates", seen, "nothing is learned in so few", fix))
    elif arguments.ema_decay and arguments.ema_decay ** (updates - 1) > _UNTRAINED:
        share = arguments.ema_decay ** (updates - 1)
        seen = f"training.ema_decay is {arguments.ema_decay} over {updates} updates: {share:.0%} of the first weights"
        decay = max(0.0, 1 - 20 / updates)
        cause = "what is measured and saved is the average, not the trained weights"
        found.append(Finding("average", seen, cause, f"training.ema_decay={decay:.2g}, or null"))
    begun = range(0, updates, updates_per_epoch)
    factor = sum(learning_rate_factor(arguments, u, updates_per_epoch) for u in begun) * updates_per_epoch
    begins_anew = not arguments.pretrained_model
    move = arguments.learning_rate * factor
    if begins_anew and updates >= _LEAST_UPDATES and move < _LEAST_MOVE:
        seen = f"training.learning_rate={arguments.learning_rate:g} moves a weight of the head by {move:.2g} at most"
        fix = f"training.learning_rate={max(1e-4, arguments.learning_rate * 0.1 / move):.1g}"
        found.append(Finding("low_learning_rate", f"{seen}, in {updates} updates", "the head stays as it began", fix))
    rate = arguments.backbone_learning_rate
    if 0 < rate * factor < _NO_MOVE and not recipe.freeze.backbone:
        seen = f"training.backbone_learning_rate={rate:g} moves a weight by {rate * factor:.2g} at most"
        fix = "training.backbone_learning_rate=1e-5, or freeze.backbone=true on purpose"
        found.append(Finding("frozen", seen, "the backbone stays as it is, and its gradients are for nothing", fix))
    decayed = float(np.exp(-arguments.weight_decay * move))
    if decayed < _LEFT:
        seen = (
            f"training.weight_decay={arguments.weight_decay:g} leaves {decayed:.1%} of a weight after {updates} updates"
        )
        cause = "weights go to zero faster than anything is learned"
        found.append(Finding("weight_decay", seen, cause, "training.weight_decay=0.05"))
    return found


def _of_rates(recipe: Recipe) -> list[Finding]:
    found = []
    for field in ("learning_rate", "backbone_learning_rate"):
        rate = getattr(recipe.training, field)
        if rate >= _HIGH_RATE:
            seen = f"training.{field} is {rate:g}"
            cause = "AdamW moves every weight by about the rate in each update: the loss rises or becomes NaN"
            found.append(Finding("high_learning_rate", seen, cause, f"training.{field}=1e-3, or less"))
    return found


def _of_schedule(recipe: Recipe) -> list[Finding]:
    arguments = recipe.training
    end = arguments.schedule_epochs or arguments.epochs
    if arguments.warmup_epochs >= min(end, arguments.epochs):
        seen = f"training.warmup_epochs is {arguments.warmup_epochs:g} of {min(end, arguments.epochs)} epochs"
        fix = f"training.warmup_epochs={max(0.5, round(arguments.epochs / 10, 1)):g}"
        return [Finding("warm_up", seen, "the learning rate never reaches its peak", fix)]
    if end < arguments.epochs / 2:
        seen = f"training.schedule_epochs is {end}, and training.epochs {arguments.epochs}"
        cause = f"the learning rate is 0 from epoch {end} on"
        return [Finding("schedule", seen, cause, "training.schedule_epochs=null")]
    return []


def _of_scores(recipe: Recipe) -> list[Finding]:
    found = []
    processor = Re2TALVideoProcessor(**recipe.processor)
    for field in ("score_threshold", "nms_min_score"):
        if (value := getattr(processor, field)) >= _HIGH_SCORE:
            seen = f"processor.{field} is {value:g}"
            cause = "mAP counts weak detections, too: without them recall is lost, and early on all detections"
            found.append(Finding("cut_scores", seen, cause, f"processor.{field}=0.001"))
    return found


def _of_backbone(recipe: Recipe) -> list[Finding]:
    """What of the backbone learns, and what it begins with."""
    arguments, freeze, found = recipe.training, recipe.freeze, []
    source = arguments.pretrained_weights
    rate = arguments.backbone_learning_rate
    if freeze.backbone or rate == 0:
        field = "freeze.backbone is true" if freeze.backbone else "training.backbone_learning_rate is 0"
        fix = "freeze.backbone=false training.backbone_learning_rate=1e-4"
        if not source:
            cause = "random weights are never trained: the head learns from noise"
            fix += ", or training.pretrained_backbone"
            found.append(Finding("frozen", f"{field}, and no pretrained weights are named", cause, fix))
        elif recipe.model.get("rewiring", "re2tal") == "re2tal" and _rewiring_of(source) != "re2tal":
            seen = f"{field}, model.rewiring is 're2tal', and {Path(source).name} is not of a rewired network"
            cause = "rewired, the same weights compute something else, and nothing brings it back"
            fix = "train the backbone, fine-tune it first (`re2tal finetune`), or model.rewiring=none"
            found.append(Finding("frozen_rewired", seen, cause, fix))
        elif rate == 0 and not freeze.backbone:
            cause = "the backbone stays as it is, and its gradients are for nothing"
            found.append(Finding("frozen", field, cause, "training.backbone_learning_rate=1e-5, or freeze.backbone"))
    elif not source:
        if freeze.stages:
            seen = f"freeze.stages is {freeze.stages}, and no pretrained weights are named"
            found.append(Finding("frozen", seen, "random stages are never trained", "freeze.stages=0"))
        if rate <= _SLOWER * arguments.learning_rate:
            found.append(
                Finding(
                    "random_backbone",
                    f"no pretrained weights are named, and training.backbone_learning_rate is {rate:g} beside "
                    f"{arguments.learning_rate:g} of the head",
                    "the rate is one for pretrained weights: a random backbone hardly learns by it",
                    "training.pretrained_backbone, or from scratch training.backbone_learning_rate="
                    f"{arguments.learning_rate:g}",
                )
            )
    return found


def _of_source(recipe: Recipe) -> list[Finding]:
    """What the pretrained weights were trained with, beside what they are given."""
    arguments, source = recipe.training, recipe.training.pretrained_weights
    if not source:
        return []
    found = []
    there, here = _rewiring_of(source), recipe.model.get("rewiring", "re2tal")
    if there is not None and there != here and (there != "none" or arguments.pretrained_model):
        field = "pretrained_model" if arguments.pretrained_model else "pretrained_backbone"
        seen = f"training.{field} {Path(source).name} is of model.rewiring={there}, and the recipe has {here}"
        cause = "rewired otherwise, the same weights compute something else"
        found.append(Finding("another_rewiring", seen, cause, f"model.rewiring={there}, or other weights"))
    processor = Re2TALVideoProcessor(**recipe.processor)
    values = _normalization_of(source)
    if values is None or not (processor.do_normalize and processor.do_rescale):
        return found
    mean, std = values
    own_mean, own_std = (_three(value) for value in (processor.image_mean, processor.image_std))
    # In numbers of a picture, whatever the factor that makes them of 0 to 255.
    scale = 255 * (processor.rescale_factor or 1 / 255)
    off = np.abs(own_mean / scale - mean) / std
    times = np.maximum(own_std / scale / std, std / (own_std / scale))
    if off.max() > _OFF or times.max() > _TIMES:
        found.append(
            Finding(
                "normalization",
                f"processor.image_mean={own_mean.round(3).tolist()}, image_std={own_std.round(3).tolist()}; the "
                f"weights were trained with {mean.round(3).tolist()} and {std.round(3).tolist()}",
                "the weights see frames unlike those that they know",
                f"processor.image_mean={mean.round(4).tolist()} processor.image_std={std.round(4).tolist()}",
            )
        )
    return found


def _three(value: Any) -> np.ndarray:
    return np.broadcast_to(np.array(value, float), (3,))


def _rewiring_of(source: str) -> str | None:
    """How the network of a folder of ours is rewired; None of others, whose networks are not."""
    path = model_folder(source) if os.path.isdir(source) else Path(source).parent
    config = path / "config.json"
    if not config.is_file() or not (os.path.isdir(source) or os.path.isfile(source)):
        return None
    values = read_json(config)
    return values.get("rewiring") if isinstance(values, dict) else None


def _normalization_of(source: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation of the frames that weights were trained with, where they are known."""
    values: Sequence[Any] = ()
    if os.path.isdir(source):
        path = model_folder(source) / "video_preprocessor_config.json"
        settings = read_json(path) if path.is_file() else {}
        values = settings.get("image_mean"), settings.get("image_std")
    elif "." in source and not Path(source).exists():
        try:
            weights: WeightsEnum = get_weight(source)
        except (ValueError, AttributeError, KeyError):
            return None
        transforms = weights.transforms()
        values = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    if len(values) < 2 or any(value is None for value in values):
        return None
    return _three(values[0]), _three(values[1])
