"""What a run goes on from: how far it is, and the state of everything that its next epoch depends on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.optim.swa_utils import AveragedModel

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
        updates: Updates done, as many an epoch as the present number of processes makes.
        best: The criterion of the best model.
        seconds: Time spent in training.
        epochs: Epochs that the run is to have; 0 before it has begun.
        log: The entries of the run folder's log.
        extensions: After which epoch `training.epochs` was raised, from what to what.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.updates = 0
        self.best = -1.0
        self.seconds = 0.0
        self.epochs = 0
        self.log: list[dict[str, Any]] = []
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
    """

    accelerator: Accelerator
    model: Any
    optimizer: Any
    average: AveragedModel | None
    data: dict[str, Any]
    progress: Progress = field(default_factory=Progress)

    def save(self, folder: RunFolder) -> None:
        """Writes the checkpoint of a run folder; to be called on all processes."""
        # One process writes for all: no other has to see its disk, and nothing is renamed before all is written.
        states = gather_object([self._process_state()])
        on_main_process(self.accelerator, lambda: self._write(folder, states))

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
        vars(self.progress).update({name: kept[name] for name in vars(self.progress)})
        if kept["processes"] == processes:
            self._restore_process(parts[_RANDOM_STATES.format(self.accelerator.process_index)])
        elif self.accelerator.is_main_process:
            logger.warning(
                "The run goes on with %d processes in place of %d: its random numbers are others from here on.",
                processes, kept["processes"],
            )  # fmt: skip

    def _write(self, folder: RunFolder, process_states: list[dict[str, Any]]) -> None:
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        parts |= {_RANDOM_STATES.format(process): state for process, state in enumerate(process_states)}
        progress = {**vars(self.progress), "data": self.data, "files": list(parts), "processes": len(process_states)}
        folder.write_checkpoint({**parts, PROGRESS: progress})

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
