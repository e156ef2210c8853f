"""Frame-wise mAP: by hand, and by a slow reading of Charades' rules."""

import numpy as np
import pytest

from re2tal_hf.metrics.frame_map import frame_map, point_precision, spread_times, times_at_rate
from re2tal_hf.metrics.tal_map.tal_map import Segments


def table(rows: list[tuple]) -> Segments:
    rows = np.array([row[:4] for row in rows], float).reshape(-1, 4)
    return Segments(rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2:])


def test_points():
    assert spread_times(10.0, 4).tolist() == [0, 2.5, 5, 7.5]
    assert times_at_rate(1.05, 10).tolist() == pytest.approx(np.arange(11) / 10)
    assert len(times_at_rate(1.0, 10)) == 10


def test_by_hand():
    # Ten points a second apart. The action holds 2, 3 and 4, both ends included; the better detection holds 4 and 5,
    # the other 0 to 4.
    actions = [(0, 0, 2, 4), (0, 1, 2.2, 2.8)]
    detections = [(0, 0, 4, 5, 0.9), (0, 0, 0, 4, 0.5), (0, 1, 0, 9, 0.4)]
    arguments = table(detections), np.array([0.9, 0.5, 0.4]), table(actions), [spread_times(10, 10)], ["run", "blink"]
    # Ranked: 4 (right), 5, then 0, 1, 2 (right), 3 (right).
    expected = (1 + 2 / 5 + 3 / 6) / 3
    found = frame_map(*arguments)
    # The class between two points is at none and does not count.
    assert found["frame_per_class"] == {"run": pytest.approx(expected)}
    assert found["frame_map"] == found["frame_wap"] == pytest.approx(expected) and found["points"] == 10
    # Together the two points of 0.9 are ranked second, the four of 0.5 sixth.
    assert frame_map(*arguments, together=True)["frame_map"] == pytest.approx((1 / 2 + 3 / 6 + 3 / 6) / 3)


def test_points_that_nothing_covers_come_last():
    scores = np.array([-np.inf, -3.0, -np.inf])
    assert point_precision(scores, np.array([False, False, True])) == pytest.approx(1 / 3)
    assert point_precision(scores, np.array([True, False, False])) == pytest.approx(1 / 2)
    assert point_precision(scores, np.array([True, False, False]), together=True) == pytest.approx(1 / 3)


def slow(detections, actions, lengths, label, count=25) -> float:
    points = []
    for video, length in enumerate(lengths):
        for number in range(count):
            time = number / count * length
            covering = [row[4] for row in detections if row[:2] == (video, label) and row[2] <= time <= row[3]]
            there = any(row[:2] == (video, label) and row[2] <= time <= row[3] for row in actions)
            points.append((max(covering, default=-np.inf), there))
    found, precisions = 0, []
    for rank, (_, there) in enumerate(sorted(points, key=lambda point: -point[0]), start=1):
        if there:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / found


@pytest.mark.parametrize("seed", range(3))
def test_against_the_rules(seed):
    draw = np.random.default_rng(seed)
    lengths = [20.0, 31.5, 7.0]

    def rows(count: int) -> list[tuple]:
        videos, labels = draw.integers(0, 3, count).tolist(), draw.integers(0, 2, count).tolist()
        starts = draw.random(count) * 20
        return list(zip(videos, labels, starts.tolist(), (starts + draw.random(count) * 8).tolist(), strict=True))

    actions, scores = rows(12), np.sort(draw.integers(1, 20, 60) / 20)[::-1]
    detections = [(*row, score) for row, score in zip(rows(60), scores, strict=True)]
    times = [spread_times(length, 25) for length in lengths]
    found = frame_map(table(detections), scores, table(actions), times, ["a", "b"])
    expected = [slow(detections, actions, lengths, label) for label in (0, 1)]
    assert list(found["frame_per_class"].values()) == pytest.approx(expected, abs=1e-12)
    assert found["frame_map"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_together_is_the_area_under_the_thresholds():
    draw = np.random.default_rng(5)
    scores, there = draw.integers(0, 6, 200) / 5, draw.random(200) < 0.3
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = scores >= threshold
        recall = (kept & there).sum() / there.sum()
        area += (recall - before) * (kept & there).sum() / kept.sum()
        before = recall
    assert point_precision(scores, there, together=True) == pytest.approx(area, abs=1e-12)
