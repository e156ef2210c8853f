"""What a run goes on from: how far it is, and the state of everything that its next epoch depends on."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..value_checks import NOT_NEGATIVE, Range, check_value, check_values, fields_of, one_line, shown
from .epoch import EpochSoFar
from .processes import on_main_process
from .random_states import random_states, restore_random_states
from .run_folder import CHECKPOINT, MOST_LETTERS, Place, RunFolder, RunFolderError, checkpoint_name, differences
from .sharding import whole_state
from .trained_model import TrainedModel

logger = logging.getLogger(__name__)

PROGRESS = "progress.pkl"
_WEIGHTS, _OPTIMIZER = "model.pkl", "optimizer.pkl"
_FIX = "restore it, or delete the folder checkpoint to start from the beginning."
_KINDS: dict[str, Any] = {
    "epoch": Annotated[int, NOT_NEGATIVE],
    "updates": Annotated[int, NOT_NEGATIVE],
    "skipped": Annotated[int, NOT_NEGATIVE],
    "best": float,
    "best_epoch": Annotated[int, NOT_NEGATIVE],
    "seconds": Annotated[float, NOT_NEGATIVE],
    "epochs": Annotated[int, NOT_NEGATIVE],
    "log": list[dict],
    "unmeasured": dict | None,
    "extensions": list[dict],
    "data": dict,
    "files": list[str],
    "processes": Annotated[int, Range(1, 2**20)],
}
# Runs of earlier versions lack them.
_NEW = ("skipped", "unmeasured", "best_epoch")
_RANDOM_STATES = "random_states_{}.pkl"


class Progress:
    """How far a run is; part of its checkpoint.

    Attributes:
        epoch: Epochs done.
        updates: Updates done or skipped, as many an epoch as the present number of processes makes.
        skipped: Updates skipped since the last that was made.
        best: The criterion of the best model.
        best_epoch: After which it was measured; 0 where that is not known.
        seconds: Time spent in training.
        epochs: Epochs that the run is to have; 0 before it has begun.
        log: The entries of the run folder's log.
        unmeasured: The entry of an epoch that is trained and not evaluated yet; None otherwise.
        extensions: After which epoch `training.epochs` was raised, from what to what.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.updates = 0
        self.skipped = 0
        self.best = -1.0
        self.best_epoch = 0
        self.seconds = 0.0
        self.epochs = 0
        self.log: list[dict[str, Any]] = []
        self.unmeasured: dict[str, Any] | None = None
        self.extensions: list[dict[str, int]] = []


