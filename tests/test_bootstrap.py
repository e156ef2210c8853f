import numpy as np
import pytest

from re2tal_hf.metrics.bootstrap import interval, resampled_map, resampled_videos
from re2tal_hf.metrics.tal_map.tal_map import Segments, precision_recall_curves, true_positives

THRESHOLDS = np.array([0.3, 0.5, 0.7])


def random_segments(random, num_videos, per_video, num_classes=3):
    count = num_videos * per_video
    starts = random.uniform(0, 20, count)
    times = np.stack([starts, starts + random.uniform(1, 8, count)], axis=1)
    return Segments(np.repeat(np.arange(num_videos), per_video), random.integers(0, num_classes, count), times)


def written_out(segments, draw):
    """The segments of the videos as often as each was drawn, each time as a video of its own, in the same order."""
    repeats = draw[segments.videos]
    copies = np.concatenate([np.arange(count) for count in repeats])
    rows = np.repeat(np.arange(len(repeats)), repeats)
    return Segments(segments.videos[rows] * 100 + copies, segments.labels[rows], segments.times[rows])


def mean_ap(predictions, references):
    curves = precision_recall_curves(
        true_positives(predictions, references, THRESHOLDS), predictions.labels, references.labels
    )
    return np.mean([[curve.average_precision for curve in row] for row in curves.values()])


def test_a_draw_measures_as_the_videos_written_out():
    random = np.random.default_rng(3)
    predictions, references = random_segments(random, 6, 30), random_segments(random, 6, 3)
    order = random.permutation(len(predictions.labels))
    predictions = Segments(*(column[order] for column in predictions))
    draws = np.concatenate([np.ones((1, 6), np.int64), resampled_videos(6, 20, seed=1)])
    found = resampled_map(predictions, references, THRESHOLDS, draws)
    expected = [mean_ap(written_out(predictions, draw), written_out(references, draw)) for draw in draws]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == pytest.approx(mean_ap(predictions, references), abs=1e-12)


def test_a_draw_without_actions_has_no_map():
    references = Segments(np.array([1]), np.array([0]), np.array([[0.0, 1.0]]))
    found = resampled_map(references, references, THRESHOLDS, np.array([[2, 0], [0, 2]]))
    assert np.isnan(found[0])
    assert found[1] == 1.0
    assert interval(found) == (1.0, 1.0)


def test_draws_have_as_many_videos_as_there_are_and_are_those_of_their_seed():
    draws = resampled_videos(7, 50, seed=2)
    assert (draws.sum(1) == 7).all()
    assert (draws == resampled_videos(7, 50, seed=2)).all()
    assert (draws != resampled_videos(7, 50, seed=3)).any()
