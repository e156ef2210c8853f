"""What of a training's memory the activations of the backbone may take, with `model.backprop=auto` or `clips`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..backprop_parts import can_go_by_parts, chunk_lengths
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


@dataclass(frozen=True)
class Way:
    """How a batch may be trained, from what is fastest to what is leanest.

    Attributes:
        by_clips: Whether some clips of the backbone go one after the other.
        leanly: Whether the head keeps little.
        chunk: Frames of a chunk of a windowed backbone; 0 for clips.
    """

    by_clips: bool
    leanly: bool
    chunk: int = 0

    def __str__(self) -> str:
        head = "the head and its loss run again in the backward pass"
        return f"By clips, and {head}" if self.by_clips else f"{head[0].upper()}{head[1:]}" if self.leanly else "All"


@dataclass(frozen=True)
class Needs:
    """Bytes beside what the backbone keeps, and what it keeps in the leanest way."""

    weights: int
    head: int
    room: int
    leanest: int

    @property
    def beside(self) -> int:
        """What is not the backbone's."""
        return self.weights + self.head + self.room


def plan_backprop(
    model: Any, shape: tuple[int, ...], arguments: OptimizationArguments, budget: int, autocast: Autocast
) -> BackpropPlan:
    """Sets `model.memory_budget` and makes the plan for a batch.

    Of the budget go the weights, their gradients, the optimiser's means and the moving average, what the head keeps,
    and room for the gradients of the head or of one module of the backbone, whichever takes more. With `clips` the
    frames and features are not kept by the backbone and go, too, and of the head the largest block takes room.
    With `auto` the head keeps little where the budget needs it, and a backbone that can goes by clips where that is
    not enough.

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
    planner = model.model.backbone.backprop_planner
    reason = ""
    for way in (ways := _ways(model, shape[0])):
        planner.clips, planner.recomputes_head, planner.chunk = way.by_clips, way.leanly, way.chunk
        with autocast():
            model.memory_budget = 2**62
            needs = _needs(model, shape, arguments, way)
            share = budget - needs.beside
            if share >= needs.leanest:
                model.memory_budget = share
                plan: BackpropPlan = replace(model.model.backbone.plan_for(shape), reason=reason and f"{way}: {reason}")
                planner.plan = plan
                return plan
        total = needs.beside + needs.leanest
        reason = f"otherwise the training would need {_size(total)}, and may take {_size(budget)}."
    name = "The free memory" if arguments.memory_budget is None else "training.memory_budget"
    frames = ", the frames and their features" if ways[-1].by_clips else ""
    raise ValueError(
        f"{name} is {_size(budget)}, and this training needs {_size(total)}: "
        f"{_size(needs.weights)} for weights, their gradients, means and moving average, {_size(needs.head)} for the "
        f"head{frames}, {_size(needs.room)} for gradients on the way, and {_size(needs.leanest)} for the backbone in "
        "the leanest way. "
        "Take a smaller training.batch_size, processor.num_frames or processor.size, or a larger budget."
    )


def _ways(model: Any, batch_size: int) -> list[Way]:
    chunks = chunk_lengths(model.model.backbone, batch_size) or [0]
    by_clips = [Way(by_clips=True, leanly=True, chunk=chunk) for chunk in chunks]
    if model.backprop == "clips":
        return by_clips
    ways = [Way(by_clips=False, leanly=False)]
    if hasattr(model, "head"):
        ways.append(Way(by_clips=False, leanly=True))
    if can_go_by_parts(model.model.backbone):
        ways += by_clips
    return ways


def _needs(model: Any, shape: tuple[int, ...], arguments: OptimizationArguments, way: Way) -> Needs:
    weights, held = bytes_of_weights(model, arguments)
    head, block = _bytes_of_head(model, shape, model.device, way.leanly)
    if way.by_clips:
        steps = math.ceil(shape[1] / model.model.feature_stride)
        head += math.prod(shape) + shape[0] * steps * model.model.feature_size * WITH_GRADIENTS * FLOAT_BYTES
    leanest = model.model.backbone.plan_for(shape).choices[0][0]
    room = WITH_GRADIENTS * max(block, model.plan.largest_module)
    # What is free is so beside the weights that are there.
    return Needs(weights - held if arguments.memory_budget is None else weights, head, room, leanest)


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


def _bytes_of_head(model: Any, shape: tuple[int, ...], device: torch.device, leanly: bool) -> tuple[int, int]:
    """What a localization head keeps of a batch, and what of it is there at a time with its gradients.

    Of a linear classifier it is next to nothing. Of a head that recomputes its parts the largest counts.
    """
    if not hasattr(model, "head"):
        return 0, 0
    steps = math.ceil(shape[1] / model.model.feature_stride)
    kept = random_states(device)
    buffers: list[Tensor] = [buffer.clone() for buffer in model.head.buffers()]
    try:
        kept_by = partial(_kept_by_head, model, shape[0], device=device)
        few = min(steps, _few_features(model.head))
        if not leanly:
            # A head that keeps all of a long video may not fit; what it keeps grows evenly.
            found = kept_by(steps)[0] if steps <= 2 * few else _grown(kept_by(few)[0], kept_by(2 * few)[0], few, steps)
            block = found
        else:
            found, block = kept_by(steps, recomputes=True)[0], kept_by(few)[1]
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


def _few_features(head: Any) -> int:
    """Features from which on what a head keeps grows evenly."""
    settings = getattr(head, "config", head)
    return CHUNK_STEPS if getattr(settings, "padding", "isolated") == "isolated" else settings.max_length


def _grown(few: int, twice: int, count: int, steps: int) -> int:
    return round(twice + (twice - few) * (steps - 2 * count) / count)


def _kept_by_head(
    model: Any, batch: int, steps: int, device: torch.device, recomputes: bool = False
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
