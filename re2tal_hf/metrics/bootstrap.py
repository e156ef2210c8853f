"""The bootstrap over videos (Efron, 1979): how far an mAP, or a difference, depends on which videos there are."""

from __future__ import annotations

import numpy as np

from .tal_map.tal_map import Segments, true_positives

Array = np.ndarray


def resampled_videos(num_videos: int, num_resamples: int, seed: int = 0) -> Array:
    """Draws as many videos as there are, with replacement.

    Two runs on the same videos that are measured by the same draws are compared in pairs.

    Returns:
        int64 [num_resamples, num_videos], how often each video was drawn.
    """
    drawn = np.random.default_rng(seed).multinomial(num_videos, [1 / num_videos] * num_videos, size=num_resamples)
    return drawn.astype(np.int64)


def resampled_map(predictions: Segments, references: Segments, thresholds: Array, draws: Array) -> Array:
    """The mAP of each draw of videos, as if a video drawn twice were two videos.

    Takes what [`resampled_precisions`] takes.

    Returns:
        float64 [R], mean over the thresholds of the mean over the classes that have an action in the draw; NaN where
        none has.
    """
    return mean_over_classes(resampled_precisions(predictions, references, thresholds, draws)).mean(0)


def resampled_precisions(predictions: Segments, references: Segments, thresholds: Array, draws: Array) -> Array:
    """The average precision of each annotated class in each draw of videos.

    Args:
        predictions: Best first; the numbers of their videos are columns of `draws`.
        references: The ground truth.
        thresholds: float64 [T], temporal IoU.
        draws: int64 [R, V], how often each draw has each video.

    Returns:
        float64 [T, C, R], classes in the order of their ids; NaN where the draw has no action of the class.
    """
    hits = true_positives(predictions, references, thresholds)
    class_ids = np.unique(references.labels)
    precisions = np.full((len(thresholds), len(class_ids), len(draws)), np.nan)
    for column, class_id in enumerate(class_ids):
        actions = draws[:, references.videos[references.labels == class_id]].sum(1)
        of_class = predictions.labels == class_id
        weights = draws[:, predictions.videos[of_class]]
        ranks = weights.cumsum(1)
        for row, hit in enumerate(hits[:, of_class]):
            found = _average_precision(weights * hit, ranks, actions)
            precisions[row, column] = np.where(actions > 0, found, np.nan)
    return precisions


def mean_over_classes(precisions: Array) -> Array:
    """float64 [T, R] from [T, C, R]: of the classes that are no NaN, and NaN where all are."""
    there = ~np.isnan(precisions)
    totals, counts = np.where(there, precisions, 0.0).sum(1), there.sum(1)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _average_precision(found: Array, ranks: Array, actions: Array) -> Array:
    """[R], from int64 [R, N] true positives and ranks of the predictions, best first, and [R] actions."""
    precision = found.cumsum(1) / np.maximum(ranks, 1)
    interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (found * interpolated).sum(1) / np.maximum(actions, 1)


def interval(values: Array, share: float = 0.95) -> tuple[float, float]:
    """Returns the bounds between which the given share of the draws lies."""
    low, high = np.nanquantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
