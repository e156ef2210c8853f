"""Detections of a set of videos, and their mAP."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..class_scores import ClassScores
from ..data.annotation_set import AnnotatedVideo, AnnotationSet
from ..data.feature_store import FeatureStore
from ..data.subsets import check_actions
from ..metrics.measurement import measure
from ..metrics.spotting_map import spotting_map
from ..metrics.tal_map.tal_map import segment_tables
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..video_reader import VideoReadError
from .processes import Processes, on_every_process

logger = logging.getLogger(__name__)

Detections = dict[str, list[dict[str, Any]]]
"""What the pipeline returns for a video, by `video_id`."""


def localize_videos(
    pipe: TemporalActionLocalizationPipeline,
    videos: Sequence[AnnotatedVideo],
    processes: Processes | None = None,
    video_scores: Mapping[str, ClassScores] | None = None,
    features: FeatureStore | None = None,
    **settings: Any,
) -> Detections:
    """Runs the pipeline over a set of videos, shared out among the processes of a distributed run.

    A video that cannot be read has no entry in the result and is reported.

    Args:
        pipe: Model and processor.
        videos: Those without a file are left without detections.
        processes: Of a distributed run; what fails on one of them fails on all.
        video_scores: Scores of an external video classifier by `video_id`; see the pipeline.
        features: Of the videos, in place of their frames.
        settings: Passed to the pipeline.

    Returns:
        The detections of all videos in the order of the videos, on every process.

    Raises:
        ValueError: if `video_scores` lacks a video.
    """
    if video_scores is not None and (missing := {v.video_id for v in videos} - video_scores.keys()):
        raise ValueError(f"The video scores lack {len(missing)} videos, for example {min(missing)!r}.")
    videos = [video for video in videos if video.path is not None]
    process, count = (processes.process_index, processes.num_processes) if processes else (0, 1)

    def share() -> Detections:
        found: Detections = {}
        for video in tqdm(videos[process::count], desc="localizing", disable=process > 0, leave=False):
            if video_scores is not None:
                settings["video_scores"] = video_scores[video.video_id]
            try:
                with torch.inference_mode():
                    source = features.source(video) if features else str(video.local_path())
                    found[video.video_id] = pipe(source, **settings)
            except VideoReadError as error:
                logger.warning("%s is left without detections: %s", video.video_id, error)
        return found

    found = on_every_process(processes, share) if processes else share()
    together = {
        name: rows for part in (gather_object([found]) if count > 1 else [found]) for name, rows in part.items()
    }
    return {video.video_id: together[video.video_id] for video in videos if video.video_id in together}


def mean_average_precision(
    detections: Detections, annotations: AnnotationSet, tiou_thresholds: Sequence[float]
) -> dict[str, Any]:
    """Measures detections against annotations with the `tal_map` metric; points in time with `spotting_map`.

    Returns:
        `map`, `map@<tIoU>` for each threshold, `per_class` by label name; of points what `spotting_map` returns.

    Raises:
        AnnotationError: if there is no action to measure by.
    """
    check_actions(annotations, "that is measured")
    names = annotations.label_names
    ids = {name: index for index, name in enumerate(names)}
    references = [
        {"video_id": v.video_id, "segments": v.segments.tolist(), "labels": list(v.labels)} for v in annotations.videos
    ]
    predictions = [
        {
            "video_id": video.video_id,
            "segments": [[row["start"], row["end"]] for row in rows],
            "labels": [ids[row["label"]] for row in rows],
            "scores": [row["score"] for row in rows],
        }
        for video in annotations.videos
        # A class that the annotations do not have counts neither way.
        for rows in [[row for row in detections.get(video.video_id, []) if row["label"] in ids]]
    ]
    if annotations.points:
        found, scores, truth, _ = segment_tables(predictions, references)
        return spotting_map(found, scores, truth, names)
    return measure(predictions, references, names, tiou_thresholds)


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Returns the mAP by threshold (of points by seconds of tolerance) and by class, and their mean, as lines."""
    thresholds = [name for name in metrics if name.startswith("map@")]
    lines = [f"{'mAP@' + name.removeprefix('map@'):24} {metrics[name]:.4f}" for name in thresholds]
    lines += [f"  {label:22} {value:.4f}" for label, value in sorted(metrics["per_class"].items())]
    if "loose_map" in metrics:
        return "\n".join([*lines, f"tight average mAP = {metrics['map']:.4f}, loose {metrics['loose_map']:.4f}"])
    first, last = thresholds[0].removeprefix("map@"), thresholds[-1].removeprefix("map@")
    return "\n".join([*lines, f"average mAP@{first}:{last} = {metrics['map']:.2f}"])
