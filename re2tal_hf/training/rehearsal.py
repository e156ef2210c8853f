"""A training in a second, without numbers: what a recipe's model, frames and machine do not go together in.

The trainer does this first, before it reads any data.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, is_bf16_available
from accelerate.utils.environment import parse_flag_from_env

from ..architecture import BACKBONES
from ..backprop_parts import check_parts
from ..configuration_re2tal import settings_of
from ..families import FAMILIES
from ..head import HEADS
from ..modeling_pretrained import Re2TALPreTrainedModel
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..value_checks import one_line
from ..video_processing_re2tal import Re2TALVideoProcessor
from .arguments import OptimizationArguments, Recipe
from .feature_settings import MODEL_TYPE
from .memory import whole_memory
from .memory_budget import bytes_of_weights
from .optimization import build_optimizer
from .pretrained import find_weights
from .pretrained_model import find_localizer
from .recipe_checks import frame_shape


def check_machine(arguments: OptimizationArguments) -> None:
    """Checks that this machine has what the training asks for, and Accelerate is not told what it does not do.

    Raises:
        ValueError: if its processor does not compute at the precision, a tracker, DeepSpeed or what that needs is not
            installed, or weights are to be shared out in a way that does not go with the rest.
    """
    for way, name in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        # On CPUs Accelerate would train as DDP, and say nothing.
        if parse_flag_from_env(f"ACCELERATE_USE_{way}"):
            raise ValueError(
                f"Accelerate is told to use {name} (ACCELERATE_USE_{way}), which is the recipe's matter here: launch "
                "with --multi_gpu, and set training.shard_weights=true for FSDP2, or training.zero_stage=1 or 2 for "
                "DeepSpeed."
            )
    on_cpu = not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    precision = arguments.mixed_precision
    if precision == "fp16" and on_cpu:
        raise ValueError("training.mixed_precision is 'fp16', and there is no GPU here: set it to 'no' or 'bf16'.")
    if precision == "fp16" and arguments.shared:
        raise ValueError(f"{arguments.shared} goes with training.mixed_precision 'no' or 'bf16', and not 'fp16'.")
    if arguments.shard_weights and arguments.zero_stage:
        raise ValueError(
            "training.shard_weights shares out all that training.zero_stage does: set that to 0, or this to false."
        )
    if arguments.zero_stage and find_spec("deepspeed") is None:
        raise ValueError(
            "training.zero_stage is DeepSpeed's, which is not installed: pip install 're2tal_hf[deepspeed]', or set "
            "training.shard_weights=true in its place."
        )
    if arguments.zero_stage and on_cpu and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise ValueError(
            "training.zero_stage: on CPUs DeepSpeed compiles a part of itself, and there is no C++ compiler here: "
            "install one (g++), or set training.shard_weights=true in its place."
        )
    if precision == "bf16" and not on_cpu and not is_bf16_available(ignore_tpu=True):
        raise ValueError("training.mixed_precision is 'bf16', which this GPU has not: set it to 'no' or 'fp16'.")
    installed = [str(kind) for kind in get_available_trackers()]
    absent = {kind.value for kind in LoggerType} - {*installed, "all"}
    for tracker in arguments.trackers or ():
        if tracker in absent:
            raise ValueError(
                f"training.trackers: {tracker} is not installed: install it, or set it to {installed or 'null'}."
            )


def rehearse(recipe: Recipe, model_class: type[Re2TALPreTrainedModel]) -> None:
    """Builds the model of a recipe on the meta device, freezes its parts and sends a window through it.

    Of a backbone or a head of the user's own, which may need numbers, nothing is asked.

    Raises:
        ValueError: if the settings do not go together.
    """
    own = settings_of(model_class.config_class)
    config = model_class.config_class(**{name: value for name, value in recipe.model.items() if name in own})
    head = getattr(config, "head_config", {}).get("model_type", "actionformer")
    if not {type(BACKBONES.find(config.backbone_config.get("model_type"))), HEADS.find(head).head_class} <= {*FAMILIES}:
        return
    with torch.device("meta"):
        model = model_class(config)
    try:
        model.freeze(**vars(recipe.freeze))
    except ValueError as error:
        raise ValueError(f"freeze.{one_line(error)}") from error
    if recipe.training.shared and model.backprop in ("auto", "clips"):
        raise ValueError(
            f"{recipe.training.shared} does not go with model.backprop={model.backprop}: set that to 'reversible' or "
            "'checkpoint'."
        )
    if model.backprop == "clips":
        check_parts(model.train().base_model.backbone)
    build_optimizer(model, recipe.training)
    _check_memory(model, recipe.training)
    if recipe.training.pretrained_model and isinstance(model, Re2TALForTemporalActionLocalization):
        find_localizer(model, recipe.training.pretrained_model)
    elif source := recipe.training.pretrained_backbone:
        find_weights(model.base_model.backbone, source)
    processor = Re2TALVideoProcessor(**recipe.processor)
    if config.backbone_config.get("model_type") == MODEL_TYPE:
        return  # they have the size that their files have, and any length
    if not (processor.do_resize or processor.do_center_crop):
        return  # frames are of any size
    shape = frame_shape(processor)
    videos = torch.empty((1, processor.num_frames, *shape), device="meta")
    try:
        with torch.no_grad():
            model.eval()(videos)
    except (ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f"model.backbone_config takes no windows of processor.num_frames={processor.num_frames} frames of "
            f"{shape[1]} x {shape[2]} pixels: {one_line(error)}"
        ) from error


def _check_memory(model: Re2TALPreTrainedModel, arguments: OptimizationArguments) -> None:
    """Refuses a model whose weights alone, with what the optimiser holds of them, are more than there is memory."""
    every = sum(parameter.numel() for parameter in model.parameters())
    needed, there = bytes_of_weights(model, arguments)[0], whole_memory()
    if needed > there:
        raise ValueError(
            f"model has {every / 1e6:.0f} million parameters, whose training takes {needed / 1e9:.1f} GB before any "
            f"frame, and there are {there / 1e9:.1f} GB: choose fewer or narrower layers, or freeze.backbone."
        )