@dataclass
class RunState:
    """What changes while a run trains, and is kept in its checkpoint.

    Attributes:
        accelerator: Of the run.
        trained: The model, its optimiser and its average.
        data: By what to tell whether a run is on the same data; see `identify_data`.
        limit: Of the number of checkpoints that are kept.
        progress: How far the run is.
        epoch: How far this process is in the present epoch.
        saved: `place()` of the checkpoint; empty without one.
        saved_place: The same in numbers; None without one.
    """

    accelerator: Accelerator
    trained: TrainedModel
    data: dict[str, Any]
    limit: int = 1
    progress: Progress = field(default_factory=Progress)
    epoch: EpochSoFar = field(default_factory=EpochSoFar)
    saved: str = ""
    saved_place: Place | None = None

    def num_bytes(self, folder: RunFolder) -> int:
        """Returns about how much a saved model and the checkpoints that are still to come take on disk."""
        model, average = self.trained.plain, self.trained.average
        models = [model] + ([] if average is None else [average])
        sizes = [sum(tensor.nbytes for tensor in (*one.parameters(), *one.buffers())) for one in models]
        moments = 2 * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        missing = max(1, self.limit - len(folder.earlier_checkpoints()))
        return sizes[0] + missing * (sum(sizes) + moments)

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint of a run folder; to be called on all processes."""
        # One process writes for all: no other has to see its disk, and nothing is renamed before all is written.
        states, is_main = gather_object([self._process_state()]), self.accelerator.is_main_process
        parts = {name: whole_state(part.state_dict(), is_main) for name, part in self._stateful().items()}
        on_main_process(self.accelerator, lambda: self._write(folder, parts, states))
        self._note_place()

    def save_progress(self, folder: RunFolder) -> None:
        """Writes anew what has changed since `save` without a step; to be called on all processes."""
        on_main_process(self.accelerator, lambda: folder.replace_in_checkpoint(PROGRESS, self._progress()))
        self._note_place()

    def load(self, folder: RunFolder, parts: dict[str, Any]) -> None:
        """Puts back what `read_checkpoint` returned.

        Raises:
            RunFolderError: if a part does not fit what is trained.
        """
        takes = {_WEIGHTS: self.trained.load_weights, _OPTIMIZER: self.trained.load_optimizer}
        for name, part in self._stateful().items():
            with _damaged(folder, name):
                takes.get(name, part.load_state_dict)(parts[name])
        kept, processes = parts[PROGRESS], self.accelerator.num_processes
        # Runs of earlier versions lack some of it.
        vars(self.progress).update({name: kept[name] for name in vars(self.progress) if name in kept})
        epochs = []
        for process in range(kept["processes"]):
            with _damaged(folder, _RANDOM_STATES.format(process)):
                found = dict(parts[_RANDOM_STATES.format(process)].get("epoch", {}))
                epochs.append(EpochSoFar(**check_values("epoch.", found, fields_of(EpochSoFar))))
        if kept["processes"] == processes:
            own = self.accelerator.process_index
            with _damaged(folder, _RANDOM_STATES.format(own)):
                self._restore_process(parts[_RANDOM_STATES.format(own)])
            self.epoch = epochs[own]
        else:
            multiple = self.accelerator.gradient_accumulation_steps
            self.epoch = EpochSoFar.of_others(epochs, processes, multiple)
            if self.accelerator.is_main_process:
                logger.warning(
                    "The run goes on with %d processes in place of %d: its random numbers are others from here on.",
                    processes, kept["processes"],
                )  # fmt: skip
        self._note_place()

    def place(self) -> str:
        """Returns where the run is, in words that follow "goes on"."""
        progress = self.progress
        of = f" of {progress.epochs}" if progress.epochs else ""
        if steps := self.epoch.steps:
            return f"after {steps} {'step' if steps == 1 else 'steps'} of epoch {progress.epoch + 1}{of}"
        return f"{'with the evaluation ' if progress.unmeasured else ''}after epoch {progress.epoch}{of}"

    def _write(self, folder: RunFolder, parts: dict[str, Any], process_states: list[dict[str, Any]]) -> None:
        parts = parts | {_RANDOM_STATES.format(process): state for process, state in enumerate(process_states)}
        before, now = self.saved_place, (self.progress.epoch, self.epoch.steps)
        keep_as = checkpoint_name(before) if before is not None and before < now and self.limit > 1 else ""
        folder.write_checkpoint({**parts, PROGRESS: self._progress()}, keep_as)
        for place in surplus(folder.earlier_checkpoints(), now, self.limit - 1, self.progress.best_epoch):
            folder.delete_checkpoint(place)

    def _note_place(self) -> None:
        self.saved, self.saved_place = self.place(), (self.progress.epoch, self.epoch.steps)

    def _progress(self) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        files = [*self._stateful(), *map(_RANDOM_STATES.format, range(processes))]
        return {**vars(self.progress), "data": self.data, "files": files, "processes": processes}

    def _stateful(self) -> dict[str, Any]:
        """What a checkpoint holds of the run as a whole, by file name."""
        found = {
            _WEIGHTS: self.trained.plain,
            _OPTIMIZER: self.trained.optimizer,
            "average.pkl": self.trained.average,
            "scaler.pkl": self.accelerator.scaler,
        }
        return {name: part for name, part in found.items() if part is not None}

    def _process_state(self) -> dict[str, Any]:
        """What differs from process to process: random states, and what chooses how the backward pass is run."""
        backbone = self.trained.plain.model.backbone
        errors = {stage: error.cpu() for stage, error in backbone.reconstruction_errors.by_stage.items()}
        return {
            **random_states(self.accelerator.device),
            "errors": errors,
            "switch": dict(vars(backbone.backprop_switch)),
            "epoch": vars(self.epoch),
        }

    def _restore_process(self, state: dict[str, Any]) -> None:
        restore_random_states(state, self.accelerator.device)
        backbone = self.trained.plain.model.backbone
        backbone.reconstruction_errors.by_stage.update(state["errors"])
        vars(backbone.backprop_switch).update(state["switch"])


def surplus(places: list[Place], now: Place, limit: int, best_epoch: int) -> list[Place]:
    """Returns which earlier checkpoints are not kept.

    Args:
        places: Of all that are there, in order.
        now: Of the last, which is not among them. What lies behind it is of a training that was given up.
        limit: Of those that are kept: the latest, the best in the place of the oldest.
        best_epoch: After which the best model was measured.
    """
    past = [place for place in places if place < now]
    kept = past[max(0, len(past) - limit) :]
    best = (best_epoch, 0)
    if kept and best in past and best not in kept:
        kept[0] = best
    return [place for place in places if place not in kept]


def read_checkpoint(folder: RunFolder, data: dict[str, Any]) -> dict[str, Any] | None:
    """Reads what a run goes on from, by file name; None where it starts.

    Raises:
        RunFolderError: if a file is missing or damaged, or the run there is on other data.
    """
    if not folder.has_checkpoint:
        return None
    progress = folder.read_checkpoint(PROGRESS)
    _check_progress(progress, folder.path / CHECKPOINT / PROGRESS)
    if different := differences(progress["data"], data):
        raise RunFolderError(
            f"{folder.path} already holds a run with other data: {'; '.join(different)}. "
            "Give it the same data, or choose another folder."
        )
    return {PROGRESS: progress} | {name: folder.read_checkpoint(name) for name in progress["files"]}


def _check_progress(progress: Any, path: Path) -> None:
    """Checks what decides how a run goes on."""
    value, name = progress, "content"
    if isinstance(progress, dict):
        for name, hint in _KINDS.items():  # noqa: B007
            value = progress.get(name)
            if name in progress or name not in _NEW:
                try:
                    check_value(name, value, hint)
                except ValueError:
                    break
        else:
            names = (_WEIGHTS, _OPTIMIZER, *map(_RANDOM_STATES.format, range(progress["processes"])))
            value, name = progress["files"], "files"
            safe = all(re.fullmatch(r"\w+\.pkl", file) for file in value)
            if safe and {*names} <= {*value} and progress["epoch"] <= (progress["epochs"] or math.inf):
                return
    raise RunFolderError(f"{path} is damaged (its {name} is {shown(value)}): {_FIX}")


@contextlib.contextmanager
def _damaged(folder: RunFolder, name: str) -> Iterator[None]:
    """Names the file of the checkpoint that does not fit."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError) as error:
        path, reason = folder.path / CHECKPOINT / name, shorten(one_line(error), MOST_LETTERS)
        raise RunFolderError(f"{path} does not fit the recipe's model ({reason}): {_FIX}") from error
