"""All that is looked at, one after the other."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from pathlib import Path

from ..data.readable_videos import UnreadableVideosError
from ..training.arguments import Recipe
from ..training.localization import LocalizationTrainer
from ..training.random_states import random_states, restore_random_states
from ..value_checks import one_line
from .annotated_data import read_subsets
from .finding import Finding
from .first_steps import NUM_STEPS, of_first_steps, take_first_steps
from .run import of_detections, of_run
from .settings import of_settings, of_updates
from .weights import of_model, of_used_weights
from .windows import of_detection, of_windows


def findings(recipe: Recipe, run: Path | None = None, steps: int = NUM_STEPS) -> list[Finding]:
    """Returns what is likely wrong with a training; nothing where nothing is.

    Nothing is written but the user's index of videos (see `TimelineIndex`) and a folder that is gone at the end.

    Args:
        recipe: Of the training, with its data.
        run: Its folder, where it has begun.
        steps: Of training that are tried; 0 for none.

    Raises:
        ValueError: The files of the run are not what they should be.
    """
    found = of_settings(recipe)
    if run is not None:
        found += of_run(recipe, run)
    subsets, of_data = read_subsets(recipe)
    found += of_data
    if run is not None and subsets:
        found += of_detections(run, subsets[1])
    if subsets:
        found += _of_training(recipe, steps)
    return _causes(found)


def _causes(found: list[Finding]) -> list[Finding]:
    """Without what is told once already, and without what follows from another finding."""
    kinds = {finding.kind for finding in found}
    told: dict[tuple[str, str], Finding] = {}
    for finding in found:
        if not kinds & set(_FOLLOWS.get(finding.kind, ())):
            told.setdefault((finding.kind, "" if finding.kind in _ONCE else finding.seen), finding)
    return list(told.values())


_ONCE = ("high_learning_rate", "normalization", "frozen", "not_finite")
# What one finding follows from; it is told where it stays when that is mended.
_DATA = ("time_units", "start_length", "points", "outside_videos", "missing_videos", "unreadable_videos")
_FOLLOWS = {
    "refused": _DATA,
    "background": _DATA,
    "overlap": ("short_window", "high_rate"),
    "short_window": ("high_rate", "time_units"),
    "low_rate": ("time_units",),
    "long_window": ("low_rate",),
    "weight_decay": ("high_learning_rate",),
    "random_backbone": ("high_learning_rate",),
}


def _of_training(recipe: Recipe, steps: int) -> list[Finding]:
    """Builds what training builds, and trains a little."""
    lenient = copy.deepcopy(recipe)
    lenient.data.max_unlearnable = lenient.data.max_unreadable = 1.0
    lenient.data.allow_shared_videos = True
    lenient.training.trackers = None
    printed = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="re2tal-doctor-") as folder:
        try:
            with contextlib.redirect_stdout(printed):
                trainer = LocalizationTrainer(lenient, folder)
        except (ValueError, OSError, UnreadableVideosError) as error:
            return [Finding("refused", one_line(error), "training would end with this message", "as it says")]
        kept = random_states(trainer.accelerator.device)
        found = of_windows(trainer.windows, trainer.plain_model) + of_detection(trainer.windows)
        found += of_updates(recipe, trainer.updates_per_epoch)
        found += of_used_weights(recipe, printed.getvalue()) + of_model(trainer)
        if steps and (seen := take_first_steps(trainer, steps)):
            found += of_first_steps(seen, recipe.training.learning_rate)
        restore_random_states(kept, trainer.accelerator.device)
    return found
