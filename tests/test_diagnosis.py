"""Kinds of errors, what they cost, and which actions fare badly: by hand, and by a slow reading of the definitions."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from re2tal_hf.commands.diagnose import main
from re2tal_hf.metrics.tal_map.diagnosis import (
    KINDS,
    by_video,
    calibration,
    confusion_matrix,
    costs,
    diagnose,
    match,
    sensitivity,
)
from re2tal_hf.metrics.tal_map.diagnosis_figure import draw_diagnosis
from re2tal_hf.metrics.tal_map.tal_map import Segments, TalMap

NAMES = ["run", "jump"]
# Two videos; times in seconds. The comments say what is what at tIoU 0.5.
ACTIONS = [(0, 0, 0, 10), (0, 1, 20, 30), (1, 0, 0, 4), (1, 0, 50, 60)]
DETECTIONS = [
    (0, 0, 0, 10, 0.9),  # true positive
    (0, 0, 1, 10, 0.8),  # double detection
    (0, 0, 20, 29, 0.7),  # wrong label: the jump
    (1, 0, 0, 12, 0.6),  # localization: tIoU 1/3
    (1, 1, 52, 70, 0.5),  # confusion: 8 of 20 seconds of a run
    (0, 1, 80, 90, 0.4),  # background
    (0, 1, 20, 30, 0.3),  # true positive
]


def table(rows: list[tuple]) -> Segments:
    rows = np.array([row[:4] for row in rows], float).reshape(-1, 4)
    return Segments(rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2:])


def matched(detections=DETECTIONS, thresholds=(0.5,)):
    scores = np.array([row[4] for row in detections], float)
    return match(table(detections), scores, table(ACTIONS), np.array(thresholds))


def test_every_kind():
    found = matched()
    expected = ["true positive", "double detection", "wrong label", "localization", "confusion", "background"]
    assert [KINDS[kind] for kind in found.kinds[0]] == [*expected, "true positive"]
    assert found.missed.tolist() == [[False, False, True, True]]
    # At 0.2 what was a localization error finds its action, and the confusion is a wrong label.
    easier = matched(thresholds=(0.2,))
    assert [KINDS[kind] for kind in easier.kinds[0]][3:5] == ["true positive", "wrong label"]


def test_costs_by_hand():
    found = matched()
    # Runs: 3 actions, one found at rank 1: 1/3. Jumps: one action, found at rank 3 of 3.
    assert found.map() == pytest.approx((1 / 3 + 1 / 3) / 2)
    cost = costs(found)
    # Without the confusion or without the background the jump is at rank 2.
    assert cost["confusion"] == cost["background"] == pytest.approx((1 / 2 - 1 / 3) / 2)
    # Behind the only run that is found they cost nothing.
    assert cost["double detection"] == cost["wrong label"] == cost["localization"] == 0
    # Were the two runs that are missed not there, the AP of runs would be 1.
    assert cost["missed"] == pytest.approx((1 - 1 / 3) / 2)


def test_groups_by_hand():
    groups = sensitivity(matched(), [100.0, None])
    assert groups.keys() == {"length", "instances"}
    short, long = groups["length"][0], groups["length"][-1]
    assert (short["low"], short["high"], short["actions"], short["missed"], short["map"]) == (4, 4, 1, 1, 0)
    # Runs of ten seconds: one of two is found, first; the jump last of three.
    assert (long["actions"], long["missed"], long["map"]) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx((1 / 2 + 1 / 3) / 2),
    )
    assert [group["actions"] for group in groups["instances"]] == [2, 2]
    coverage = sensitivity(matched(), [100.0, 100.0])["coverage"]
    assert (coverage[0]["low"], coverage[-1]["high"]) == (0.04, 0.1)


def test_groups_of_many_equal_values():
    # Nine videos with one action and one with three: nothing tells them apart but the number.
    actions = [(video, 0, 0, 10) for video in range(9)] + [(9, 0, start, start + 10) for start in (0, 20, 40)]
    found = match(table([]), np.zeros(0), table(actions), np.array([0.5]))
    groups = sensitivity(found, [None] * 10)["instances"]
    assert [(group["low"], group["high"], group["actions"]) for group in groups] == [(1, 1, 9), (3, 3, 3)]


def test_confusion_calibration_and_videos_by_hand():
    found = matched()
    assert confusion_matrix(found, NAMES) == {"run": {"run": 1, "": 2}, "jump": {"run": 1}}
    figures = calibration(found)
    assert [entry["count"] for entry in figures["bins"]] == [1] * 7
    distances = [
        abs(score - hit) for score, hit in zip((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (1, 0, 0, 0, 0, 0, 1), strict=True)
    ]
    assert figures["error"] == pytest.approx(np.mean(distances))
    videos = by_video(found, ["a", "b", "c"])
    assert (
        videos["a"]["missed"] == 0
        and videos["b"]["missed"] == 1
        and videos["c"] == {"actions": 0, "missed": 0.0, "kinds": {}}
    )
    # Of the four best detections three are of the first video.
    assert sum(videos["a"]["kinds"].values()) == 3 and videos["b"]["kinds"]["localization"] == 1


def iou(one, other) -> float:
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(common, 0.0) / (one[1] - one[0] + other[1] - other[0] - max(common, 0.0))


def slow_kinds(detections, actions, threshold) -> list[str]:
    """The definitions, one detection after the other."""
    taken, found = set(), []
    for video, label, start, end, _ in detections:
        near = [(iou((start, end), action[2:]), number) for number, action in enumerate(actions) if action[0] == video]
        own = [(value, number) for value, number in near if actions[number][1] == label]
        free = [(value, -number) for value, number in own if value >= threshold and number not in taken]
        others = [value for value, number in near if actions[number][1] != label]
        if free:
            taken.add(-max(free)[1])
            found.append("true positive")
        elif any(value >= threshold for value, _ in own):
            found.append("double detection")
        elif any(value >= threshold for value in others):
            found.append("wrong label")
        elif any(value >= 0.1 for value, _ in own):
            found.append("localization")
        else:
            found.append("confusion" if any(value >= 0.1 for value in others) else "background")
    return found


@pytest.mark.parametrize("seed", range(5))
def test_against_the_definitions_and_the_metric(seed):
    draw = np.random.default_rng(seed)

    def rows(count: int) -> list[tuple]:
        starts = draw.integers(0, 80, count)
        lengths = draw.integers(2, 25, count)
        return [
            (int(draw.integers(0, 4)), int(draw.integers(0, 3)), float(start), float(start + length))
            for start, length in zip(starts, lengths, strict=True)
        ]

    actions, scores = rows(20), np.sort(draw.random(150))[::-1]
    detections = [(*row, score) for row, score in zip(rows(150), scores, strict=True)]
    thresholds = [0.3, 0.5, 0.75]
    found = match(table(detections), scores, table(actions), np.array(thresholds))
    for kinds, threshold in zip(found.kinds, thresholds, strict=True):
        assert [KINDS[kind] for kind in kinds] == slow_kinds(detections, actions, threshold)

    def measured(kept: list[tuple], threshold: float) -> float:
        sides = []
        for side, scored in ((kept, True), (actions, False)):
            videos = [[row for row in side if row[0] == video] for video in range(4)]
            sides.append(
                [
                    {
                        "video_id": str(video),
                        "segments": [row[2:4] for row in rows],
                        "labels": [row[1] for row in rows],
                        **({"scores": [row[4] for row in rows]} if scored else {}),
                    }
                    for video, rows in enumerate(videos)
                ]
            )
        return TalMap().compute(predictions=sides[0], references=sides[1], tiou_thresholds=[threshold])["map"]

    assert found.map() == pytest.approx(
        np.mean([measured(detections, threshold) for threshold in thresholds]), abs=1e-12
    )
    for kind, name in enumerate(KINDS[1:], 1):
        without = []
        for threshold, kinds in zip(thresholds, found.kinds, strict=True):
            kept = [row for row, own in zip(detections, kinds, strict=True) if own != kind]
            without.append(measured(kept, threshold))
        assert costs(found)[name] == pytest.approx(np.mean(without) - found.map(), abs=1e-12)


def test_nothing_detected():
    found = matched(detections=[], thresholds=(0.3, 0.5))
    figures = diagnose(found, NAMES, [None, None])
    assert figures["map"] == 0 and figures["missed"] == 1 and figures["cost"]["background"] == 0
    assert figures["cost"]["missed"] == 0  # then there is nothing to measure by
    assert figures["confusion_matrix"] == {"run": {"": 3}, "jump": {"": 1}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_diagnosis(figures).canvas.draw()


def write_run(folder: Path) -> Path:
    results: dict[str, list] = {"a": [], "b": []}
    for video, label, start, end, score in DETECTIONS:
        results["ab"[video]].append({"label": NAMES[label], "score": score, "segment": [start, end]})
    (folder / "detections.json").write_text(json.dumps({"results": results}), encoding="utf-8")
    database = {
        name: {
            "subset": "validation",
            "duration": 100.0,
            "annotations": [{"label": NAMES[row[1]], "segment": row[2:]} for row in ACTIONS if row[0] == video],
        }
        for video, name in enumerate("ab")
    }
    (annotations := folder / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    return annotations


def test_the_command(tmp_path, capsys):
    annotations = write_run(tmp_path)
    arguments = [str(tmp_path / "detections.json"), "--annotations", str(annotations), "--tiou", "0.5"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "4 actions, 7 detections, mAP 0.3333" in printed and "confusion           0.0833" in printed
    figures = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))
    assert figures["per_class"]["run"]["missed"] == pytest.approx(2 / 3)
    assert (tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--output", str(tmp_path / "elsewhere")]) == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["diagnosis.json", "diagnosis.png"]
    assert main([str(tmp_path / "absent"), *arguments[1:]]) == 1
    assert "there is no such folder or file" in capsys.readouterr().err
