"""What a recipe's sections hand on, held against who takes it, and what must go together; before anything is built."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import LoggerType

from ..backprop_plan import read_bytes
from ..configuration_re2tal import CONFIGS, check_part_settings, settings_of
from ..coupling import DUAL_RESIDUAL
from ..data.augmentation import Augmentation
from ..head import HEADS
from ..value_checks import did_you_mean, leaves, one_line, shown
from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_settings import check_processor_settings
from .coupling_schedule import coupling_at

# Numbers in the frames of a batch, in float32 69 GB; published are up to 1.5e8 in those of a window.
MAX_BATCH_VALUES = 2**34
MAX_THRESHOLDS = 100


def check_recipe(recipe: Any, where: str) -> None:
    """Checks what the types and ranges of the single fields leave open.

    Args:
        recipe: A `Recipe`, with fields of their types and ranges.
        where: What stands before the name of a field in a message.

    Raises:
        ValueError: if a section does not do for what it is handed to, fields do not go together, or windows would take
            more memory than there is anywhere.
    """
    for section in ("model", "processor"):
        for place, value in leaves(section, getattr(recipe, section)):
            if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off"):
                raise ValueError(f"{where}{place} is {value!r}, which YAML 1.2 reads as text; write true or false.")
    _check_model(recipe.model, where)
    _check_frames(recipe, where)
    _check_points(recipe, where)
    if (budget := recipe.training.memory_budget) is not None:
        read_bytes(budget, f"{where}training.memory_budget")
        if recipe.model.get("backprop") not in ("auto", "clips"):
            raise ValueError(
                f"{where}training.memory_budget is for model.backprop=auto or clips: set that, or leave it out."
            )
    if recipe.training.backprop_share < 1 and recipe.model.get("backprop") != "clips":
        raise ValueError(f"{where}training.backprop_share is for model.backprop=clips: set that, or leave it out.")
    if (last := recipe.training.final_learning_rate) > (peak := recipe.training.learning_rate):
        raise ValueError(f"{where}training.final_learning_rate is {last:g}; at most training.learning_rate, {peak:g}.")
    if recipe.model.get("rewiring") == DUAL_RESIDUAL:
        coupling_at(recipe.coupling, 0.0, recipe.training.epochs)
    if recipe.distillation.weight == recipe.distillation.label_weight == 0:
        raise ValueError(f"{where}distillation.weight and label_weight are both 0: nothing would be learned.")
    if recipe.evaluation.patience and not recipe.evaluation.epochs:
        raise ValueError(f"{where}evaluation.patience counts evaluations, and evaluation.epochs is 0: set that, too.")
    if (number := len(recipe.evaluation.tiou_thresholds)) > MAX_THRESHOLDS:
        raise ValueError(f"{where}evaluation.tiou_thresholds holds {number} numbers; at most {MAX_THRESHOLDS}.")
    known = {*(kind.value for kind in LoggerType), *LOGGER_TYPE_TO_CLASS}  # the user's own, too
    for tracker in recipe.training.trackers or ():
        if tracker not in known:
            hint = did_you_mean(tracker, known)
            raise ValueError(f"{where}training.trackers: there is no tracker {shown(tracker)}; {hint}")


def _check_model(settings: dict[str, Any], where: str) -> None:
    check_part_settings(f"{where}model.", settings)
    for kind in CONFIGS.values():
        try:
            kind(**{name: value for name, value in settings.items() if name in settings_of(kind)})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}model: {one_line(error)}") from error


def _check_points(recipe: Any, where: str) -> None:
    """Checks that head, annotations and suppression are all of points in time, or none."""
    name = {"model_type": "actionformer", **(recipe.model.get("head_config") or {})}["model_type"]
    finds_points = HEADS.find(name, f"{where}model.").finds_points
    settings = {"data.points": recipe.data.points, "processor.point_window": recipe.processor.get("point_window")}
    for place, value in settings.items():
        if finds_points and value is None:
            raise ValueError(f"{where}the head {name!r} finds points in time: set {' and '.join(settings)}.")
        if not finds_points and value is not None:
            points = [known for known, head in HEADS.items() if head.finds_points]
            raise ValueError(
                f"{where}{place} is for a head that finds points in time ({', '.join(points)}), and the head is "
                f"{name!r}: leave it out, or give data.point_width, by which points become segments."
            )


def _check_frames(recipe: Any, where: str) -> None:
    """Checks that frames can be prepared as the sections say, and how much memory a window and a batch take."""
    check_processor_settings(recipe.processor, f"{where}processor.")
    try:
        processor = Re2TALVideoProcessor(**recipe.processor)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}processor: {one_line(error)}") from error
    try:
        augmentation = Augmentation(**recipe.augmentation)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}augmentation: {one_line(error)}") from error
    if augmentation.crop_scale is not None and processor.frame_size is None:
        raise ValueError(
            f"{where}augmentation.crop_scale needs frames of one size: give processor.size height and width, or set "
            "processor.do_center_crop and crop_size."
        )
    try:
        shape = frame_shape(processor)
        processor.prepare([torch.zeros((1, 3, 2, 2), dtype=torch.uint8, device="meta")])
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(f"{where}processor: no frame can be prepared so: {one_line(error)}") from error
    backbone = recipe.model.get("backbone_config") or {}
    values = backbone.get("size", 1) if backbone.get("model_type") == "features" else math.prod(shape)
    _check_batches(recipe, processor.num_frames * values, where)


def frame_shape(processor: Re2TALVideoProcessor) -> tuple[int, ...]:
    """Returns channels, height and width of a frame as the model gets it; of a small wide one where sizes differ."""
    frame = torch.zeros((1, 3, 90, 160), dtype=torch.uint8, device="meta")
    return tuple(processor.resize_and_crop(frame).shape[1:])


def _check_batches(recipe: Any, window: int, where: str) -> None:
    if window > MAX_BATCH_VALUES:
        raise ValueError(
            f"{where}processor.num_frames and processor.size come to windows of {4e-9 * window:.0f} GB; take fewer "
            "frames or smaller ones."
        )
    for name, number in (
        ("training.batch_size", recipe.training.batch_size),
        ("evaluation.batch_size", recipe.evaluation.batch_size),
        ("evaluation.views", recipe.evaluation.views),
    ):
        if number * window > MAX_BATCH_VALUES:
            raise ValueError(
                f"{where}{name} is {number}: so many windows take {4e-9 * number * window:.0f} GB at once; at most "
                f"{MAX_BATCH_VALUES // window} fit."
            )
