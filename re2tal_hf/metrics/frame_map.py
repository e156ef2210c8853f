"""Mean average precision over points in time, as Charades and MultiTHUMOS have it.

The rules are those of the evaluation that Charades ships (`Charades_v1_localize.m`): a class is there between the start
and the end of an action, both included, at 25 points of each video; the AP of a class is the mean precision at its
points, not interpolated. Tables of MultiTHUMOS take points at a rate instead. A detection gives its score to the points
that it covers, and the best counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .tal_map.tal_map import Segments

Array = np.ndarray


def spread_times(duration: float, count: int) -> Array:
    """Returns float64 [count], equally spaced from the start of a video; its end is none of them."""
    return np.arange(count) / count * duration


def times_at_rate(duration: float, rate: float) -> Array:
    """Returns float64 [P], the start of a video and then `rate` points a second, before its end."""
    return np.arange(int(np.ceil(duration * rate))) / rate


def frame_map(
    predictions: Segments,
    scores: Array,
    references: Segments,
    times: Sequence[Array],
    label_names: Sequence[str],
    together: bool = False,
) -> dict[str, Any]:
    """Measures detections at points in time.

    Args:
        predictions: Best first.
        scores: float64 [N], falling.
        references: The ground truth.
        times: Of each video float64 [P], seconds, rising.
        label_names: By class id.
        together: Points of equal scores are found together, so that their order does not count (as in scikit-learn).
            By default they rank in the order of the videos and of time, as in Charades' evaluation.

    Returns:
        `frame_map`, the mean over the classes that are at some point; `frame_wap`, their mean weighted by the number of
        points; `frame_per_class`, AP by label name; `points`, their number.
    """
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in times])]).astype(np.int64)
    covered, actions = (_covered_points(table, times, offsets) for table in (predictions, references))
    found, numbers = {}, []
    for class_id in np.unique(references.labels):
        there = np.zeros(offsets[-1], bool)
        for first, last in actions[references.labels == class_id]:
            there[first:last] = True
        if not there.any():
            continue
        best = np.full(offsets[-1], -np.inf)
        own = np.flatnonzero(predictions.labels == class_id)[::-1]  # the best is written last
        for (first, last), score in zip(covered[own], scores[own], strict=True):
            best[first:last] = score
        found[label_names[class_id]] = point_precision(best, there, together)
        numbers.append(int(there.sum()))
    values = np.array(list(found.values()))
    return {
        "frame_map": float(values.mean()) if found else float("nan"),
        "frame_wap": float(np.average(values, weights=numbers)) if found else float("nan"),
        "frame_per_class": found,
        "points": int(offsets[-1]),
    }


def point_precision(scores: Array, there: Array, together: bool = False) -> float:
    """The AP of one class: float64 [P] scores, bool [P] where it is, at one point or more."""
    order = np.argsort(-scores, kind="stable")
    hits, ranked = there[order], -scores[order]
    ranks = np.searchsorted(ranked, ranked, side="right") if together else np.arange(1, len(order) + 1)
    precision = hits.cumsum()[ranks - 1] / ranks
    return float(precision[hits].mean())


def _covered_points(segments: Segments, times: Sequence[Array], offsets: Array) -> Array:
    """int64 [N, 2]: the first point of a segment among those of all videos, and the one after its last."""
    found = np.zeros((len(segments.labels), 2), np.int64)
    for video in np.unique(segments.videos):
        rows = segments.videos == video
        starts, ends = segments.times[rows].T
        bounds = [np.searchsorted(times[video], starts, "left"), np.searchsorted(times[video], ends, "right")]
        found[rows] = offsets[video] + np.stack(bounds, 1)
    return found
