"""A run folder: what a training leaves behind, and what it goes on from after it was killed at any moment.

| file | what it holds |
| --- | --- |
| `recipe.yaml` | the settings; the folder belongs to a run from the moment on at which it is there |
| `auto.yaml` | with `--recipe auto`, the settings that were found, with their reasons |
| `report.html` | what came of it, to be looked at |
| `run.json` | machine, versions, amounts of data, time |
| `log.jsonl` | one line an epoch |
| `best/`, `last/` | a model as `from_pretrained` takes it, `metrics.json`; also `detections.json`, `timeline.png` |
| `checkpoint/` | everything that the next epoch depends on, one file for each part |
| `checkpoint-3/`, `checkpoint-3-40/` | earlier ones, by `training.save_total_limit`: after 3 epochs, 40 steps further |

A file is written under another name and then renamed. A folder `x` is written as `x.partial`; then `x` is renamed to
`x.old` and `x.partial` to `x`. So `x` is complete where it exists; where it does not, `x.old` is; `x.partial` counts
for nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import IO, TYPE_CHECKING, Any

import torch

from ..data.detection_files import Detections, write_submission
from ..data.whole_files import check_writable, naming, written_whole
from ..value_checks import one_line, shown
from .arguments import Recipe, load_recipe
from .recipe_yaml import read_yaml, write_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# What may differ from machine to machine: the data behind the places is compared itself.
PLACES = frozenset(
    {"name", "imports", "data.annotations", "data.videos", "data.features", "data.cache", "data.num_workers"}
)
# What may change while a run goes on: it decides neither the weights nor which of them are the best.
FREE_FIELDS = PLACES | {
    "licence",
    "data.max_unreadable",
    "data.timeout",
    "data.max_unlearnable",
    "training.max_skipped_steps",
    "training.pretrained_license",
    "training.save_epochs",
    "training.save_steps",
    "training.save_total_limit",
    "training.trackers",
    "evaluation.batch_size",
    "evaluation.patience",
}
RECIPE, RECORD, LOG = "recipe.yaml", "run.json", "log.jsonl"
BEST, LAST, CHECKPOINT = "best", "last", "checkpoint"
MODELS = (BEST, LAST)
METRICS, DETECTIONS, PICTURE = "metrics.json", "detections.json", "timeline.png"
MOST_DIFFERENCES = 6
MOST_LETTERS = 400
_ABSENT = object()
Place = tuple[int, int]
"""How far a training is: epochs done, and steps of the next."""


class RunFolderError(ValueError):
    """A folder that a run cannot use; the message names the file and the fix."""


def complete_folder(folder: str | Path) -> Path:
    """Returns the folder, or its predecessor where a kill in the middle of a replacement left only that."""
    folder = Path(folder)
    # Other than a path's own methods these take what is no name of a file at all.
    if os.path.exists(folder) or not folder.name:
        return folder
    old = folder.with_name(f"{folder.name}.old")
    return old if os.path.isdir(old) else folder


def checkpoint_name(place: Place) -> str:
    """Returns the name of the folder of an earlier checkpoint."""
    epochs, steps = place
    return f"{CHECKPOINT}-{epochs}-{steps}" if steps else f"{CHECKPOINT}-{epochs}"


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
        return self._complete(CHECKPOINT).is_dir()

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun in the folder."""
        return (self.path / RECIPE).exists()

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Compares the recipe with that of the run in the folder, if there is one; changes nothing and leaves nothing.

        Args:
            recipe: Of the run that is about to be.
            resume: The folder must hold a run.

        Raises:
            RunFolderError: if the folder holds another run, or files of one without its recipe, or should hold one.
            OSError: if it cannot be written to.
        """
        check_writable(self.path)
        kept = self._read_recipe()
        if kept is None:
            if found := [name for name in (*MODELS, CHECKPOINT, LOG) if self._complete(name).exists()]:
                raise RunFolderError(
                    f"{self.path} holds {found[0]} but no recipe.yaml: restore it, or choose another folder."
                )
            if resume:
                raise RunFolderError(
                    f"There is nothing to resume from: {self.path} holds no run; check --output, or leave out --resume."
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
                f"{self.path / CHECKPOINT} is missing: without it the run cannot go on from epoch "
                f"{self.logged_epochs()} to {recipe.training.epochs}; restore it, or choose another folder."
            )

    def read_log(self) -> list[dict[str, Any]]:
        """Returns the entries of `log.jsonl`; none without one."""
        path = self.path / LOG
        return read_log(path) if path.exists() or path.is_symlink() else []

    def logged_epochs(self) -> int:
        """Returns the last epoch of `log.jsonl`; 0 without one."""
        log = self.read_log()
        return log[-1]["epoch"] if log else 0

    def read_metrics(self, name: str, criterion: str = "") -> dict[str, Any] | None:
        """Returns the metrics of `best/` or `last/`; None without it.

        Args:
            name: Of the folder.
            criterion: A metric in [0, 1] that must be there.

        Raises:
            RunFolderError: if they are damaged.
        """
        path = self._complete(name) / METRICS
        if not path.exists():
            return None
        fix = f"delete {path.parent} to have it made anew"
        [metrics] = parsed([read_text(path, fix)], path, fix)
        score = metrics.get(criterion)
        if criterion and not (is_number(score) and 0 <= float(score or 0) <= 1):
            raise RunFolderError(f"{path} is damaged ({criterion!r} is {shown(score)}): {fix}.")
        return metrics

    def claim(self) -> None:
        """Makes the folder, takes it for this process, and clears away what a kill left half-done.

        Raises:
            RunFolderError: if another process trains in it.
        """
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        for name in (*MODELS, CHECKPOINT):
            folder, complete = self.path / name, self._complete(name)
            if complete != folder:
                complete.rename(folder)
            for rest in (f"{name}.partial", f"{name}.old"):
                shutil.rmtree(self.path / rest, ignore_errors=True)

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes `recipe.yaml`."""
        self.write_text(RECIPE, write_yaml(recipe.to_dict()))

    def write_log(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Writes `log.jsonl`, an entry for each epoch."""
        self.write_text(LOG, as_lines(entries))

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Writes `run.json`."""
        self.write_text(RECORD, as_json(record))

    def write_model(self, name: str, save: Callable[[Path], None], metrics: Mapping[str, Any]) -> None:
        """Writes `best/` or `last/`: what `save` puts into it, and its metrics."""

        def write(folder: Path) -> None:
            save(folder)
            (folder / METRICS).write_text(as_json(metrics), encoding="utf-8")

        self.write_folder(name, write)

    def write_text(self, name: str, text: str) -> None:
        """Writes a file that is complete whenever it is there."""
        with written_whole(self.path / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def write_folder(self, name: str, write: Callable[[Path], None], keep_as: str = "") -> None:
        """Lets `write` fill a new folder and puts it in the place of the one of this name, which may be kept."""
        folder = self.path / name
        partial, old = (folder.with_name(f"{name}.{ending}") for ending in ("partial", "old"))
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with naming(folder):
                partial.mkdir()
                write(partial)
                if folder.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    folder.rename(old)
                partial.rename(folder)
                if keep_as and old.exists():
                    shutil.rmtree(folder.with_name(keep_as), ignore_errors=True)
                    old.rename(folder.with_name(keep_as))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    def write_checkpoint(self, parts: Mapping[str, Any], keep_as: str = "") -> None:
        """Writes what a run goes on from.

        Args:
            parts: By file name, tensors and plain values.
            keep_as: Name that the checkpoint before gets; without one it is deleted.
        """

        def write(folder: Path) -> None:
            for name, part in parts.items():
                torch.save(part, folder / name)

        self.write_folder(CHECKPOINT, write, keep_as)

    def earlier_checkpoints(self) -> list[Place]:
        """Returns the places of the checkpoints beside the last, in order."""
        found = [
            re.fullmatch(rf"{CHECKPOINT}-(\d+)(?:-(\d+))?", path.name) for path in self.path.glob(f"{CHECKPOINT}-*")
        ]
        return sorted((int(match[1]), int(match[2] or 0)) for match in found if match)

    def delete_checkpoint(self, place: Place) -> None:
        """Deletes one of the earlier checkpoints; what a kill leaves of it goes when the folder is claimed."""
        folder, old = self.path / checkpoint_name(place), self.path / f"{CHECKPOINT}.old"
        with naming(folder):
            folder.rename(old)
            shutil.rmtree(old)

    def replace_in_checkpoint(self, name: str, part: Any) -> None:
        """Writes one file of the checkpoint anew."""
        with written_whole(self.path / CHECKPOINT / name) as partial:
            torch.save(part, partial)

    def read_checkpoint(self, name: str) -> Any:
        """Reads one file of the checkpoint.

        Raises:
            RunFolderError: if it is missing or damaged.
        """
        path = self._complete(CHECKPOINT) / name
        fix = "restore it, or delete the folder checkpoint to start from the beginning."
        if earlier := self.earlier_checkpoints():
            fix = (
                f"restore it, or delete the folder checkpoint and rename {checkpoint_name(earlier[-1])} to checkpoint."
            )
        if not path.is_file():
            raise RunFolderError(f"{path} is missing: {fix}")
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise RunFolderError(f"{path} is damaged (its part {damaged} does not have its checksum): {fix}")
            return torch.load(path, map_location="cpu", weights_only=True)
        except RunFolderError:
            raise
        except Exception as error:  # of a damaged pickle, any
            raise RunFolderError(f"{path} is damaged ({shorten(one_line(error), MOST_LETTERS)}): {fix}") from error

    def _complete(self, name: str) -> Path:
        return complete_folder(self.path / name)

    def _read_recipe(self) -> dict[str, Any] | None:
        path = self.path / RECIPE
        if not path.exists():
            return None
        try:
            # The files that it imports may lie elsewhere now; those of the new recipe are imported.
            return comparable(load_recipe(str(path), ["imports=[]"]))
        except ValueError as error:
            reason = shorten(one_line(error), MOST_LETTERS)
            raise RunFolderError(f"{path} cannot be read ({reason}): restore it, or choose another folder.") from error

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        self._lock = (self.path / ".lock").open("w", encoding="utf-8")
        try:
            # A record lock: the kernel gives it back when this process dies, and no data worker inherits it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise RunFolderError(
                f"Another process trains in {self.path}: wait for its end, or choose another folder."
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked against a second process (%s)", self.path, error)


def write_results(folder: Path, detections: Mapping[str, Detections], picture: Figure | None) -> None:
    """Writes what a localizer found into the folder of its model: detections by `video_id`, and their picture."""
    write_submission(folder / DETECTIONS, detections)
    if picture:
        picture.savefig(folder / PICTURE)


def as_json(value: Mapping[str, Any]) -> str:
    """Returns the text of a record or of metrics."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def as_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    """Returns the text of a log."""
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)


def comparable(recipe: Recipe) -> dict[str, Any]:
    """Returns a recipe's values by dotted name, as a file of it would hold them."""
    return _flat(read_yaml(write_yaml(recipe.to_dict()), "recipe"))


def differences(kept: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str] = PLACES) -> list[str]:
    """Returns what differs, apart from the fields that are free to: one text with both values for each."""
    names = [name for name in sorted({*kept, *new} - free) if kept.get(name, _ABSENT) != new.get(name, _ABSENT)]
    found = [f"{name} is {_shown(new, name)} here and {_shown(kept, name)} there" for name in names[:MOST_DIFFERENCES]]
    return found + ([f"and {len(names) - len(found)} more"] if len(names) > len(found) else [])


def _shown(values: Mapping[str, Any], name: str) -> str:
    return shown(values[name]) if name in values else "not given"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_text(path: Path, fix: str) -> str:
    """Returns the text of a file; the error says the fix."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} cannot be read ({one_line(error)}): {fix}.") from error


def parsed(texts: Iterable[str], path: Path, fix: str) -> list[dict[str, Any]]:
    """Returns objects that are given in JSON; the error names the file and says the fix."""
    try:
        values = [json.loads(text) for text in texts]
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged (it is not JSON: {one_line(error)}): {fix}.") from error
    if not all(isinstance(value, dict) for value in values):
        raise RunFolderError(f"{path} is damaged (something else stands in place of an object): {fix}.")
    return values


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a log, each with the number of its epoch."""
    lines = read_text(path, "restore it, or choose another folder").splitlines()
    log = parsed(filter(str.strip, lines), path, "restore it, or train again in another folder")
    if any(not _is_count(entry.get("epoch")) for entry in log):
        raise RunFolderError(f"{path} is damaged (an entry has no number of its epoch): restore it, or train again.")
    return log


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
