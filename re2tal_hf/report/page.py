"""The page of a run: curves, errors, single videos, and what to try next, in one file."""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..data.annotation_set import AnnotationSet
from ..data.html_page import write_html
from ..data.whole_files import written_whole
from ..doctor.run import of_detections, of_run
from ..metrics.spotting_map import TIGHT
from ..metrics.stored_detections import read_as_segments
from ..metrics.tal_map.diagnosis import KINDS, diagnose, match
from ..training.arguments import Recipe
from ..training.evaluation import metrics_table
from ..training.run_folder import DETECTIONS
from ..training.training_run import TrainingRun, read_training_run
from .advice import advice
from .figures import USUAL_TIOU, pictures
from .videos import stories

NAME = "report.html"
_TEMPLATE = Path(__file__).with_suffix(".html")


def write_report(folder: Path, recipe: Recipe, annotations: AnnotationSet, path: Path) -> None:
    """Writes the page of a run, of its best model.

    Args:
        folder: Of the run.
        recipe: Of the run.
        annotations: What it was measured by.
        path: Of the page, which is complete whenever it is there.

    Raises:
        ValueError: if the run has not been measured yet, a file of it is damaged, or it was measured by other videos.
    """
    run = read_training_run(folder)
    tables = read_as_segments(
        run.model_folder / DETECTIONS, annotations, recipe.evaluation.tiou_thresholds, only_known=True
    )
    matching, criteria = match(*tables), _criteria(tables.thresholds, annotations)
    names = annotations.label_names
    figures = diagnose(matching, names, [video.duration for video in annotations.videos])
    place = int(abs(tables.thresholds - USUAL_TIOU).argmin())
    worst, best = stories(annotations, matching, place)
    values: dict[str, Any] = {
        "title": folder.resolve().name,
        "facts": _facts(run),
        "table": metrics_table(run.metrics),
        "pictures": pictures(run.log, matching, figures, names, criteria),
        "classes": [(name, row, _usual_error(row["kinds"])) for name, row in _worst_first(figures["per_class"])],
        "videos": [("Worst videos", worst), ("Best videos", best)],
        "criterion": criteria[place],
        "hues": {name: round(number * 360 / max(len(names), 1)) for number, name in enumerate(names)},
        "shown_labels": [name for name in names if name in figures["per_class"]][:30],
        "advice": advice(run, figures),
        "findings": of_run(recipe, folder) + of_detections(folder, annotations),
        "folder": shlex.quote(str(folder)),
    }
    with written_whole(path) as partial:
        write_html(partial, _TEMPLATE, **values)


def _criteria(thresholds: np.ndarray, annotations: AnnotationSet) -> list[str]:
    """How it is told from which tIoU a detection is right: of points, by SoccerNet's tight tolerances."""
    if annotations.points:
        return [f"tolerance {seconds} s" for seconds in reversed(TIGHT)]
    return [f"tIoU {threshold:g}" for threshold in thresholds]


def _facts(run: TrainingRun) -> list[tuple[str, str]]:
    record, processor = run.record, run.processor
    best = max((entry for entry in run.log if "map" in entry), key=lambda entry: entry["map"], default={})
    facts = [
        ("tight mAP" if run.finds_points else "mAP",
         f"{run.metrics['map']:.3f} after epoch {run.metrics['epoch']} of {run.recipe['training']['epochs']}"),
        *((f"{subset} videos", f"{record[subset].get('videos')} with {record[subset].get('segments')} actions")
          for subset in ("training", "validation")),
        ("training", f"{timedelta(seconds=round(record['training_seconds']))} on {record['device']}"),
        ("memory", f"{max(entry['peak_memory_mib'] for entry in run.log):.0f} MiB at the peak"),
        ("windows", f"{processor.get('num_frames')} frames at {processor.get('frame_rate')} a second"),
        ("recipe", f"{run.recipe['name']}, seed {run.recipe.get('seed')}"),
    ]  # fmt: skip
    if best and len(run.log) < run.recipe["training"]["epochs"]:
        facts.insert(1, ("ended", f"after {len(run.log)} epochs"))
    return facts


def _worst_first(classes: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(classes.items(), key=lambda item: item[1]["ap"])


def _usual_error(kinds: dict[str, float]) -> str:
    worst = max(KINDS[1:], key=kinds.__getitem__)
    return f"{worst} ({kinds[worst]:.0%})" if kinds[worst] else ""
