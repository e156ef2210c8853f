"""A run that has begun: its log, its weights and its detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ..configuration_re2tal import Re2TALConfig
from ..data.annotation_set import AnnotationSet
from ..loaded_weights import is_infinite, some
from ..metrics.spotting_map import about_points
from ..metrics.stored_detections import read_predictions, reference_segments
from ..metrics.tal_map.tal_map import Segments, temporal_iou
from ..saved_files import read_json
from ..training.arguments import Recipe
from ..training.model_source import model_folder
from ..training.run_folder import DETECTIONS, LOG, METRICS, is_number, read_log
from ..video_processing_re2tal import Re2TALVideoProcessor
from .finding import Finding

# A loss that has risen so far above its best, one that has not fallen, and after how many epochs that means something.
_RISE, _STAYED, _EPOCHS = 2.0, 0.98, 4
_SKIPPED, _INEXACT = 0.02, 1e-2
# The best score and the mAP of a model that finds nothing.
_SILENT, _NO_MAP = 0.02, 0.02
# Detections that are looked at, for each action; overlap from which one is that of the action.
_DETECTIONS, _SAME = 3, 0.5
_LEAST_PAIRS, _AGREES = 8, 0.6
_RATES = (10, 12, 15, 24, 25, 30, 60)
_FACTORS = (0.4, 0.5, 0.6, 0.8, 5 / 6, 1.2, 1.25, 5 / 3, 2.0, 2.5, *_RATES, *(1 / rate for rate in _RATES), 1000, 1e-3)


def of_run(recipe: Recipe, folder: Path) -> list[Finding]:
    """What the log and the weights of a run show.

    Args:
        recipe: Of the run.
        folder: Of the run.

    Raises:
        ValueError: A file of it is damaged.
    """
    path = folder / LOG
    log = read_log(path) if path.exists() else []
    if not log:
        seen = f"{folder.name} has no epoch in its {LOG}"
        cause = "the run was stopped, or every step of its first epoch was skipped because losses were not finite"
        return [Finding("unfinished", seen, cause, "the same command goes on; what it says last is why it ended")]
    found = _of_log(log, recipe)
    model = model_folder(folder)
    if (model / "config.json").is_file():
        found += _of_weights(model) + _of_config(model, recipe)
    return found


def of_detections(folder: Path, validation: AnnotationSet) -> list[Finding]:
    """What the detections of a run's model show beside the validation subset.

    Args:
        folder: Of the run.
        validation: With the label names of the data.

    Raises:
        ValueError: The file of the detections is damaged, or of other videos.
    """
    path = model_folder(folder) / DETECTIONS
    if not path.is_file():
        return []
    predictions, scores = read_predictions(path, validation, only_known=True)
    if not len(scores) or scores[0] < _SILENT:
        seen = f"the best of {len(scores)} detections has a score of {scores[0] if len(scores) else 0:.2g}"
        cause = "the model fires nowhere: it has learned nothing yet, or its frames are not those of its training"
        fix = "more training.epochs, a higher training.learning_rate, or look at the frames (processor)"
        return [Finding("silent_head", seen, cause, fix)]
    references = reference_segments(validation)
    best = _best(predictions, _DETECTIONS * len(references.labels))
    found = _of_confusion(best, references, validation.label_names) or _of_clock(best, references)
    if not found:
        found = _of_metrics(path.parent)
    return found


def _of_log(log: list[dict[str, Any]], recipe: Recipe) -> list[Finding]:
    found, rate = [], recipe.training.learning_rate
    skipped = sum(entry.get("skipped_steps", 0) for entry in log)
    losses = [entry["loss"] for entry in log if is_number(entry.get("loss"))]
    if len(losses) < len(log) or skipped > 0:
        found.append(
            Finding(
                "not_finite",
                f"{skipped:g} steps were skipped in {len(log)} epochs; {len(log) - len(losses)} epochs have no loss",
                "the learning rate is too high, the precision too low, or some videos or annotations are damaged",
                f"training.learning_rate={rate / 3:.1g}, more training.warmup_epochs, training.mixed_precision=no",
            )
        )
    if len(losses) >= _EPOCHS:
        if losses[-1] > _RISE * min(losses) and losses[-1] > losses[0] * _STAYED:
            least = int(np.argmin(losses))
            seen = f"the loss was {losses[least]:.3g} in epoch {least + 1} and is {losses[-1]:.3g} at the end"
            fix = f"training.learning_rate={rate / 3:.1g}, and the backbone's in proportion"
            found.append(Finding("diverged", seen, "the learning rate is too high", fix))
        elif min(losses) > _STAYED * losses[0]:
            seen = f"the loss is {losses[-1]:.3g} after {len(losses)} epochs, and was {losses[0]:.3g} after the first"
            cause = "the learning rate is too low or far too high, or what should learn is frozen"
            found.append(Finding("not_learning", seen, cause, "training.learning_rate, freeze: see the other findings"))
    errors = [entry["reconstruction_error"] for entry in log if is_number(entry.get("reconstruction_error"))]
    if errors and max(errors) > _INEXACT:
        seen = f"the relative error of the inversion reaches {max(errors):.1e}"
        cause = "coefficients near 0 or a low precision: gradients are wrong"
        found.append(Finding("inversion", seen, cause, "model.backprop=checkpoint, or training.mixed_precision=no"))
    return found


def _of_weights(model: Path) -> list[Finding]:
    bad = []
    for path in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                bad += [name for name in file.keys() if is_infinite(file.get_tensor(name))]  # noqa: SIM118
        except Exception as error:  # the library's own class, which is no usual one
            raise ValueError(f"{path} is damaged ({error}): restore it, or train again.") from error
    if not bad:
        return []
    cause = "the training has diverged, or the file is damaged"
    fix = "train again with a lower training.learning_rate, or take an earlier model"
    return [Finding("not_finite_weights", f"{some(bad)} tensors of {model.name}/ hold NaN or infinity", cause, fix)]


def _of_config(model: Path, recipe: Recipe) -> list[Finding]:
    """In what the saved model differs from the recipe beside it."""
    config = Re2TALConfig.from_pretrained(model)
    wanted = Re2TALConfig(**{name: value for name, value in recipe.model.items() if name in vars(config)})
    names = ("rewiring", "backbone_config", "head_config")
    changed = [
        f"model.{name} is {getattr(wanted, name)!r} in the recipe and {getattr(config, name)!r} in {model.name}/"
        for name in names
        if name in recipe.model and getattr(wanted, name) != getattr(config, name)
    ]
    path = model / "video_preprocessor_config.json"
    saved = read_json(path) if path.is_file() else {}
    asked = Re2TALVideoProcessor(**recipe.processor).to_dict()
    changed += [
        f"processor.{name} is {asked[name]!r} in the recipe and {saved[name]!r} in {model.name}/"
        for name in ("frame_rate", "num_frames", "sampling", "image_mean", "image_std", "rescale_factor", "size")
        if name in saved and name in asked and not _alike(asked[name], saved[name])
    ]
    if not changed:
        return []
    cause = "the model is of another training, or its files were changed: the weights get other inputs than they know"
    return [Finding("changed_model", "; ".join(changed)[:500], cause, "restore the files, or train again")]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(one.get(name) == other.get(name) for name in one.keys() | other.keys())
    return bool(np.allclose(one, other)) if not isinstance(one, str) else one == other


def _best(predictions: Segments, number: int) -> Segments:
    return Segments(*(column[:number] for column in predictions))


def _overlaps(predictions: Segments, references: Segments, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The largest tIoU of each action with a detection of its video, of any class, and that detection; -1 for none."""
    overlaps, which = np.zeros(len(references.labels)), np.full(len(references.labels), -1)
    for video in np.unique(references.videos):
        actions, rows = np.flatnonzero(references.videos == video), np.flatnonzero(predictions.videos == video)
        if len(rows):
            found = temporal_iou(
                about_points(references.times[actions]), about_points(factor * predictions.times[rows])
            )
            overlaps[actions], which[actions] = found.max(axis=1), rows[found.argmax(axis=1)]
    return overlaps, which


