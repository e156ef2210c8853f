"""Updates by finite losses and gradients; a step by others is skipped, on all processes alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..loss_normalization import total_over_processes
from .arguments import OptimizationArguments
from .checkpoint import Progress
from .trained_model import TrainedModel

logger = logging.getLogger(__name__)

ADVICE = (
    "Train with a lower training.learning_rate, more training.warmup_epochs, or bf16 in place of fp16, in a new run "
    "folder; where the same videos are named again and again, look at them and at their annotations."
)


class DivergedError(FloatingPointError):
    """Too many steps were skipped."""


class FiniteUpdates:
    """The backward pass and the update of a step.

    A step whose loss is not finite, on any process, or whose gradients are not, changes neither the parameters nor
    the buffers of the model. Gradients in fp16 are the loss scaler's matter, which lowers its scale by them.

    Args:
        accelerator: Of the run.
        trained: What is trained, and its optimiser.
        arguments: Norm of the gradients, and how many steps in a row may be skipped.
        progress: Of the run; counts those steps.

    Attributes:
        skipped: Whether the latest update was.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trained: TrainedModel,
        arguments: OptimizationArguments,
        progress: Progress,
    ):
        self.accelerator, self.trained = accelerator, trained
        self.arguments, self.progress = arguments, progress
        self.skipped = self._spoilt = False
        self._buffers = [buffer for buffer in trained.plain.buffers() if buffer.is_floating_point()]
        self._errors = trained.plain.model.backbone.reconstruction_errors.by_stage
        self._before: tuple[list[Tensor], dict[int, Tensor]] | None = None

    def step(self, losses: Callable[[], dict[str, Tensor]], video_ids: Sequence[str]) -> dict[str, float] | None:
        """Runs a forward and a backward pass and, where the accumulated gradients are complete, the update.

        Args:
            losses: Computes the `loss` and its parts.
            video_ids: Of the windows in the batch.

        Returns:
            The losses; None, on all processes, where the loss of one of them is not finite.

        Raises:
            DivergedError: if more steps in a row were skipped than the recipe allows.
        """
        if self._before is None:
            self._before = [buffer.clone() for buffer in self._buffers], dict(self._errors)
        with self.trained.accumulating():
            found = losses()
            finite = torch.isfinite(found["loss"].detach())
            everywhere = not total_over_processes((~finite).float())[0]
            self.trained.backward(found["loss"], everywhere)
            if not everywhere:
                self._skip("loss", found["loss"], () if finite else video_ids)
            if self.accelerator.sync_gradients:
                self._update(video_ids)
        return {name: value.item() for name, value in found.items()} if everywhere else None

    def _update(self, video_ids: Sequence[str]) -> None:
        if self._spoilt:
            self.trained.drop_gradients()
            self._restore()  # what other batches of the update have changed since
        else:
            norm = self.trained.update()
            if self.accelerator.scaler is None and not torch.isfinite(norm):
                self._skip("norm of the gradients", norm, video_ids)
        self.skipped, self._spoilt, self._before = self._spoilt, False, None
        self.progress.skipped = self.progress.skipped + 1 if self.skipped else 0
        if self.progress.skipped > self.arguments.max_skipped_steps:
            raise DivergedError(
                f"{self.progress.skipped} steps in a row were skipped, because their loss or gradients are not finite "
                f"(training.max_skipped_steps is {self.arguments.max_skipped_steps}). {ADVICE}"
            )

    def _restore(self) -> None:
        assert self._before is not None
        buffers, errors = self._before
        with torch.no_grad():
            for buffer, kept in zip(self._buffers, buffers, strict=True):
                buffer.copy_(kept)
        self._errors.clear()
        self._errors.update(errors)

    def _skip(self, what: str, value: Tensor, video_ids: Sequence[str]) -> None:
        """Names the videos of a step, and puts back what it has changed."""
        self._spoilt = True
        self._restore()
        found = gather_object([(value.item(), list(video_ids))])
        values = {shown for shown, ids in found if ids}
        videos = dict.fromkeys(video for _, ids in found for video in ids)
        if self.accelerator.is_main_process:
            logger.warning(
                "The %s is %s at update %d, of windows of %s: the step is skipped.",
                what, " and ".join(map(str, values)), self.progress.updates, ", ".join(videos),
            )  # fmt: skip
