"""What is wrong with detections: kinds of errors, what each costs, what is missed, which classes are confused.

The kinds of false positives are those of DETAD (Alwassel et al., "Diagnosing Error in Temporal Action Detectors", ECCV
2018), and so is the cost of a kind: how much the mAP would rise without its detections. That missed actions have a
cost, too, is of TIDE (Bolya et al., ECCV 2020). Arrays: `N` detections, best first, `G` actions, `T` thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

if __package__:
    from .tal_map import Segments, curve_of_ranks, matches, temporal_iou
else:  # in the metric's Space, where the files lie flat
    from tal_map import Segments, curve_of_ranks, matches, temporal_iou  # type: ignore[no-redef]

Array = np.ndarray

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
"""Of detections: the first that fits is the kind of a false positive; see `error_kinds`."""
# Below it a detection has nothing to do with an action.
NEAR = 0.1
# Of the best detections, as many times as there are actions.
MULTIPLES = range(1, 11)
NUM_GROUPS = 5
NUM_BINS = 10


@dataclass(frozen=True)
class Matching:
    """Detections beside the actions of the same videos.

    Attributes:
        predictions: Best first.
        scores: float64 [N].
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.
        matched: int64 [T, N], the action that a detection finds; -1 for false positives.
        kinds: int64 [T, N], positions in `KINDS`.
    """

    predictions: Segments
    scores: Array
    references: Segments
    thresholds: Array
    matched: Array
    kinds: Array

    @property
    def missed(self) -> Array:
        """Returns bool [T, G], True where no detection finds an action."""
        missed = np.ones((len(self.thresholds), len(self.references.labels)), bool)
        for row, found in zip(missed, self.matched, strict=True):
            row[found[found >= 0]] = False
        return missed

    def map(self, kept: Array | None = None, counted: Array | None = None) -> float:
        """Returns the mAP, mean over classes and thresholds.

        Args:
            kept: bool [T, N], detections that there are; by default all.
            counted: bool [T, G], actions that there are; by default all.
        """
        precisions = self.average_precisions(kept, counted)
        there = ~np.isnan(precisions)
        counts = there.sum(1)
        totals = np.where(there, precisions, 0.0).sum(1)
        return float(np.divide(totals, counts, out=np.zeros(len(totals)), where=counts > 0).mean())

    def average_precisions(self, kept: Array | None = None, counted: Array | None = None) -> Array:
        """Returns the AP float64 [T, C] of the classes that have actions, ascending; NaN where none of them counts."""
        classes = np.unique(self.references.labels)
        order = np.argsort(self.predictions.labels, kind="stable")
        labels = self.predictions.labels[order]
        starts, ends = (np.searchsorted(labels, classes, side=side) for side in ("left", "right"))
        found = np.full((len(self.thresholds), len(classes)), np.nan)
        for row, matched in enumerate(self.matched):
            there = np.ones(len(order), bool) if kept is None else kept[row, order]
            numbers = np.concatenate([[0], there.cumsum()])  # of detections so far, of all classes
            hits = np.flatnonzero((matched[order] >= 0) & there)
            firsts, lasts = np.searchsorted(hits, starts), np.searchsorted(hits, ends)
            of_class = self.references.labels if counted is None else self.references.labels[counted[row]]
            for column, class_id in enumerate(classes):
                if count := int((of_class == class_id).sum()):
                    ranks = numbers[hits[firsts[column] : lasts[column]] + 1] - numbers[starts[column]]
                    found[row, column] = curve_of_ranks(ranks, count).average_precision
        return found


def match(predictions: Segments, scores: Array, references: Segments, thresholds: Array) -> Matching:
    """Matches detections, best first, with actions by the rule of the metric.

    Args:
        predictions: Best first.
        scores: float64 [N], falling.
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.
    """
    matched = matches(predictions, references, thresholds)
    kinds = error_kinds(predictions, references, thresholds, matched)
    return Matching(predictions, scores, references, thresholds, matched, kinds)


def error_kinds(predictions: Segments, references: Segments, thresholds: Array, matched: Array) -> Array:
    """What each detection is.

    - A true positive finds an action.
    - A double detection overlaps an action of its class enough, which a better one finds.
    - A wrong label overlaps an action of another class enough.
    - Of a localization error an action of its class is near (tIoU of 0.1 and more), but not enough.
    - Of a confusion an action of another class is near.
    - Background has nothing near.

    Args:
        predictions: Best first.
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.
        matched: int64 [T, N], as of `matches`.

    Returns:
        int64 [T, N], positions in `KINDS`.
    """
    own, other = _best_overlaps(predictions, references)
    enough = thresholds[:, None]
    conditions = [matched >= 0, own >= enough, other >= enough]
    conditions += [np.broadcast_to(overlap >= NEAR, matched.shape) for overlap in (own, other)]
    return np.select(conditions, range(5), default=5)


def diagnose(matching: Matching, label_names: Sequence[str], durations: Sequence[float | None]) -> dict[str, Any]:
    """Returns all figures, as a JSON file holds them.

    Args:
        matching: Of all videos.
        label_names: By class id.
        durations: Of each video in seconds; None where it is not known.
    """
    missed = matching.missed
    return {
        "tiou_thresholds": matching.thresholds.tolist(),
        "actions": len(matching.references.labels),
        "detections": len(matching.predictions.labels),
        "map": matching.map(),
        "missed": float(missed.mean()),
        "cost": costs(matching),
        "kinds": shares_of_kinds(matching),
        "sensitivity": sensitivity(matching, durations),
        "confusion_matrix": confusion_matrix(matching, label_names),
        "calibration": calibration(matching),
        "per_class": by_class(matching, label_names),
    }


def costs(matching: Matching) -> dict[str, float]:
    """How much the mAP would rise without the false positives of each kind, and without the actions that are missed."""
    whole = matching.map()
    found = {name: matching.map(kept=matching.kinds != kind) - whole for kind, name in enumerate(KINDS) if kind}
    return {**found, "missed": matching.map(counted=~matching.missed) - whole}


def shares_of_kinds(matching: Matching) -> dict[str, list[float]]:
    """The share of each kind among the best detections, 1 to 10 times as many as there are actions; over thresholds."""
    counts = [multiple * len(matching.references.labels) for multiple in MULTIPLES]
    best = [matching.kinds[:, :count] for count in counts]
    return {
        name: [float((kinds == kind).mean()) if kinds.size else 0.0 for kinds in best]
        for kind, name in enumerate(KINDS)
    }


def sensitivity(matching: Matching, durations: Sequence[float | None]) -> dict[str, list[dict[str, float]]]:
    """How actions of several kinds fare: by length, by the share of the video, and by how many of a class it has.

    Returns:
        For each characteristic its groups, of about as many actions each: the smallest and the largest value in it
        (`low`, `high`), the number of `actions`, the share that is `missed`, and the `map` of these actions alone.
    """
    references = matching.references
    # To a microsecond: equal lengths differ by rounding.
    lengths = np.round(references.times[:, 1] - references.times[:, 0], 6)
    keys = np.stack([references.videos, references.labels], 1)
    _, inverse, numbers = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    values = {"length": lengths, "instances": numbers[inverse.reshape(-1)].astype(float)}
    of_videos = np.array([np.nan if duration is None else duration for duration in durations], float)
    if not np.isnan(of_videos[references.videos]).any():
        values["coverage"] = lengths / of_videos[references.videos]
    return {name: _groups(matching, value) for name, value in values.items()}


def confusion_matrix(matching: Matching, label_names: Sequence[str]) -> dict[str, dict[str, int]]:
    """As what actions are seen: the class of the best detection that overlaps one enough, at the first threshold.

    Returns:
        Class -> class -> number of actions; `""` stands for actions that nothing overlaps enough.
    """
    predictions, references = matching.predictions, matching.references
    found: dict[str, dict[str, int]] = {}
    for video in np.unique(references.videos):
        rows, actions = (np.flatnonzero(table.videos == video) for table in (predictions, references))
        near = temporal_iou(predictions.times[rows], references.times[actions]) >= matching.thresholds[0]
        for column, action in enumerate(actions):
            seen = rows[near[:, column]]
            name = label_names[predictions.labels[seen[0]]] if len(seen) else ""
            row = found.setdefault(label_names[references.labels[action]], {})
            row[name] = row.get(name, 0) + 1
    return {name: found[name] for name in label_names if name in found}


def calibration(matching: Matching) -> dict[str, Any]:
    """How often detections of a score are right, over all thresholds.

    Returns:
        `bins` of a tenth each that hold detections (`score`, their mean, `precision` and their `count`), and `error`,
        the mean distance of both, weighted by the counts.
    """
    numbers = np.clip((matching.scores * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    precision = (matching.matched >= 0).mean(0)
    bins = []
    for number in np.unique(numbers):
        inside = numbers == number
        score, right = float(matching.scores[inside].mean()), float(precision[inside].mean())
        bins.append({"score": score, "precision": right, "count": int(inside.sum())})
    total = sum(entry["count"] for entry in bins)
    error = sum(entry["count"] * abs(entry["score"] - entry["precision"]) for entry in bins) / max(total, 1)
    return {"bins": bins, "error": error}


def by_class(matching: Matching, label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """AP, the share of actions that is missed, and the kinds of as many of the best detections as there are actions."""
    found, missed = {}, matching.missed
    classes = np.unique(matching.references.labels)
    for class_id, precisions in zip(classes, matching.average_precisions().T, strict=True):
        actions = matching.references.labels == class_id
        best = np.flatnonzero(matching.predictions.labels == class_id)[: actions.sum()]
        kinds = matching.kinds[:, best]
        found[label_names[class_id]] = {
            "ap": float(precisions.mean()),
            "actions": int(actions.sum()),
            "missed": float(missed[:, actions].mean()),
            "kinds": {name: float((kinds == kind).mean()) if kinds.size else 0.0 for kind, name in enumerate(KINDS)},
        }
    return found


def by_video(matching: Matching, video_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each video has: actions, the share that is missed, and its share of the best detections by kind.

    Of all detections as many count as there are actions in all videos, the best; kinds are mean numbers over the
    thresholds.
    """
    kinds, missed = matching.kinds[:, : len(matching.references.labels)], matching.missed
    of_videos = matching.predictions.videos[: kinds.shape[1]]
    found = {}
    for number, video_id in enumerate(video_ids):
        actions, best = matching.references.videos == number, of_videos == number
        found[video_id] = {
            "actions": int(actions.sum()),
            "missed": float(missed[:, actions].mean()) if actions.any() else 0.0,
            "kinds": {
                name: float((kinds[:, best] == kind).sum(1).mean()) for kind, name in enumerate(KINDS) if best.any()
            },
        }
    return found


