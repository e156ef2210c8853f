"""What of a training's memory the activations of the backbone may take, with `model.backprop=auto` or `clips`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..backprop_plan import BackpropPlan, free_memory, read_bytes
from ..head_memory import CHUNK_STEPS
from ..value_checks import one_line
from .arguments import OptimizationArguments
from .memory import saved_for_backward
from .random_states import random_states, restore_random_states

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]

# Gradients of what a module keeps stand beside it while it is differentiated.
WITH_GRADIENTS = 2
FLOAT_BYTES = 4


def plan_backprop(
    model: Any, shape: tuple[int, ...], arguments: OptimizationArguments, budget: int, autocast: Autocast
) -> BackpropPlan:
    """Sets `model.memory_budget` and makes the plan for a batch.

    Of the budget go the weights, their gradients, the optimiser's means and the moving average, what the head keeps,
    and room for the gradients of the head or of one module of the backbone, whichever takes more. With `clips` the
    frames and features are not kept by the backbone and go, too, and of the head the largest block takes room.

    Args:
        model: Of the training, on its device.
        shape: `(B, T, C, H, W)` of a batch.
        arguments: Of the recipe.
        budget: Bytes: those of the recipe or, where it has none, those that are free.
        autocast: Of the run's precision.

    Raises:
        ValueError: if the training needs more than the budget even in the leanest way; says how much.
    """
    model.train()
    weights, held = bytes_of_weights(model, arguments)
    # What is free is so beside the weights that are there.
    to_come = weights - held if arguments.memory_budget is None else weights
    with autocast():
        head, block = _bytes_of_head(model, shape, model.device)
        if model.backprop == "clips":
            steps = math.ceil(shape[1] / model.model.feature_stride)
            head += math.prod(shape) + shape[0] * steps * model.model.feature_size * WITH_GRADIENTS * FLOAT_BYTES
        model.memory_budget = 2**62
        leanest = (model.model.backbone.plan_for(shape)).choices[0][0]
        module = model.plan.largest_module
        room = WITH_GRADIENTS * max(block, module)
        share = budget - to_come - head - room
        if share < leanest:
            name = "The free memory" if arguments.memory_budget is None else "training.memory_budget"
            frames = ", the frames and their features" if model.backprop == "clips" else ""
            raise ValueError(
                f"{name} is {_size(budget)}, and this training needs {_size(budget - share + leanest)}: "
                f"{_size(to_come)} for weights, their gradients, means and moving average, {_size(head)} for the "
                f"head{frames}, {_size(room)} for gradients on the way, and {_size(leanest)} for the backbone in the "
                "leanest way. "
                "Take a smaller training.batch_size, processor.num_frames or processor.size, or a larger budget."
            )
        model.memory_budget = share
        plan: BackpropPlan = model.model.backbone.plan_for(shape)
    return plan


def budget_of(arguments: OptimizationArguments, device: torch.device) -> int:
    """Returns the budget of a recipe in bytes, by default what is free on the device."""
    if arguments.memory_budget is None:
        return free_memory(device)
    return read_bytes(arguments.memory_budget, "training.memory_budget")


def bytes_of_weights(model: torch.nn.Module, arguments: OptimizationArguments) -> tuple[int, int]:
    """Returns the bytes of the weights with all that training holds of them, and those of them held from the start."""
    every = sum(parameter.nbytes for parameter in model.parameters())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    held = every * (1 if arguments.ema_decay is None else 2)
    # The gradient and two means of AdamW.
    return held + 3 * trained, held


def _bytes_of_head(model: Any, shape: tuple[int, ...], device: torch.device) -> tuple[int, int]:
    """What a localization head keeps of a batch, and what of it is there at a time with its gradients.

    Of a linear classifier it is next to nothing. Of a head that recomputes its blocks the largest counts.
    """
    if not hasattr(model, "head"):
        return 0, 0
    steps = math.ceil(shape[1] / model.model.feature_stride)
    kept = random_states(device)
    buffers: list[Tensor] = [buffer.clone() for buffer in model.head.buffers()]
    try:
        found = block = _kept_by_head(model, shape[0], steps, device)[0]
        if model.backprop == "clips":
            few = min(steps, CHUNK_STEPS)
            block = _kept_by_head(model, shape[0], few, device, recomputes=False)[1]
            if getattr(model.head, "streams", False):
                # Of what the chunks read and say, there are gradients for as long as it is kept.
                block += found // WITH_GRADIENTS
            else:
                block = math.ceil(block * steps / few)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"model.head_config takes no windows of {shape[1]} frames: {one_line(error)}") from error
    with torch.no_grad():
        for buffer, before in zip(model.head.buffers(), buffers, strict=True):
            buffer.copy_(before)
    restore_random_states(kept, device)
    return found, block


def _kept_by_head(
    model: Any, batch: int, steps: int, device: torch.device, recomputes: bool | None = None
) -> tuple[int, int]:
    """Bytes that the head keeps of features, and those of the block that keeps most."""
    features = torch.zeros((batch, model.model.feature_size, steps), device=device, requires_grad=True)
    mask = torch.ones((batch, steps), dtype=torch.bool, device=device)
    blocks = [m for part in model.head.children() for m in (part if isinstance(part, torch.nn.ModuleList) else [part])]
    before: dict[torch.nn.Module, int] = {}
    largest = 0
    with saved_for_backward([*model.parameters(), *model.buffers()]) as saved, contextlib.ExitStack() as hooks:

        def enter(block: torch.nn.Module, inputs: Any) -> None:
            before[block] = saved.total()

        def leave(block: torch.nn.Module, inputs: Any, output: Any) -> None:
            nonlocal largest
            largest = max(largest, saved.total() - before[block])

        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(enter).remove)
            hooks.callback(block.register_forward_hook(leave).remove)
        model.run_head(features, mask, recomputes)
    return saved.total(), largest


def _size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
