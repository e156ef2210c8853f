"""What a run goes on from: how far it is, and the state of everything that its next epoch depends on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.swa_utils import AveragedModel

from .epoch import EpochSoFar
from .processes import on_main_process
from .random_states import random_states, restore_random_states
from .run_folder import CHECKPOINT, RunFolder, RunFolderError, differences

logger = logging.getLogger(__name__)

PROGRESS = "progress.pkl"
_RANDOM_STATES = "random_states_{}.pkl"


class Progress:
    """How far a run is; part of its checkpoint.

    Attributes:
        epoch: Epochs done.
        updates: Updates done or skipped, as many an epoch as the present number of processes makes.
        skipped: Updates skipped since the last that was made.
        best: The criterion of the best model.
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
        model: What is trained, as it was before the accelerator prepared it.
        optimizer: Prepared.
        average: The moving average of the model; None without one.
        data: By what to tell whether a run is on the same data; see `identify_data`.
        progress: How far the run is.
        epoch: How far this process is in the present epoch.
        saved: `place()` of the checkpoint; empty without one.
    """

    accelerator: Accelerator
    model: Any
    optimizer: Any
    average: AveragedModel | None
    data: dict[str, Any]
    progress: Progress = field(default_factory=Progress)
    epoch: EpochSoFar = field(default_factory=EpochSoFar)
    saved: str = ""

    def num_bytes(self) -> int:
        """Returns about how much a checkpoint and a saved model take on disk."""
        models = [self.model, self.model] + ([] if self.average is None else [self.average])
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        moments = [p for group in self.optimizer.param_groups for p in group["params"]]
        return sum(tensor.nbytes for tensor in [*tensors, *moments, *moments])

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint of a run folder; to be called on all processes."""
        # One process writes for all: no other has to see its disk, and nothing is renamed before all is written.
        states = gather_object([self._process_state()])
        on_main_process(self.accelerator, lambda: self._write(folder, states))
        self.saved = self.place()

    def save_progress(self, folder: RunFolder) -> None:
        """Writes anew what has changed since `save` without a step; to be called on all processes."""
        on_main_process(self.accelerator, lambda: folder.replace_in_checkpoint(PROGRESS, self._progress()))
        self.saved = self.place()

    def load(self, folder: RunFolder, parts: dict[str, Any]) -> None:
        """Puts back what `read_checkpoint` returned.

        Raises:
            RunFolderError: if a part does not fit what is trained.
        """
        for name, part in self._stateful().items():
            try:
                part.load_state_dict(parts[name])
            except (RuntimeError, ValueError, KeyError) as error:
                path = folder.path / CHECKPOINT / name
                raise RunFolderError(f"{path} does not fit the recipe's model: {error}") from error
        kept, processes = parts[PROGRESS], self.accelerator.num_processes
        # Runs of earlier versions lack some of it.
        vars(self.progress).update({name: kept[name] for name in vars(self.progress) if name in kept})
        states = [parts[_RANDOM_STATES.format(process)] for process in range(kept["processes"])]
        epochs = [EpochSoFar(**state.get("epoch", {})) for state in states]
        if kept["processes"] == processes:
            self._restore_process(states[self.accelerator.process_index])
            self.epoch = epochs[self.accelerator.process_index]
        else:
            self.epoch = EpochSoFar.of_others(epochs, processes, self.accelerator.gradient_accumulation_steps)
            if self.accelerator.is_main_process:
                logger.warning(
                    "The run goes on with %d processes in place of %d: its random numbers are others from here on.",
                    processes, kept["processes"],
                )  # fmt: skip
        self.saved = self.place()

    def place(self) -> str:
        """Returns where the run is, in words that follow "goes on"."""
        progress = self.progress
        of = f" of {progress.epochs}" if progress.epochs else ""
        if steps := self.epoch.steps:
            return f"after {steps} {'step' if steps == 1 else 'steps'} of epoch {progress.epoch + 1}{of}"
        return f"{'with the evaluation ' if progress.unmeasured else ''}after epoch {progress.epoch}{of}"

    def _write(self, folder: RunFolder, process_states: list[dict[str, Any]]) -> None:
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        parts |= {_RANDOM_STATES.format(process): state for process, state in enumerate(process_states)}
        folder.write_checkpoint({**parts, PROGRESS: self._progress()})

    def _progress(self) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        files = [*self._stateful(), *map(_RANDOM_STATES.format, range(processes))]
        return {**vars(self.progress), "data": self.data, "files": files, "processes": processes}

    def _stateful(self) -> dict[str, Any]:
        """What a checkpoint holds of the run as a whole, by file name."""
        found = {
            "model.pkl": self.model,
            "optimizer.pkl": self.optimizer,
            "average.pkl": self.average,
            "scaler.pkl": self.accelerator.scaler,
        }
        return {name: part for name, part in found.items() if part is not None}

    def _process_state(self) -> dict[str, Any]:
        """What differs from process to process: random states, and what chooses how the backward pass is run."""
        backbone = self.model.model.backbone
        errors = {stage: error.cpu() for stage, error in backbone.reconstruction_errors.by_stage.items()}
        return {
            **random_states(self.accelerator.device),
            "errors": errors,
            "switch": dict(vars(backbone.backprop_switch)),
            "epoch": vars(self.epoch),
        }

    def _restore_process(self, state: dict[str, Any]) -> None:
        restore_random_states(state, self.accelerator.device)
        backbone = self.model.model.backbone
        backbone.reconstruction_errors.by_stage.update(state["errors"])
        vars(backbone.backprop_switch).update(state["switch"])


def read_checkpoint(folder: RunFolder, data: dict[str, Any]) -> dict[str, Any] | None:
    """Reads what a run goes on from, by file name; None where it starts.

    Raises:
        RunFolderError: if a file is missing or damaged, or the run there is on other data.
    """
    if not folder.has_checkpoint:
        return None
    progress = folder.read_checkpoint(PROGRESS)
    if different := differences(progress["data"], data):
        raise RunFolderError(
            f"{folder.path} already holds a run with other data: {'; '.join(different)}. "
            "Give it the same data, or choose another folder."
        )
    return {PROGRESS: progress} | {name: folder.read_checkpoint(name) for name in progress["files"]}
