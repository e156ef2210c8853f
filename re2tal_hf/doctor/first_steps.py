"""A few updates of a training, and the numbers that go through them."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from ..data.windows import collate
from ..training.feature_settings import MODEL_TYPE
from ..training.localization import LocalizationTrainer
from ..training.optimization import set_learning_rates
from .finding import Finding

NUM_STEPS = 8
# Numbers in a batch of frames beyond which a processor would take minutes.
_MOST_VALUES = 3e7
_BATCHES = 2
# Of frames as the model gets them, normalised: their mean, their spread, and what shows nothing.
_FAR, _WIDE, _NARROW = 3.0, 5.0, 0.1
_FLAT = 0.01
# A loss that rises by so much; an error of the inversion; a best score at the start.
_RISE, _INEXACT, _SILENT = 5.0, 1e-2, 1e-4


@dataclass
class FirstSteps:
    """What was seen in the first steps.

    Attributes:
        first, highest: Loss of each batch when it was first seen, and its highest since.
        finite: Whether all losses and gradients were.
        best_score: The highest score before any update.
        mean, spread: Mean and standard deviation of the frames of each batch as the model gets them; this one of the
            channel with the largest.
        detail: Standard deviation of the decoded frames of each batch, as a share of the way from black to white.
        without_gradient: Groups of parameters that no gradient reached.
        reconstruction_error: The largest relative error of the inversion.
    """

    first: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)
    finite: bool = True
    steps: int = 0
    best_score: float = math.nan
    mean: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)
    detail: list[float] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    reconstruction_error: float = 0.0


def take_first_steps(trainer: LocalizationTrainer, steps: int) -> FirstSteps | None:
    """Trains for a few steps on two batches, the learning rate rising to its peak.

    Args:
        trainer: Whose model is changed.
        steps: How many.

    Returns:
        What was seen; None where a batch is too large for this processor.
    """
    batch_size, shape = trainer.recipe.training.batch_size, trainer.processor.frame_size or (256, 256)
    values = batch_size * trainer.processor.num_frames * 3 * math.prod(shape)
    if values > _MOST_VALUES and trainer.accelerator.device.type == "cpu" and not _on_features(trainer):
        return None
    seen = FirstSteps()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the inversion, which is told
        batches = [_batch(trainer, number, seen) for number in range(min(_BATCHES, max(1, len(trainer.loader))))]
        trainer.trained.prepared.train()
        for step in range(steps):
            set_learning_rates(trainer.trained.optimizer, min(1.0, (step + 1) / max(1, steps // 2)))
            _step(trainer, batches[step % len(batches)], step, seen)
            if not seen.finite:
                break
    return seen


def of_first_steps(seen: FirstSteps, recipe_rate: float) -> list[Finding]:
    """What the first steps show.

    Args:
        seen: In the steps.
        recipe_rate: The learning rate of the head.
    """
    found = _of_frames(seen)
    rise = max((high / first for first, high in zip(seen.first, seen.highest, strict=True) if first > 0), default=0.0)
    if not seen.finite and not found:
        seen_at = "at once" if seen.steps == 1 else f"after {seen.steps - 1} updates, at a rate that rises to its peak"
        cause = "the learning rate is too high, the precision too low, or frames or weights hold no numbers"
        fix = f"training.learning_rate={recipe_rate / 10:.1g}, training.mixed_precision=no, more training.warmup_epochs"
        found.append(Finding("not_finite", f"the loss or its gradients are not finite {seen_at}", cause, fix))
    elif seen.finite and rise > _RISE:
        found.append(
            Finding(
                "high_learning_rate",
                f"in {seen.steps} steps the loss of a batch rises {rise:.3g} times",
                f"training.learning_rate, {recipe_rate:g}, or training.backbone_learning_rate is too high",
                f"training.learning_rate={recipe_rate / 10:.1g}, and the backbone's in proportion",
            )
        )
    if seen.best_score < _SILENT:
        found.append(
            Finding(
                "silent_head",
                f"the best score of two batches is {seen.best_score:.2g} before any update",
                "the head begins so sure that nothing happens that it takes long to fire at all",
                "model.head_config.class_prior=0.01",
            )
        )
    if seen.without_gradient:
        found.append(
            Finding(
                "no_gradient",
                f"no gradient reaches {', '.join(seen.without_gradient)}",
                "what is computed from them does not come into the loss, as where no window shows an action",
                "look at windows and labels; freeze what is not meant to learn",
            )
        )
    if seen.reconstruction_error > _INEXACT and rise <= _RISE:
        found.append(
            Finding(
                "inversion",
                f"the reversible backward pass restores its inputs with a relative error of "
                f"{seen.reconstruction_error:.1e}",
                "the coefficients of the inversion divide by little, or the precision is low: gradients are wrong",
                "model.backprop=checkpoint, or training.mixed_precision=no",
            )
        )
    return found


def _of_frames(seen: FirstSteps) -> list[Finding]:
    if not seen.mean:
        return []
    mean, spread = max(seen.mean, key=abs), max(seen.spread)
    if not (math.isfinite(mean) and math.isfinite(spread)):
        return [
            Finding(
                "not_finite",
                "frames hold NaN or infinity as the model gets them",
                "processor.image_std or rescale_factor",
                "processor.rescale_factor=0.00392156862745098 (1/255), image_std above 0",
            )
        ]
    if max(seen.detail) < _FLAT:
        figures = f"decoded frames vary by {max(seen.detail):.2%} of the way from black to white"
        cause = "the videos are black or of one colour, or decode to nothing"
        return [Finding("dark_videos", figures, cause, "look at the videos; encode them again (`re2tal prepare`)")]
    if abs(mean) > _FAR or spread > _WIDE or spread < _NARROW:
        fix = "processor.do_rescale=true processor.do_normalize=true and rescale_factor, image_mean, image_std as usual"
        figures = f"frames have a mean of {mean:.3g} and a standard deviation of {spread:.3g} as the model gets them"
        cause = "they are not rescaled from 0..255 or rescaled twice, or not normalised: usual is about 0 and 1"
        return [Finding("normalization", figures, cause, fix)]
    return []


def _on_features(trainer: LocalizationTrainer) -> bool:
    return (trainer.recipe.model.get("backbone_config") or {}).get("model_type") == MODEL_TYPE


def _batch(trainer: LocalizationTrainer, number: int, seen: FirstSteps) -> dict[str, Any]:
    """A batch of windows spread over the training videos; what its frames are is noted."""
    windows, size = trainer.windows, trainer.recipe.training.batch_size
    step = max(1, len(windows) // (_BATCHES * size))
    batch = collate([windows[(number * size + k) * step % len(windows)] for k in range(size)])
    del batch["video_ids"]
    batch = send_to_device(batch, trainer.accelerator.device)
    frames = batch.pop("frames")
    batch |= trainer.processor.prepare(frames)
    if not _on_features(trainer):
        seen.detail.append(max(each.float().std().item() / 255 for each in frames))
        pixels = batch["pixel_values_videos"][batch["frame_mask"]].float()
        seen.mean.append(pixels.mean().item())
        seen.spread.append(pixels.std(dim=(0, 2, 3)).max().item())
    return batch


def _step(trainer: LocalizationTrainer, batch: dict[str, Any], step: int, seen: FirstSteps) -> None:
    output = trainer.trained.prepared(**batch)
    loss = output.loss
    seen.steps = step + 1
    if step < _BATCHES:
        best = output.logits.detach().float().sigmoid().max().item()
        seen.best_score = best if math.isnan(seen.best_score) else max(seen.best_score, best)
    if not torch.isfinite(loss):
        seen.finite = False
        return
    number = step % _BATCHES
    if number == len(seen.first):
        seen.first.append(loss.item())
        seen.highest.append(loss.item())
    else:
        number = min(number, len(seen.first) - 1)
        seen.highest[number] = max(seen.highest[number], loss.item())
    trainer.trained.backward(loss, is_finite=True)
    if step == 0:
        seen.without_gradient = _without_gradient(trainer.plain_model)
    seen.reconstruction_error = max(seen.reconstruction_error, trainer.backbone_model.reconstruction_error())
    norm = trainer.trained.update()
    if not torch.isfinite(norm) and trainer.accelerator.scaler is None:
        seen.finite = False


def _without_gradient(model: nn.Module) -> list[str]:
    """Backbone and head, where all that is trained of one of them has no gradient."""
    found = []
    for name in ("model", "head"):
        trained = [p for n, p in model.named_parameters() if n.startswith(f"{name}.") and p.requires_grad]
        if trained and not any(p.grad is not None and bool(p.grad.any()) for p in trained):
            found.append({"model": "the backbone", "head": "the head"}[name])
    return found
