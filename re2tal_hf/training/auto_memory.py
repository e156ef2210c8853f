"""The largest frames and batch that a machine trains with: planned by the budget of memory, then tried in steps."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.environment import parse_flag_from_env

from ..backprop_plan import free_memory
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..video_processing_re2tal import Re2TALVideoProcessor
from .arguments import Recipe
from .memory import peak_memory
from .memory_budget import budget_of, plan_backprop
from .optimization import build_optimizer
from .recipe_checks import frame_shape

# Of what is free: on a GPU the rest is for the fragments of PyTorch's allocator, on a processor for the libraries, the
# processes that decode, and whatever else runs there.
SHARES = {"cpu": 0.5}
OTHER_SHARE = 0.85
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trial:
    """Settings to try, by place, and why these."""

    settings: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Fit:
    """What was tried last, and went well.

    Attributes:
        trial: What was tried.
        seconds: Of an update.
        peak: MiB of memory.
        larger: How many trials before it did not fit.
    """

    trial: Trial
    seconds: float
    peak: float
    larger: int

    def __str__(self) -> str:
        more = f", {self.larger} larger ones do not fit" if self.larger else ""
        return f"tried in two steps, at a peak of {self.peak:.0f} MiB{more}"


def device_of_training() -> torch.device:
    """Returns the device that Accelerate will take."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if accelerator is None or parse_flag_from_env("ACCELERATE_USE_CPU") else accelerator


def memory_for_training(device: torch.device) -> tuple[str, str]:
    """Returns a budget of memory for the training, and the reason.

    Raises:
        ValueError: if the device does not say what is free.
    """
    free, share = free_memory(device), SHARES.get(device.type, OTHER_SHARE)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    reason = f"{share:.0%} of {free / 1e9:.1f} GB that were free{f', for {sharing} processes' if sharing > 1 else ''}"
    return f"{max(share * free / sharing // 10**8, 1) / 10:g}GB", reason


def fit_frames(
    recipe_of: Callable[[Trial], Recipe], trials: Sequence[Trial], device: torch.device, num_labels: int
) -> Fit:
    """Returns the first of some trials whose plan is within the budget and whose steps go well.

    Args:
        recipe_of: Makes the recipe of a trial.
        trials: The best first.
        device: Of the training.
        num_labels: Classes.

    Raises:
        ValueError: if none does; the reason of the last.
    """
    for number, trial in enumerate(trials):
        try:
            seconds = _seconds_of_update(recipe_of(trial), device, num_labels)
        except (ValueError, torch.OutOfMemoryError):
            if number + 1 == len(trials):
                raise
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()
        return Fit(trial, seconds, peak_memory(), number)
    raise ValueError("There is nothing to try.")


def _seconds_of_update(recipe: Recipe, device: torch.device, num_labels: int) -> float:
    arguments = recipe.training
    torch.manual_seed(recipe.seed)
    config = Re2TALForTemporalActionLocalization.config_class(**recipe.model, num_labels=num_labels)
    model = Re2TALForTemporalActionLocalization(config).to(device).train()
    model.freeze(**vars(recipe.freeze))
    processor = Re2TALVideoProcessor(**recipe.processor)
    frames = processor.num_frames
    shape = (arguments.batch_size, frames, *frame_shape(processor))
    dtype = PRECISIONS.get(arguments.mixed_precision)
    autocast = functools.partial(torch.autocast, device.type, dtype=dtype, enabled=dtype is not None)
    if config.backprop == "auto":
        plan_backprop(model, shape, arguments, budget_of(arguments, device), autocast)
    optimizer = build_optimizer(model, arguments)
    label = {"segments": [[0.3 * frames, 0.6 * frames]], "class_labels": [0]}
    labels = [{name: torch.tensor(value, device=device) for name, value in label.items()}] * shape[0]
    for _ in range(2):  # the first one draws memory, and is slower
        start = time.perf_counter()
        for _ in range(arguments.gradient_accumulation):
            with autocast():
                loss = model(torch.randn(shape, device=device), labels=labels).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    with contextlib.suppress(AttributeError):
        del model, optimizer
    return seconds
