"""The mAP of action spotting: by hand, and by a slow reading of SoccerNet's rules."""

import json

import numpy as np
import pytest

from re2tal_hf.commands import compare, diagnose
from re2tal_hf.commands.measure import main
from re2tal_hf.data.annotations import AnnotationError, read_annotations
from re2tal_hf.metrics.spotting_map import (
    LOOSE,
    TIGHT,
    TOLERANCES_AS_TIOU,
    about_points,
    average,
    resampled_precisions,
    spotting_map,
)
from re2tal_hf.metrics.tal_map.tal_map import Segments, temporal_iou


def table(rows: list[tuple]) -> Segments:
    rows = np.array([row[:3] for row in rows], float).reshape(-1, 3)
    return Segments(rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, [2, 2]])


def measured(detections: list[tuple], actions: list[tuple], names=("goal", "foul")) -> dict:
    return spotting_map(table(detections), np.array([row[3] for row in detections]), table(actions), list(names))


def test_by_hand():
    # At 10.0 and 20.0 s; the detections are 0.5, 2 and 30 s off, and one is in another video.
    detections = [(0, 0, 10.5, 0.9), (1, 0, 10.0, 0.8), (0, 0, 22.0, 0.7), (0, 0, 50.0, 0.6)]
    found = measured(detections, [(0, 0, 10.0), (0, 0, 20.0)])
    # Half of the tolerance counts: 1 s reaches half a second to either side, 4 s two.
    one, both = 6 / 11, (6 * 1.0 + 5 * 2 / 3) / 11
    by_tolerance = [found[f"map@{tolerance}"] for tolerance in TIGHT]
    assert by_tolerance == pytest.approx([one, one, one, both, both])
    # The ends of the curve weigh half.
    assert found["map"] == pytest.approx((one / 2 + one + one + both + both / 2) / 4)
    # From 5 s on the first is found by the best detection near enough, whichever that is; 30 s away is too far.
    assert found["loose_map"] == pytest.approx(both) and found["per_class"] == {"goal": found["map"]}


def test_each_detection_is_taken_once_and_each_frame_has_one():
    actions = [(0, 0, 10.0), (0, 0, 11.0)]
    assert measured([(0, 0, 10.6, 0.9)], actions)["map@5"] == pytest.approx(6 / 11)
    # Two detections of one frame of half a second are one, of the higher score.
    assert measured([(0, 0, 10.1, 0.9), (0, 0, 10.2, 0.95)], actions[:1])["map@1"] == 1


def test_a_class_without_detections_counts_and_one_without_actions_does_not():
    found = measured([(0, 0, 10.0, 0.9), (0, 1, 10.0, 0.9)], [(0, 0, 10.0)])
    assert found["map"] == 1 and found["per_class"] == {"goal": 1}
    assert measured([(0, 0, 10.0, 0.9)], [(0, 0, 10.0), (0, 1, 10.0)])["per_class"] == {"goal": 1, "foul": 0}
    assert measured([], [(0, 0, 10.0)])["map"] == 0


def test_scores_nearer_than_a_threshold_rank_together():
    # Two hundred thresholds: of 0.1 and 0.1001 none parts the wrong from the right one.
    action = [(0, 0, 10.0)]
    assert measured([(0, 0, 50.0, 0.1001), (0, 0, 10.0, 0.1)], action)["map@1"] == 0.5
    assert measured([(0, 0, 10.0, 0.2), (0, 0, 50.0, 0.1)], action)["map@1"] == 1


