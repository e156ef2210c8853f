"""Stored detections beside their annotations, as the tables that the metric measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.annotation_records import clean_label
from ..data.annotation_set import AnnotationSet
from ..data.json_files import read_json, some
from ..data.subsets import check_actions
from .spotting_map import TOLERANCES_AS_TIOU, about_points
from .tal_map.tal_map import Segments

FORM = '{"results": {video_id: [{"label", "score", "segment": [start, end]}]}}'


def read_predictions(path: Path, annotations: AnnotationSet, only_known: bool = False) -> tuple[Segments, np.ndarray]:
    """Reads a `detections.json`, as `re2tal evaluate` and trainings write them.

    Args:
        path: The file.
        annotations: Of the videos that are measured; give the numbers of videos and classes.
        only_known: Leave out classes that the annotations have not, which by default are an error.

    Returns:
        Segments, best first, equal scores in the order of the annotated videos; float64 [N] their scores.

    Raises:
        ValueError: The file is of another form, has videos or classes that the annotations have not, or points in time
            where these have segments.
        OSError: It cannot be read.
    """
    content = read_json(path, FORM)
    found = content.get("results") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
        raise ValueError(f"{path} is not of the form {FORM}.")
    numbers = {video.video_id: number for number, video in enumerate(annotations.videos)}
    if strangers := sorted(found.keys() - numbers.keys()):
        raise ValueError(
            f"{path} has {len(strangers)} videos that are not in the annotated subset ({some(strangers)}): "
            "give the annotations and the subset that the run was measured by."
        )
    videos = sorted(found, key=numbers.__getitem__)
    names, scores, times = _columns(path, [row for video in videos for row in found[video]])
    if len(times) and (times[:, 0] == times[:, 1]).all() and not annotations.points:
        raise ValueError(
            f"{path} holds points in time, which no segment overlaps: give --points middle (or start), by which the "
            "annotations are points, too."
        )
    ids = {name: number for number, name in enumerate(annotations.label_names)}
    unknown = sorted(set(names) - ids.keys())
    if unknown and not only_known:
        raise ValueError(f"{path} has classes that the annotations have not ({some(unknown)}); these have {some(ids)}.")
    order = np.argsort(-scores, kind="stable")
    order = order[np.array([name in ids for name in names], bool)[order]]
    of_videos = np.repeat([numbers[video] for video in videos], [len(found[video]) for video in videos])
    labels = np.array([ids.get(name, -1) for name in names], np.int64)
    return Segments(of_videos.astype(np.int64)[order], labels[order], times[order]), scores[order]


def reference_segments(annotations: AnnotationSet) -> Segments:
    """The annotated actions.

    Raises:
        AnnotationError: There is none.
    """
    check_actions(annotations, "that is measured")
    videos = annotations.videos
    return Segments(
        np.repeat(np.arange(len(videos)), [len(video.labels) for video in videos]),
        np.concatenate([video.labels for video in videos]).astype(np.int64),
        np.concatenate([video.segments for video in videos]).astype(np.float64),
    )


class Compared(NamedTuple):
    """Detections and actions as segments, for what tells errors apart; see [`read_as_segments`]."""

    predictions: Segments
    scores: np.ndarray
    references: Segments
    thresholds: np.ndarray


def read_as_segments(
    path: Path, annotations: AnnotationSet, thresholds: Sequence[float], only_known: bool = False
) -> Compared:
    """Reads a `detections.json` beside its annotations; points in time, and the middles of what is found, as segments.

    Args:
        path: The file.
        annotations: Of the videos that are measured.
        thresholds: tIoU from which a detection is right. Of points, those of SoccerNet's tight tolerances are taken.
        only_known: As for [`read_predictions`].

    Returns:
        The tables, with thresholds float64 [T].

    Raises:
        ValueError, OSError: as [`read_predictions`].
    """
    predictions, scores = read_predictions(path, annotations, only_known)
    references = reference_segments(annotations)
    if annotations.points:
        middles = np.repeat(predictions.times.mean(1, keepdims=True), 2, axis=1)
        predictions = predictions._replace(times=about_points(middles))
        references = references._replace(times=about_points(references.times))
        thresholds = TOLERANCES_AS_TIOU
    return Compared(predictions, scores, references, np.array(thresholds))


def rows_of(segments: Segments, video_ids: Sequence[str], scores: np.ndarray | None = None) -> list[dict[str, Any]]:
    """The form that the metric takes, one row a video, and its order kept.

    Args:
        segments: Of all videos.
        video_ids: Of video 0, 1, ...
        scores: float64 [N], of predictions.
    """
    order = np.argsort(segments.videos, kind="stable")
    bounds = np.searchsorted(segments.videos[order], np.arange(len(video_ids) + 1))
    found = []
    for number, video_id in enumerate(video_ids):
        own = order[bounds[number] : bounds[number + 1]]
        row = {"video_id": video_id, "segments": segments.times[own], "labels": segments.labels[own]}
        found.append(row if scores is None else row | {"scores": scores[own]})
    return found


def _columns(path: Path, rows: Sequence[Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, float64 [N] scores and float64 [N, 2] segments in seconds."""
    try:
        names = {row["label"]: clean_label(row["label"]) for row in rows}
        scores = np.array([row["score"] for row in rows], np.float64).reshape(len(rows))
        times = np.array([row["segment"] for row in rows], np.float64).reshape(len(rows), 2)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is not of the form {FORM} ({type(error).__name__}: {error}).") from error
    if not (np.isfinite(scores).all() and np.isfinite(times).all()):
        raise ValueError(f"{path} has scores or times that are no finite numbers; measure the run again.")
    return [names[row["label"]] for row in rows], scores, times