def _of_confusion(predictions: Segments, references: Segments, names: list[str]) -> list[Finding]:
    """Classes that are found in time and called by the name of another, each by the same."""
    overlaps, which = _overlaps(predictions, references)
    paired = overlaps >= _SAME
    if paired.sum() < _LEAST_PAIRS:
        return []
    table = np.zeros((len(names), len(names)))
    np.add.at(table, (references.labels[paired], predictions.labels[which[paired]]), 1)
    right, exchanged, left = float(np.trace(table)), 0.0, table.copy()
    told = []
    while left.max() > 0:
        truth, called = np.unravel_index(int(left.argmax()), left.shape)
        exchanged += left[truth, called]
        if truth != called:
            told.append(f"{names[truth]} is called {names[called]} ({left[truth, called]:g})")
        left[truth, :] = left[:, called] = 0
    if exchanged < _AGREES * paired.sum() or right > exchanged / 2:
        return []
    return [
        Finding(
            "shuffled_classes",
            f"of {int(paired.sum())} actions that are found in time {right:g} have the right class, and "
            f"{exchanged:g} with classes exchanged: {', '.join(told[:5])}",
            "the classes of the model or of one subset are in another order than their names",
            "give both subsets the same names and numbers (label, label_id), id2label of config.json as in training",
        )
    ]


def _of_clock(predictions: Segments, references: Segments) -> list[Finding]:
    """Times that only agree once they are multiplied."""
    here = float((_overlaps(predictions, references)[0] >= _SAME).mean())
    found = {factor: float((_overlaps(predictions, references, factor)[0] >= _SAME).mean()) for factor in _FACTORS}
    factor = max(found, key=found.__getitem__)
    if found[factor] < max(_AGREES, 2 * here, _LEAST_PAIRS / len(references.labels)):
        return []
    seen = f"detections find {here:.0%} of the actions, and {found[factor]:.0%} with times multiplied by {factor:.3g}"
    cause = "annotations and detections count another frame rate or unit"
    return [Finding("scaled_times", seen, cause, "write times in seconds of these files into data.annotations")]


def _of_metrics(model: Path) -> list[Finding]:
    path = model / METRICS
    metrics = read_json(path) if path.is_file() else {}
    value = metrics.get("map") if isinstance(metrics, dict) else None
    if not isinstance(value, int | float) or value >= _NO_MAP:  # NaN is not
        return []
    seen = (
        f"mAP is {value:.4g} after epoch {metrics.get('epoch')}, and detections have neither another clock nor classes"
    )
    cause = "the model has not learned; see the other findings"
    return [Finding("zero_map", seen, cause, "`re2tal diagnose` says what the detections are; train longer")]