def _best_overlaps(predictions: Segments, references: Segments) -> tuple[Array, Array]:
    """float64 [N] each: a detection's largest tIoU with an action of its class, and with one of another."""
    own, other = np.zeros(len(predictions.labels)), np.zeros(len(predictions.labels))
    for video in np.unique(references.videos):
        rows, actions = (np.flatnonzero(table.videos == video) for table in (predictions, references))
        overlaps = temporal_iou(predictions.times[rows], references.times[actions])
        same = predictions.labels[rows][:, None] == references.labels[actions][None]
        own[rows] = np.where(same, overlaps, 0.0).max(1, initial=0.0)
        other[rows] = np.where(same, 0.0, overlaps).max(1, initial=0.0)
    return own, other


def _groups(matching: Matching, values: Array) -> list[dict[str, float]]:
    """Groups of actions of about equal numbers by a value [G]; equal values stay together."""
    numbers = _group_numbers(values)
    missed, found = matching.missed, []
    for number in np.unique(numbers):
        inside = numbers == number
        # Who finds an action of another group counts neither way.
        kept = (matching.matched < 0) | inside[matching.matched]
        counted = np.broadcast_to(inside, missed.shape)
        found.append(
            {
                "low": float(values[inside].min()),
                "high": float(values[inside].max()),
                "actions": int(inside.sum()),
                "missed": float(missed[:, inside].mean()),
                "map": matching.map(kept, counted),
            }
        )
    return found


def _group_numbers(values: Array) -> Array:
    """The group of each value, int64 [G]: a group ends once it has its share of the values that are left."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    number, size, left = 0, 0, len(values)
    numbers = np.zeros(len(counts), np.int64)
    for position, count in enumerate(counts):
        numbers[position] = number
        size += int(count)
        if size * (NUM_GROUPS - number) >= left:
            number, size, left = number + 1, 0, left - size
    return numbers[inverse.reshape(-1)]
