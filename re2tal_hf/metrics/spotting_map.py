"""Mean average precision of action spotting, where an action is a point in time, as SoccerNet defines it.

The rules are those of its evaluation (`average_mAP` in `SoccerNet/Evaluation/ActionSpotting.py` of
github.com/SoccerNet/SoccerNet): times fall on a grid of two frames a second; by rising time each action takes, of the
detections of its class at most half a tolerance away that no other has taken, the one of the highest score; precision
and recall are taken at 200 thresholds of the score, AP at 11 values of recall; the mean over tolerances is the area
under their curve. Tight tolerances are 1 to 5 s, loose ones 5 to 60 s.

It differs in three things. A video is a video, where SoccerNet has halves of a match, of two hours at most. Classes
without an action are left out, where there they count as 0. Of detections of one class in one frame the best counts,
where there the last in the file does. Actions not shown count as all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .tal_map.tal_map import Segments

TIGHT = (1, 2, 3, 4, 5)
LOOSE = tuple(range(5, 65, 5))
FRAME_RATE = 2
SCORE_THRESHOLDS = np.linspace(0, 1, 200)
RECALLS = np.arange(11) / 10

Array = np.ndarray

# Seconds of the segments about points by which their errors are told apart, and the tIoU of two whose points are half
# a tight tolerance from each other, from 5 s to 1 s: 0.5 to 0.875. At 6.1 s it is 0.1, the least that is near.
POINT_LENGTH = 1.5 * TIGHT[-1]
TOLERANCES_AS_TIOU = tuple((2 * POINT_LENGTH - width) / (2 * POINT_LENGTH + width) for width in reversed(TIGHT))


def about_points(times: Array) -> Array:
    """Segments of `POINT_LENGTH` about points in time, for what measures segments.

    Args:
        times: float64 [N, 2]; what has a length stays as it is.
    """
    widths = np.where(times[:, :1] == times[:, 1:], POINT_LENGTH, 0.0)
    return times + widths * np.array([-0.5, 0.5])


def spotting_map(predictions: Segments, scores: Array, references: Segments, label_names: list[str]) -> dict[str, Any]:
    """Measures detections of points in time; of segments, the middle is the point.

    Args:
        predictions: Of many videos.
        scores: float64 [N]; negative ones are no detections.
        references: The ground truth.
        label_names: By class id.

    Returns:
        `map` and `loose_map`, the average over tight and over loose tolerances; `map@<seconds>` of each tolerance;
        `per_class` and `loose_per_class`, the averages by label name.
    """
    tolerances = sorted({*TIGHT, *LOOSE})
    class_ids = np.unique(references.labels)
    once = np.ones((1, max(predictions.videos.max(initial=-1), references.videos.max(initial=-1)) + 1), np.int64)
    ap = resampled_precisions(predictions, scores, references, tolerances, once)[:, :, 0]
    averages: dict[str, Any] = {}
    for kind, chosen in (("", TIGHT), ("loose_", LOOSE)):
        of_class = average(ap[[tolerances.index(tolerance) for tolerance in chosen]])
        averages[f"{kind}map"] = float(of_class.mean()) if len(class_ids) else float("nan")
        names = (label_names[label] for label in class_ids)
        averages[f"{kind}per_class"] = dict(zip(names, of_class.tolist(), strict=True))
    each = {f"map@{tolerance}": float(ap[i].mean()) for i, tolerance in enumerate(tolerances) if len(class_ids)}
    return {"map": averages.pop("map"), "loose_map": averages.pop("loose_map"), **each, **averages}


def average(values: Array) -> Array:
    """The area under a curve [T, ...] over equally spaced tolerances, by the trapezoidal rule, divided by its width."""
    return ((values[1:] + values[:-1]) / 2).mean(axis=0)


def resampled_precisions(
    predictions: Segments, scores: Array, references: Segments, tolerances: Sequence[int], draws: Array
) -> Array:
    """The average precision of each annotated class in each draw of videos, as if one drawn twice were two.

    Args:
        predictions: Of videos whose numbers are columns of `draws`.
        scores: float64 [N]; negative ones are no detections.
        references: The ground truth.
        tolerances: Whole seconds.
        draws: int64 [R, V], how often each draw has each video.

    Returns:
        float64 [T, C, R], classes in the order of their ids; NaN where the draw has no action of the class.
    """
    class_ids = np.unique(references.labels)
    precisions = np.empty((len(tolerances), len(class_ids), len(draws)))
    for column, label in enumerate(class_ids):
        precisions[:, column] = _class_precisions(predictions, scores, references, label, tolerances, draws)
    return precisions


def _class_precisions(
    predictions: Segments, scores: Array, references: Segments, label: int, tolerances: Sequence[int], draws: Array
) -> Array:
    """The AP of one class, float64 [T, R]."""
    actions = np.unique(_on_grid(references.videos, references.times)[references.labels == label], axis=0)
    own = (predictions.labels == label) & (scores >= 0)
    found = _on_grid(predictions.videos, predictions.times)[own]
    # Of a frame the best; then by video and time.
    order = np.lexsort((-scores[own], found[:, 1], found[:, 0]))
    found, first = np.unique(found[order], axis=0, return_index=True)
    values = scores[own][order][first]
    # As floats, which are multiplied much faster.
    weights = draws.astype(np.float64)
    numbers = weights[:, actions[:, 0]].sum(1)
    counts = weights @ _kept(found[:, 0], values, draws.shape[1])
    precisions = []
    for tolerance in tolerances:
        hits = np.zeros(len(found), bool)
        for video in np.unique(actions[:, 0]):
            rows, times = found[:, 0] == video, actions[actions[:, 0] == video, 1]
            hits[rows] = _taken(found[rows, 1], values[rows], times, tolerance * FRAME_RATE / 2)
        right = weights @ _kept(found[hits, 0], values[hits], draws.shape[1])
        precisions.append(_eleven_point_precision(counts, right, numbers))
    return np.array(precisions)


def _on_grid(videos: Array, times: Array) -> Array:
    """int64 [N, 2]: video, and frame of the middle."""
    return np.stack([videos, np.floor(times.mean(axis=1) * FRAME_RATE)], 1).astype(np.int64)


def _taken(frames: Array, scores: Array, actions: Array, reach: float) -> Array:
    """Which of the detections of a video, by rising time, its actions take: bool [N]."""
    taken = np.zeros(len(frames), bool)
    bounds = zip(
        np.searchsorted(frames, actions - reach, "left"), np.searchsorted(frames, actions + reach, "right"), strict=True
    )
    for first, last in bounds:
        free = np.where(taken[first:last], -1.0, scores[first:last])
        if len(free) and free.max() >= 0:
            taken[first + free.argmax()] = True
    return taken


def _kept(videos: Array, scores: Array, num_videos: int) -> Array:
    """How many detections of each video reach each of `SCORE_THRESHOLDS`: float64 [V, 200]."""
    reached = np.zeros((num_videos, len(SCORE_THRESHOLDS) + 1))
    np.add.at(reached, (videos, np.searchsorted(SCORE_THRESHOLDS, scores, "right")), 1)
    return reached[:, :0:-1].cumsum(1)[:, ::-1]


def _eleven_point_precision(counts: Array, right: Array, numbers: Array) -> Array:
    """Mean over recalls 0, 0.1, ... 1 of the best precision at any threshold of the score with as much recall.

    Args:
        counts: float64 [R, 200], of the detections that are kept at each threshold.
        right: Of those among them that find an action.
        numbers: float64 [R], of actions.

    Returns:
        float64 [R]; NaN without an action.
    """
    precision, recall = right / np.maximum(counts, 1), right / np.maximum(numbers, 1)[:, None]
    best = [np.where(recall >= least, precision, 0.0).max(1) for least in RECALLS]
    return np.where(numbers > 0, np.mean(best, axis=0), np.nan)
