"""What the files of a run say, for whom they are published or described."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..value_checks import shown
from .recipe_yaml import read_yaml
from .run_folder import (
    BEST,
    DETECTIONS,
    LOG,
    METRICS,
    MODELS,
    RECIPE,
    RECORD,
    complete_folder,
    is_number,
    parsed,
    read_log,
    read_text,
)

TRAIN_AGAIN = "runs of earlier versions lack it, train this one again"


@dataclass(frozen=True)
class TrainingRun:
    """What the files of a run say.

    Args:
        folder: The run folder.
        which: `"best"` or `"last"`, the model that is meant.
        recipe: `recipe.yaml`, the settings by section.
        record: `run.json`, the machine, versions and amounts of data.
        log: `log.jsonl`, one entry an epoch.
        config: `config.json` of the model.
        processor: `video_preprocessor_config.json` of the model.
        metrics: `metrics.json` of the model: `map`, `map@...`, `per_class`, `epoch`.
    """

    folder: Path
    which: str
    recipe: dict[str, Any]
    record: dict[str, Any]
    log: list[dict[str, Any]]
    config: dict[str, Any]
    processor: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """The folder of the model that is meant."""
        return complete_folder(self.folder / self.which)

    @property
    def finds_points(self) -> bool:
        """Whether it was measured as action spotting is, by tight and loose mAP."""
        return "loose_map" in self.metrics

    @property
    def map_by_threshold(self) -> dict[str, float]:
        """The mAP by its tIoU, of points its seconds of tolerance, lowest first; as the file spells them."""
        found = {name.partition("@")[2]: v for name, v in self.metrics.items() if name.startswith("map@")}
        return dict(sorted(found.items(), key=lambda item: float(item[0])))


# Of points tight and loose; of segments the first alone.
_AVERAGES = ("map", "loose_map")


def read_training_run(folder: str | Path, which: str = BEST) -> TrainingRun:
    """Reads a run folder.

    Args:
        folder: As `re2tal train --output` names it.
        which: `"best"` or `"last"`.

    Raises:
        ValueError: if a file is missing, is a link or is not what it should be; the message names it and the fix.
    """
    folder = Path(folder)
    if which not in MODELS:
        raise ValueError(f"There is no model {which!r} in a run; choose one of {MODELS}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the --output of a re2tal train run.")
    model = complete_folder(folder / which)
    recipe_path = _existing(folder / RECIPE, "give the run folder itself, the --output of re2tal train")
    record = _read_json(folder / RECORD, TRAIN_AGAIN)
    log = read_log(_existing(folder / LOG, "let the run finish an epoch"))
    _existing(model, "let the run reach an evaluation; there is one after the last epoch")
    config = _read_json(model / "config.json", "let the run reach its next evaluation, which saves the model")
    processor = _read_json(model / "video_preprocessor_config.json", TRAIN_AGAIN)
    if not (weights := list(model.glob("*.safetensors"))):
        raise ValueError(f"{model / 'model.safetensors'} is missing: let the run reach its next evaluation.")
    for path in weights:
        _existing(path, "")
    metrics = _read_json(model / METRICS, "let the run reach an evaluation")
    _existing(model / DETECTIONS, "let the run reach an evaluation")
    _check_metrics(metrics, model / METRICS)
    return TrainingRun(
        folder=folder,
        which=which,
        recipe=_parse_recipe(recipe_path),
        record=_check_record(record, folder / RECORD),
        log=_check_log(log, folder / LOG),
        config=config,
        processor=processor,
        metrics=metrics,
    )


def _existing(path: Path, fix: str) -> Path:
    if path.is_symlink() or not (path.is_file() or path.is_dir() or not path.exists()):
        raise ValueError(f"{path} is a link, or no regular file: put the file itself in its place to publish it.")
    if not path.exists():
        raise ValueError(f"{path} is missing: {fix}.")
    return path


def _read_json(path: Path, fix: str) -> dict[str, Any]:
    [value] = parsed([read_text(_existing(path, fix), fix)], path, fix)
    return value


def _parse_recipe(path: Path) -> dict[str, Any]:
    recipe = read_yaml(path.read_bytes(), str(path))
    sections = ("model", "processor", "augmentation", "data", "training", "evaluation", "freeze")
    missing = [name for name in (*sections, "name") if not isinstance(recipe, dict) or name not in recipe]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}: {TRAIN_AGAIN}.")
    return recipe


def _check_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    fields = ("versions", "device", "num_processes", "num_parameters", "backbone_parameters")
    for name in (*fields, "training", "validation", "training_seconds"):
        if name not in record:
            raise ValueError(f"{path} has no {name!r}: {TRAIN_AGAIN}.")
    for name in ("num_processes", "num_parameters", "backbone_parameters", "training_seconds"):
        if not is_number(record[name]):
            raise ValueError(f"{path} is damaged ({name!r} is {shown(record[name])}): restore it, or train again.")
    for name in ("versions", "training", "validation"):
        if not isinstance(record[name], dict):
            raise ValueError(f"{path} is damaged ({name!r} is {shown(record[name])}): restore it, or train again.")
    return record


def _check_log(log: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    if not log:
        raise ValueError(f"{path} is empty: let the run finish an epoch.")
    for name in ("epoch", "seconds_per_step", "peak_memory_mib", "reconstruction_error"):
        if any(name not in entry for entry in log):
            raise ValueError(f"{path} has an epoch without {name!r}: {TRAIN_AGAIN}.")
        if wrong := [entry[name] for entry in log if not is_number(entry[name])]:
            raise ValueError(f"{path} is damaged ({name!r} is {shown(wrong[0])}): restore it, or train again.")
    return log


def _check_metrics(metrics: dict[str, Any], path: Path) -> None:
    maps = {name: value for name, value in metrics.items() if name in _AVERAGES or name.startswith("map@")}
    if "map" not in maps or len(maps) < 2:
        raise ValueError(f"{path} has no 'map' and 'map@...': a card needs results, let the run reach an evaluation.")
    for name, value in maps.items():
        if not is_number(value) or not 0 <= value <= 1:
            raise ValueError(f"{path}: {name!r} is {shown(value)} and not in [0, 1]: evaluate the model again.")
        if name not in _AVERAGES and not re.fullmatch(r"map@[\d.]+", name):
            raise ValueError(f"{path}: {name!r} names no threshold: evaluate the model again.")
    for name in ("per_class", "epoch"):
        if name not in metrics:
            raise ValueError(f"{path} has no {name!r}: {TRAIN_AGAIN}.")
