"""What of a training's memory the activations of the backbone may take, with `model.backprop=auto` or `clips`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..backprop_plan import BackpropPlan, free_memory, read_bytes
from ..value_checks import one_line
from .arguments import OptimizationArguments
from .memory import saved_for_backward
from .random_states import random_states, restore_random_states

Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]

# Gradients of what a module keeps stand beside it while it is differentiated.
WITH_GRADIENTS = 2


def plan_backprop(
    model: Any, shape: tuple[int, ...], arguments: OptimizationArguments, budget: int, autocast: Autocast
) -> BackpropPlan:
    """Sets `model.memory_budget` and makes the plan for a batch.

    Of the budget go the weights, their gradients, the optimiser's means and the moving average, what the head keeps,
    and room for the gradients of the head or of one module of the backbone, whichever takes more.

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
        head = _bytes_of_head(model, shape, model.device)
        model.memory_budget = 2**62
        leanest = (model.model.backbone.plan_for(shape)).choices[0][0]
        module = model.plan.largest_module
        room = WITH_GRADIENTS * max(head, module)
        share = budget - to_come - head - room
        if share < leanest:
            name = "The free memory" if arguments.memory_budget is None else "training.memory_budget"
            raise ValueError(
                f"{name} is {_size(budget)}, and this training needs {_size(budget - share + leanest)}: "
                f"{_size(to_come)} for weights, their gradients, means and moving average, {_size(head)} for the head, "
                f"{_size(room)} for gradients on the way, and {_size(leanest)} for the backbone in the leanest way. "
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


def _bytes_of_head(model: Any, shape: tuple[int, ...], device: torch.device) -> int:
    """What a localization head keeps of a batch; of a linear classifier next to nothing."""
    if not hasattr(model, "head"):
        return 0
    steps = math.ceil(shape[1] / model.model.feature_stride)
    features = torch.zeros((shape[0], model.model.feature_size, steps), device=device, requires_grad=True)
    mask = torch.ones((shape[0], steps), dtype=torch.bool, device=device)
    kept = random_states(device)
    buffers: list[Tensor] = [buffer.clone() for buffer in model.head.buffers()]
    try:
        with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
            model.run_head(features, mask)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"model.head_config takes no windows of {shape[1]} frames: {one_line(error)}") from error
    with torch.no_grad():
        for buffer, before in zip(model.head.buffers(), buffers, strict=True):
            buffer.copy_(before)
    restore_random_states(kept, device)
    return saved.total()


def _size(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
