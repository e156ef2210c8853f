"""What a run says of itself while it trains, and writes beside its models: log, record, trackers."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from accelerate import Accelerator

from ..data.whole_files import naming
from .arguments import Recipe
from .checkpoint import RunState
from .processes import on_main_process
from .run_folder import RunFolder
from .run_record import describe_outcome

logger = logging.getLogger(__name__)

TRACKING = "tracking"


class RunLog:
    """The log of a run, in its folder, in its trackers and on the screen.

    Args:
        accelerator: Of the run.
        folder: Of the run.
        recipe: Of the run.
        state: How far the run is; each entry of the log is kept in it.
        criterion: The metric by which the best model is chosen.
        usage: The command that uses a model, with a place for its folder.
    """

    def __init__(
        self, accelerator: Accelerator, folder: RunFolder, recipe: Recipe, state: RunState, criterion: str, usage: str
    ):
        self._accelerator, self._folder, self._recipe, self._state = accelerator, folder, recipe, state
        self._criterion, self._usage = criterion, usage
        self._start, self._first = time.perf_counter(), 0

    def write_start(self, goes_on: bool) -> None:
        """Writes down what is being trained and says from where; to be called on the main process."""
        progress, epochs = self._state.progress, self._recipe.training.epochs
        if progress.epochs not in (0, epochs):
            progress.extensions.append({"after": progress.epoch, "from": progress.epochs, "to": epochs})
            logger.warning(
                "training.epochs is %d and was %d: from epoch %d on, the learning rate (unless the recipe sets "
                "training.schedule_epochs) and Dr2Net's coefficients (unless it sets coupling.end_epoch) take the "
                "course of the longer training; the result is not that of %d epochs from the start.",
                epochs, progress.epochs, progress.epoch + 1, epochs,
            )  # fmt: skip
        progress.epochs = epochs
        if goes_on:
            print(f"Going on with the run in {self._folder.path} {self._state.place()}.")
        elif self._folder.holds_run:
            print(f"The run in {self._folder.path} has no checkpoint yet: it starts from the beginning.")
        self._folder.write_recipe(self._recipe)
        self._folder.write_log(progress.log)

    def start(self) -> None:
        """Begins to measure the time, and starts the trackers; to be called on all processes."""
        if self._recipe.training.trackers:
            with naming(self._folder.path / TRACKING):
                self._accelerator.init_trackers(TRACKING)
        self._start, self._first = time.perf_counter(), self._state.progress.epoch

    def add(self, entry: dict[str, Any], record: dict[str, Any]) -> None:
        """Adds the entry of an epoch, and says what is most of use in it; to be called on the main process.

        Args:
            entry: Numbers by name, `epoch` among them.
            record: What the run is by now; see `describe_run`.
        """
        progress = self._state.progress
        progress.log.append(entry)
        self._folder.write_log(progress.log)
        self._folder.write_record(record | ({"extensions": progress.extensions} if progress.extensions else {}))
        shown = ("epoch", "loss", self._criterion, "beta", "seconds_per_step", "peak_memory_mib")
        parts = [f"{name} {entry[name]:.4g}" for name in shown if name in entry]
        if left := self._seconds_left():
            parts.append(f"about {timedelta(seconds=round(left))} to go")
        print(", ".join(parts))
        with naming(self._folder.path / TRACKING):
            self._accelerator.log({n: v for n, v in entry.items() if n != "epoch"}, step=entry["epoch"])

    def say_finished(self, epoch: int) -> None:
        """Says on every host that nothing is left to train after so many epochs, and how to train further.

        To be called on all processes.
        """
        epochs = self._recipe.training.epochs
        early = epoch < epochs
        trained = self.early_end() if early else f"its {epochs} epochs are trained."
        self._accelerator.print(f"The run in {self._folder.path} is finished: {trained}")
        on_main_process(self._accelerator, self.say_outcome)
        more = "a larger evaluation.patience" if early else "more training.epochs"
        self._accelerator.print(f"To train it further, give the same command with {more}.")

    def say_outcome(self) -> None:
        """Says where the best model lies, how good it is, and how to use it; to be called on the main process."""
        for line in describe_outcome(self._folder, self._recipe, self._criterion, self._usage):
            print(line)

    def early_end(self) -> str:
        """Returns why a run ends before its last epoch."""
        patience, interval = self._recipe.evaluation.patience, self._recipe.evaluation.epochs
        return f"no better {self._criterion} in {patience} evaluations, one every {interval} epochs."

    def way_on(self) -> str:
        """Returns how to go on with a run that was interrupted."""
        if not self._state.saved:
            return f"Nothing is trained yet in {self._folder.path}: the same command starts from the beginning."
        return f"The run in {self._folder.path} is saved: the same command goes on {self._state.saved}."

    def _seconds_left(self) -> float:
        """By what the epochs since the start took, evaluations included; 0 where that is not known."""
        progress = self._state.progress
        done, left = progress.epoch - self._first, self._recipe.training.epochs - progress.epoch
        return (time.perf_counter() - self._start) / done * left if done else 0.0
