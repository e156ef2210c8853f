"""What a run was: the machine, the versions and the data, kept beside its results for the model card."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure

from ..backprop_plan import BackpropPlan
from ..data.annotations import AnnotatedVideo, AnnotationSet, hub_dataset
from ..data.durations import Timelines
from ..data.windows import TrainingWindows
from ..version import __version__
from ..video_shard import locate
from .arguments import Recipe
from .feature_settings import describe_features
from .run_folder import MODELS, RunFolder
from .timeline import draw_timeline

TIMELINE_THRESHOLD = 0.3


def describe_run(
    recipe: Recipe,
    model: Any,
    training_videos: Sequence[AnnotatedVideo],
    validation_videos: Sequence[AnnotatedVideo],
    accelerator: Accelerator,
    plan: BackpropPlan | None,
    training_seconds: float,
) -> dict[str, Any]:
    """Returns what `run.json` holds; durations of videos count as far as they are known."""
    record = {
        "versions": {
            "python": platform.python_version(),
            "re2tal_hf": __version__,
            **{name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate")},
        },
        "device": describe_device(accelerator.device),
        "num_processes": accelerator.num_processes,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "backbone_parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "training": _describe_videos(training_videos),
        "validation": _describe_videos(validation_videos),
        "training_seconds": round(training_seconds, 1),
        "hub_dataset": hub_dataset(recipe.data.annotations),
    }
    if recipe.data.features is not None:
        record["features"] = describe_features(recipe.data.features)
    if plan is not None:
        record["backprop_plan"] = plan.to_dict()
    return record


def describe_outcome(folder: RunFolder, recipe: Recipe, criterion: str, usage: str) -> list[str]:
    """Returns three lines on the best model of a run: where it lies, how good it is, and how to use it.

    Args:
        folder: Of the run.
        recipe: Of the run.
        criterion: The metric that is shown.
        usage: The command, with a place for the model.
    """
    for name in MODELS:
        if metrics := folder.read_metrics(name, criterion):
            model = folder.path / name
            imports = "".join(f" --import {shlex.quote(file)}" for file in recipe.imports)
            return [
                f"The model: {model}",
                f"Its {criterion}: {metrics[criterion]:.4f}, after epoch {metrics.get('epoch')} of "
                f"{recipe.training.epochs}",
                f"To use it: {usage.format(model=shlex.quote(str(model)))}{imports}",
            ]
    return []


def identify_data(windows: TrainingWindows, validation_set: AnnotationSet) -> dict[str, Any]:
    """Returns by what to tell whether two runs train and measure on the same data, wherever it lies."""
    return {
        "class names": validation_set.label_names,
        "number of training videos": len(windows.videos),
        "number of training windows": len(windows),
        "digest of the training data": _digest(windows.videos),
        "number of validation videos": len(validation_set.videos),
        "digest of the validation data": _digest(validation_set.videos),
    }


def _digest(videos: Sequence[AnnotatedVideo]) -> str:
    """Of names, sizes and durations of the files and of their annotations."""
    digest = hashlib.sha256()
    for video in videos:
        name = video.path.name if isinstance(video.path, Path) else video.video_id
        location = locate(video.path) if isinstance(video.path, Path) else None
        size = None if location is None else location.size
        duration = None if video.duration is None else round(video.duration, 3)
        found = [name, size, duration, video.segments.round(6).tolist(), list(map(int, video.labels))]
        digest.update(json.dumps(found).encode())
    return digest.hexdigest()[:16]


def describe_device(device: torch.device) -> str:
    """Returns the name of a GPU, or the processor with its cores and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpu_info.read_text(encoding="utf-8", errors="replace").splitlines() if cpu_info.exists() else [])
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"CPU, {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def draw_example(
    annotations: AnnotationSet,
    detections: dict[str, list[dict[str, Any]]],
    timelines: Timelines,
) -> Figure | None:
    """Draws detected and true actions of the video with most of them; None if no video has a detection entry."""
    found = [video for video in annotations.videos if video.video_id in detections and video.path is not None]
    if not found:
        return None
    video = max(found, key=lambda video: len(video.labels))
    duration = timelines.duration(video.local_path())
    truth = [
        {"label": annotations.label_names[label], "start": start, "end": end}
        for label, (start, end) in zip(video.labels, video.segments.tolist(), strict=True)
        if start < end or (video.points and start == end)
    ]
    rows = [row for row in detections[video.video_id] if row["score"] >= TIMELINE_THRESHOLD]
    title = f"{video.video_id}: detections with a score of at least {TIMELINE_THRESHOLD}"
    return draw_timeline(rows, duration=duration, ground_truth=truth, title=title)


def _describe_videos(videos: Sequence[AnnotatedVideo]) -> dict[str, Any]:
    return {
        "videos": len(videos),
        "segments": sum(len(video.labels) for video in videos),
        "seconds": round(sum(video.duration or 0.0 for video in videos), 1),
    }