def slow(detections: list[tuple], actions: list[tuple], num_videos: int, tolerances) -> float:
    """The rules read off frame by frame, one class."""
    frames = 400
    curve = []
    for tolerance in tolerances:
        scores, right, number = [], [], 0
        for video in range(num_videos):
            score_at = [-1.0] * frames
            for other, _, time, score in detections:
                if other == video:
                    score_at[int(2 * time)] = max(score, score_at[int(2 * time)])
            targets = sorted({int(2 * time) for other, _, time in actions if other == video})
            taken: set[int] = set()
            for target in targets:
                best = None
                for frame in range(frames):
                    near = abs(frame - target) <= 2 * tolerance / 2
                    if near and frame not in taken and score_at[frame] >= 0:
                        best = frame if best is None or score_at[frame] > score_at[best] else best
                if best is not None:
                    taken.add(best)
            number += len(targets)
            scores += [score for score in score_at if score >= 0]
            right += [frame in taken for frame in range(frames) if score_at[frame] >= 0]
        points = []
        for threshold in np.linspace(0, 1, 200):
            kept = [hit for score, hit in zip(scores, right, strict=True) if score >= threshold]
            points.append((sum(kept) / number, sum(kept) / len(kept) if kept else 0.0))
        curve.append(
            sum(max([precision for recall, precision in points if recall >= j / 10], default=0.0) for j in range(11))
            / 11
        )
    return sum((a + b) / 2 for a, b in zip(curve[:-1], curve[1:], strict=True)) / (len(curve) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_against_the_rules(seed):
    draw = np.random.default_rng(seed)
    actions = [(int(draw.integers(3)), 0, float(draw.random() * 190)) for _ in range(14)]
    near = [(video, 0, min(max(time + draw.normal(0, 2), 0), 199), draw.random()) for video, _, time in actions]
    far = [(int(draw.integers(3)), 0, float(draw.random() * 199), float(draw.random())) for _ in range(30)]
    found = measured([*near, *far], actions)
    assert found["map"] == pytest.approx(slow([*near, *far], actions, 3, TIGHT), abs=1e-12)
    assert found["loose_map"] == pytest.approx(slow([*near, *far], actions, 3, LOOSE), abs=1e-12)
    assert 0.05 < found["map"] < found["loose_map"] < 0.99


def test_average_is_trapezoidal():
    assert average(np.array([1.0, 0.5, 0.0])) == 0.5
    assert average(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).tolist() == [0.75, 0.25]


ANNOTATIONS = {
    "database": {
        "a": {
            "subset": "validation",
            "duration": 60.0,
            "annotations": [
                {"segment": [0, 0], "label": "goal"},
                {"segment": [10, 20], "label": "goal"},
                {"segment": [60, 60], "label": "foul"},
                {"segment": [9, 3], "label": "foul"},
            ],
        }
    }
}


@pytest.fixture
def annotations(tmp_path) -> str:
    (tmp_path / "a.json").write_text(json.dumps(ANNOTATIONS), encoding="utf-8")
    return str(tmp_path / "a.json")


def test_annotations_as_points(annotations):
    middle = read_annotations(annotations, points="middle")
    # Those at the very ends of the video are in it; what ends before its start is no action.
    assert middle.points and middle.videos[0].segments.tolist() == [[0, 0], [15, 15], [60, 60]]
    assert middle.counts == {"empty_segment": 1}
    start = read_annotations(annotations, points="start", repair=False)
    assert start.videos[0].segments.tolist() == [[0, 0], [10, 10], [60, 60], [9, 3]]
    segments = read_annotations(annotations)
    assert not segments.points and segments.counts == {"point": 2, "empty_segment": 1}
    with pytest.raises(ValueError, match="exclude each other"):
        read_annotations(annotations, points="start", point_width=1)
    with pytest.raises(ValueError, match="points"):
        read_annotations(annotations, points="end")


def test_points_outside_their_video_are_lost(tmp_path):
    database = {"a": {"subset": "x", "duration": 5.0, "annotations": [{"segment": [6, 6], "label": "goal"}]}}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    with pytest.raises(AnnotationError, match="lie wholly outside their video"):
        read_annotations(tmp_path / "a.json", points="middle")


def test_stored_detections_as_points(annotations, tmp_path, capsys):
    rows = [{"label": "goal", "score": 0.9, "segment": [14, 16]}, {"label": "goal", "score": 0.8, "segment": [0, 0]}]
    detections, output = tmp_path / "d.json", tmp_path / "figures.json"
    detections.write_text(json.dumps({"results": {"a": rows}}), encoding="utf-8")
    options = [str(detections), "--annotations", annotations, "--points", "middle"]
    assert main([*options, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "tight average mAP        0.5000" in printed and "mAP@60                   0.5000" in printed
    assert json.loads(output.read_text(encoding="utf-8"))["loose_per_class"] == {"foul": 0, "goal": 1}
    assert main([*options, "--proposals", "10"]) == 1
    assert "--proposals is of segments" in capsys.readouterr().err


def test_points_are_not_measured_as_segments(tmp_path, capsys):
    action = {"label": "goal", "segment": [14, 16]}
    database = {"a": {"subset": "validation", "duration": 60.0, "annotations": [action]}}
    (tmp_path / "a.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    rows = [{"label": "goal", "score": 0.9, "segment": [15, 15]}]
    detections = tmp_path / "d.json"
    detections.write_text(json.dumps({"results": {"a": rows}}), encoding="utf-8")
    for command, files in ((main, 1), (diagnose.main, 1), (compare.main, 2)):
        assert command([str(detections)] * files + ["--annotations", str(tmp_path / "a.json")]) == 1
        assert "d.json holds points in time, which no segment overlaps" in capsys.readouterr().err


def at(*times: float) -> str:
    """A file of detections of two videos: goals at these times, best first, in the one, and none in the other."""
    rows = [{"label": "goal", "score": 0.9 - number / 10, "segment": [time, time]} for number, time in enumerate(times)]
    return json.dumps({"results": {"a": rows, "b": []}})


@pytest.fixture
def matches(tmp_path) -> list[str]:
    goals = [{"label": "goal", "segment": [time, time]} for time in (10, 20, 30)]
    database = {
        "a": {"subset": "validation", "duration": 60.0, "annotations": goals},
        "b": {"subset": "validation", "duration": 60.0, "annotations": [{"label": "foul", "segment": [9.1, 9.1]}]},
    }
    (tmp_path / "matches.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return ["--annotations", str(tmp_path / "matches.json"), "--points", "middle"]


def test_what_is_wrong_with_points(matches, tmp_path, capsys):
    # Right; near, but 2 s off; twice; of nothing.
    (tmp_path / "d.json").write_text(at(10, 22, 10.5, 50), encoding="utf-8")
    assert diagnose.main([str(tmp_path / "d.json"), *matches]) == 0
    printed = capsys.readouterr().out
    assert "4 actions, 4 detections, mAP 0." in printed and "(points as segments of 7.5 s)" in printed
    figures = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))
    assert figures["tiou_thresholds"] == pytest.approx(TOLERANCES_AS_TIOU)
    kinds = {name: shares[0] for name, shares in figures["kinds"].items() if shares[0]}
    # 2 s are half a tolerance of 4 or 5 s, which are two of five.
    wanted = {"true positive": (5 + 2) / 20, "localization": 3 / 20, "double detection": 5 / 20, "background": 5 / 20}
    assert kinds == pytest.approx(wanted)
    assert figures["missed"] == pytest.approx((2 + 3 / 5) / 4)
    # However rounding differs, points are of one length.
    assert [group["actions"] for group in figures["sensitivity"]["length"]] == [4]
    assert (tmp_path / "diagnosis.png").is_file()


def test_two_runs_of_points(matches, tmp_path, capsys):
    (tmp_path / "first.json").write_text(at(12, 22, 32), encoding="utf-8")
    (tmp_path / "second.json").write_text(at(10, 20, 30), encoding="utf-8")
    files = [str(tmp_path / name) for name in ("first.json", "second.json")]
    assert compare.main([*files, *matches, "--output", str(tmp_path / "compared.json")]) == 0
    assert "The second run's tight mAP is +0.3125" in capsys.readouterr().out
    figures = json.loads((tmp_path / "compared.json").read_text(encoding="utf-8"))
    # Two seconds off: right at tolerances of 4 and 5 s, the last of which weighs half; the class of fouls is missed.
    assert figures["map"]["first"] == pytest.approx(1.5 / 4 / 2) and figures["map"]["second"] == 0.5
    assert figures["map@3"]["difference"] == 0.5 and figures["map@4"]["difference"] == 0
    # Where only one video is drawn twice, its class alone counts: the goals gain 0.625, the fouls nothing.
    assert figures["map"]["interval"] == pytest.approx([0, 0.625])
    assert figures["per_class"]["foul"]["difference"] == 0


def test_draws_of_points_are_sets_of_videos_of_their_own():
    draw = np.random.default_rng(0)
    actions = [(int(draw.integers(3)), int(draw.integers(2)), float(draw.random() * 99)) for _ in range(20)]
    found = [(v, k, min(t + abs(draw.normal(0, 2)), 99), float(draw.random())) for v, k, t in actions]
    scores = np.array([row[3] for row in found])
    draws = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    by_draw = resampled_precisions(table(found), scores, table(actions), TIGHT, draws)
    for column, counts in enumerate(draws):
        copies = [(video, copy) for video, count in enumerate(counts) for copy in range(count)]
        drawn = [
            [(n, *row[1:]) for n, (v, _) in enumerate(copies) for row in rows if row[0] == v]
            for rows in (found, actions)
        ]
        expected = spotting_map(table(drawn[0]), np.array([row[3] for row in drawn[0]]), table(drawn[1]), ["a", "b"])
        there = ~np.isnan(by_draw[0, :, column])
        assert average(by_draw[:, there, column]).tolist() == pytest.approx([*expected["per_class"].values()])


def test_points_half_a_tolerance_apart_overlap_as_much_as_it_asks_for():
    times = np.array([[20.0, 20.0], [21.0, 25.0]])
    segments = about_points(times)
    assert segments.tolist() == [[16.25, 23.75], [21.0, 25.0]]
    for tolerance, least in zip(reversed(TIGHT), TOLERANCES_AS_TIOU, strict=True):
        apart = about_points(times[:1] + tolerance / 2)
        assert temporal_iou(segments[:1], apart)[0, 0] == pytest.approx(least, rel=1e-12)
