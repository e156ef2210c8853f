"""A finished run as the trainer leaves it, checked before anything is made of it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.annotations import hub_dataset
from ..training.recipe_yaml import read_yaml
from ..training.run_folder import complete_folder
from .listed_files import is_regular
from .places import file_name, without_places

MODEL_FOLDERS = ("best", "last")
# Fields of a recipe that name places, also by relative paths; a backbone's may be a Hub id, which has one slash.
HUB_MODEL = "pretrained_backbone"
PLACES = (("data", "annotations"), ("data", "videos"), ("data", "cache"), ("training", HUB_MODEL))
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
    def hub_dataset(self) -> str | None:
        """The data set on the Hub, `user/name` or `user/name@revision`; None where the data lay on a disk."""
        data = self.recipe["data"]
        # Runs of earlier versions do not record it: whether the name is one of the Hub is looked up here and now.
        found = None if data["videos"] else self.record.get("hub_dataset", hub_dataset(data["annotations"]))
        return found if found and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", found, re.ASCII) else None

    @property
    def has_picture(self) -> bool:
        """Whether the model's folder holds the picture of its detections."""
        return is_regular(self.folder, f"{self.model_folder.name}/timeline.png")

    def without_places(self) -> TrainingRun:
        """Returns the run with local paths shortened to names, in whatever its files say."""
        recipe = without_places(self.recipe)
        for section, name in PLACES:
            value = recipe[section].get(name)
            kept = (self.hub_dataset,) if name == "annotations" else ()
            if isinstance(value, str) and value not in kept and not (name == HUB_MODEL and value.count("/") == 1):
                recipe[section][name] = file_name(value)
        recipe["imports"] = [file_name(path) for path in recipe.get("imports", [])]
        parts = ("record", "log", "config", "processor", "metrics")
        return replace(self, recipe=recipe, **{part: without_places(getattr(self, part)) for part in parts})

    @property
    def map_by_tiou(self) -> dict[str, float]:
        """The mAP by its tIoU threshold, lowest first; thresholds as the file spells them."""
        found = {name.partition("@")[2]: v for name, v in self.metrics.items() if name.startswith("map@")}
        return dict(sorted(found.items(), key=lambda item: float(item[0])))


def read_run(folder: str | Path, which: str = "best") -> TrainingRun:
    """Reads a run folder.

    Args:
        folder: As `re2tal train --output` names it.
        which: `"best"` or `"last"`.

    Raises:
        ValueError: if a file is missing, is a link or is not what it should be; the message names it and the fix.
    """
    folder = Path(folder)
    if which not in MODEL_FOLDERS:
        raise ValueError(f"There is no model {which!r} in a run; choose one of {MODEL_FOLDERS}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the --output of a re2tal train run.")
    model = complete_folder(folder / which)
    recipe_path = _existing(folder / "recipe.yaml", "give the run folder itself, the --output of re2tal train")
    record = _read_json(folder / "run.json", TRAIN_AGAIN)
    log_text = _existing(folder / "log.jsonl", "let the run finish an epoch").read_text(encoding="utf-8")
    _existing(model, "let the run reach an evaluation; there is one after the last epoch")
    config = _read_json(model / "config.json", "let the run reach its next evaluation, which saves the model")
    processor = _read_json(model / "video_preprocessor_config.json", TRAIN_AGAIN)
    if not (weights := list(model.glob("*.safetensors"))):
        raise ValueError(f"{model / 'model.safetensors'} is missing: let the run reach its next evaluation.")
    for path in weights:
        _existing(path, "")
    metrics = _read_json(model / "metrics.json", "let the run reach an evaluation")
    _existing(model / "detections.json", "let the run reach an evaluation")
    _check_metrics(metrics, model / "metrics.json")
    return TrainingRun(
        folder=folder,
        which=which,
        recipe=_parse_recipe(recipe_path),
        record=_check_record(record, folder / "run.json"),
        log=_parse_log(log_text, folder / "log.jsonl"),
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
    text = _existing(path, fix).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): {fix}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object: {fix}.")
    return value


def _parse_recipe(path: Path) -> dict[str, Any]:
    recipe = read_yaml(path.read_text(encoding="utf-8"), str(path))
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
    return record


def _parse_log(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        log = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or train again.") from error
    if not log:
        raise ValueError(f"{path} is empty: let the run finish an epoch.")
    for name in ("epoch", "seconds_per_step", "peak_memory_mib", "reconstruction_error"):
        if any(name not in entry for entry in log):
            raise ValueError(f"{path} has an epoch without {name!r}: {TRAIN_AGAIN}.")
    return log


def _check_metrics(metrics: dict[str, Any], path: Path) -> None:
    maps = {name: value for name, value in metrics.items() if name == "map" or name.startswith("map@")}
    if "map" not in maps or len(maps) < 2:
        raise ValueError(f"{path} has no 'map' and 'map@...': a card needs results, let the run reach an evaluation.")
    for name, value in maps.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path}: {name!r} is {value!r} and not a number: evaluate the model again.")
    for name in ("per_class", "epoch"):
        if name not in metrics:
            raise ValueError(f"{path} has no {name!r}: {TRAIN_AGAIN}.")
