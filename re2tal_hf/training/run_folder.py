"""A run folder: what a training leaves behind, and what it goes on from after it was killed at any moment.

| file | what it holds |
| --- | --- |
| `recipe.yaml` | the settings; the folder belongs to a run from the moment on at which it is there |
| `run.json` | machine, versions, amounts of data, time |
| `log.jsonl` | one line an epoch |
| `best/`, `last/` | what the trainer saves, and `metrics.json` |
| `checkpoint/` | everything that the next epoch depends on, one file for each part |

A file is written under another name and then renamed. A folder `x` is written as `x.partial`; then `x` is renamed to
`x.old` and `x.partial` to `x`. So `x` is complete where it exists; where it does not, `x.old` is; `x.partial` counts
for nothing.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from .arguments import Recipe, load_recipe
from .recipe_yaml import read_yaml, write_yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# What may differ from machine to machine: the data behind the places is compared itself.
PLACES = frozenset({"name", "imports", "data.annotations", "data.videos", "data.cache", "data.num_workers"})
# What may change while a run goes on: it decides neither the weights nor which of them are the best.
FREE_FIELDS = PLACES | {
    "licence",
    "data.max_unreadable",
    "data.max_unlearnable",
    "training.pretrained_license",
    "training.save_epochs",
    "training.trackers",
    "evaluation.batch_size",
}
_FOLDERS = ("best", "last", "checkpoint")
_ABSENT = object()


class RunFolderError(ValueError):
    """A folder that a run cannot use; the message names the file and the fix."""


def complete_folder(folder: str | Path) -> Path:
    """Returns the folder, or its predecessor where a kill in the middle of a replacement left only that."""
    folder = Path(folder)
    old = folder.with_name(f"{folder.name}.old")
    return old if old.is_dir() and not folder.exists() else folder


class RunFolder:
    """Reads and writes a run folder, in one process.

    Args:
        path: The folder; made by `claim`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return self._complete("checkpoint").is_dir()

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Compares the recipe with that of the run in the folder, if there is one; changes nothing.

        Args:
            recipe: Of the run that is about to be.
            resume: The folder must hold a run.

        Raises:
            RunFolderError: if the folder holds another run, or files of one without its recipe, or should hold one.
        """
        kept = self._read_recipe()
        if kept is None:
            if resume:
                raise RunFolderError(
                    f"There is nothing to resume from: {self.path} holds no run; check --output, or leave out --resume."
                )
            if found := [name for name in (*_FOLDERS, "log.jsonl") if self._complete(name).exists()]:
                raise RunFolderError(
                    f"{self.path} holds {found[0]} but no recipe.yaml: restore it, or choose another folder."
                )
            return
        new = comparable(recipe)
        longer = new["training.epochs"] > kept["training.epochs"]
        if different := differences(kept, new, FREE_FIELDS | ({"training.epochs"} if longer else set())):
            raise RunFolderError(
                f"{self.path} already holds a run with another recipe: {'; '.join(different)}. "
                "Give it the same settings, or choose another folder."
            )
        if longer and not self.has_checkpoint and self.logged_epochs():
            raise RunFolderError(
                f"{self.path / 'checkpoint'} is missing: without it the run cannot go on from epoch "
                f"{self.logged_epochs()} to {recipe.training.epochs}; restore it, or choose another folder."
            )

    def logged_epochs(self) -> int:
        """Returns the last epoch of `log.jsonl`; 0 without one."""
        log = self.path / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        try:
            return int(json.loads(lines[-1])["epoch"]) if lines else 0
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{log} is damaged ({error}): restore it, or choose another folder.") from error

    def read_metrics(self) -> dict[str, Any] | None:
        """Returns the metrics of `last/`; None without it."""
        path = self._complete("last") / "metrics.json"
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunFolderError(f"{path} is damaged ({error}): delete {path.parent} to have it made anew.") from error

    def claim(self) -> None:
        """Makes the folder, takes it for this process, and clears away what a kill left half-done.

        Raises:
            RunFolderError: if another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        for name in _FOLDERS:
            folder, complete = self.path / name, self._complete(name)
            if complete != folder:
                complete.rename(folder)
            for rest in (f"{name}.partial", f"{name}.old"):
                shutil.rmtree(self.path / rest, ignore_errors=True)

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes `recipe.yaml`."""
        self.write_text("recipe.yaml", write_yaml(recipe.to_dict()))

    def write_text(self, name: str, text: str) -> None:
        """Writes a file that is complete whenever it is there."""
        partial = self.path / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, self.path / name)

    def write_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """Lets `write` fill a new folder and puts it in the place of the one of this name."""
        folder = self.path / name
        partial, old = (folder.with_name(f"{name}.{ending}") for ending in ("partial", "old"))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def write_checkpoint(self, parts: Mapping[str, Any]) -> None:
        """Writes what a run goes on from: by file name, tensors and plain values."""

        def write(folder: Path) -> None:
            for name, part in parts.items():
                torch.save(part, folder / name)

        self.write_folder("checkpoint", write)

    def read_checkpoint(self, name: str) -> Any:
        """Reads one file of the checkpoint.

        Raises:
            RunFolderError: if it is missing or damaged.
        """
        path = self._complete("checkpoint") / name
        fix = "restore it, or delete the folder checkpoint to start from the beginning."
        if not path.is_file():
            raise RunFolderError(f"{path} is missing: {fix}")
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise RunFolderError(f"{path} is damaged (its part {damaged} does not have its checksum): {fix}")
            return torch.load(path, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise RunFolderError(f"{path} is damaged ({error}): {fix}") from error

    def _complete(self, name: str) -> Path:
        return complete_folder(self.path / name)

    def _read_recipe(self) -> dict[str, Any] | None:
        path = self.path / "recipe.yaml"
        if not path.exists():
            return None
        try:
            # The files that it imports may lie elsewhere now; those of the new recipe are imported.
            return comparable(load_recipe(str(path), ["imports=[]"]))
        except ValueError as error:
            raise RunFolderError(f"{path} cannot be read ({error}): restore it, or choose another folder.") from error

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        self._lock = (self.path / ".lock").open("w")
        try:
            # A record lock: the kernel gives it back when this process dies, and no data worker inherits it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise RunFolderError(
                f"Another process trains in {self.path}: wait for its end, or choose another folder."
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked against a second process (%s)", self.path, error)


def comparable(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe's values by dotted name, as a file of it would hold them."""
    return _flat(read_yaml(write_yaml(recipe.to_dict()), "recipe"))


def differences(kept: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str] = PLACES) -> list[str]:
    """Returns what differs, apart from the fields that are free to: one text with both values for each."""
    return [
        f"{name} is {_shown(new, name)} here and {_shown(kept, name)} there"
        for name in sorted({*kept, *new} - free)
        if kept.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
