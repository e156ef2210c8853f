"""A finished run as it is published: without local paths, and with what the card asks of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..data.annotations import hub_dataset
from ..training.run_folder import BEST, PICTURE
from ..training.training_run import TrainingRun, read_training_run
from .listed_files import is_regular
from .places import file_name, without_places

# Fields of a recipe that name places, also by relative paths; a model's may be a Hub id, which has one slash.
HUB_MODELS = ("pretrained_backbone", "pretrained_model")
PLACES = (
    ("data", "annotations"),
    ("data", "videos"),
    ("data", "features"),
    ("data", "cache"),
    *(("training", name) for name in HUB_MODELS),
)


class PublishedRun(TrainingRun):
    """What the files of a run say, and what of it may be published."""

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
        return is_regular(self.folder, f"{self.model_folder.name}/{PICTURE}")

    def without_places(self) -> PublishedRun:
        """Returns the run with local paths shortened to names, in whatever its files say."""
        recipe = without_places(self.recipe)
        for section, name in PLACES:
            value = recipe[section].get(name)
            kept = (self.hub_dataset,) if name == "annotations" else ()
            if isinstance(value, str) and value not in kept and not (name in HUB_MODELS and value.count("/") == 1):
                recipe[section][name] = file_name(value)
        recipe["imports"] = [file_name(path) for path in recipe.get("imports", [])]
        parts = ("record", "log", "config", "processor", "metrics")
        return replace(self, recipe=recipe, **{part: without_places(getattr(self, part)) for part in parts})


def read_run(folder: str | Path, which: str = BEST) -> PublishedRun:
    """Reads a run folder; see `read_training_run`."""
    return PublishedRun(**vars(read_training_run(folder, which)))
