"""Stored detections measured by the figures of the public benchmarks, and the tasks of EPIC-KITCHENS-100."""

import json
from pathlib import Path

import pytest

from re2tal_hf.commands.measure import main
from re2tal_hf.metrics.verb_noun import read_annotations, read_detections, verb_noun_map

ANNOTATIONS = {
    "database": {
        "a": {
            "subset": "validation",
            "duration": 25.0,
            "annotations": [{"segment": [0, 10], "label": "run"}, {"segment": [12, 20], "label": "run"}],
        },
        "b": {"subset": "validation", "duration": 25.0, "annotations": [{"segment": [5, 9], "label": "jump"}]},
    }
}
DETECTIONS = {
    "results": {
        "a": [
            {"segment": [0, 9], "label": "run", "score": 0.9},
            {"segment": [2, 4], "label": "run", "score": 0.8},
            {"segment": [12, 20], "label": "run", "score": 0.7},
        ],
        "b": [{"segment": [5, 9], "label": "run", "score": 0.6}],
    }
}


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path) -> list[str]:
    detections = write(tmp_path / "d.json", DETECTIONS)
    return [detections, "--annotations", write(tmp_path / "a.json", ANNOTATIONS), "--tiou", "0.5"]


def test_figures_by_hand(files, tmp_path, capsys):
    output = tmp_path / "figures.json"
    options = ["--recall", "1", "2", "--proposals", "4", "--frames", "25", "--output", str(output)]
    assert main([*files, *options]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(output.read_text(encoding="utf-8"))
    # Runs: right, wrong, right; nothing of the jump.
    assert figures["per_class"] == {"run": pytest.approx((1 + 2 / 3) / 2), "jump": 0}
    # Two runs in video a: of its two best one is right, of its four best both.
    assert (figures["recall@0.5@1x"], figures["recall@0.5@2x"]) == (1 / 4, 1 / 2)
    # Classes do not count: with all four all three actions are found.
    assert figures["ar"]["4"] == 1 and "AR@4                     1.0000" in printed
    # 11 + 9 points of runs: 0 to 9 are found first, then 12 to 20; 10 is found among none.
    assert figures["frame_per_class"]["run"] == pytest.approx((19 + 20 / 25) / 20)
    assert figures["frame_per_class"]["jump"] == pytest.approx(sum(n / (30 + n) for n in range(1, 6)) / 5)
    assert "mAP@0.5                  0.4167" in printed and "(50 points)" in printed


def test_frame_wise_at_a_rate(files, capsys):
    assert main([*files, "--frame-rate", "2"]) == 0
    assert "(100 points)" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(files, tmp_path, capsys):
    database = json.loads(json.dumps(ANNOTATIONS))
    del database["database"]["b"]["duration"]
    write(tmp_path / "a.json", database)
    assert main([*files, "--frames", "25"]) == 1
    assert "needs the durations of the videos, and 1 have none ('b')" in capsys.readouterr().err
    assert main([*files, "--verb-noun", "--frames", "25"]) == 1
    assert "--verb-noun has no frame-wise mAP" in capsys.readouterr().err
    assert main([*files, "--verb-noun"]) == 1
    assert "an action has no 'verb_label'" in capsys.readouterr().err


EPIC_TABLE = """narration_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class
P01_11_0,P01_11,00:00:00.00,00:00:10.00,0,1
P01_11_1,P01_11,00:01:20.50,00:01:30.50,1,2
"""
EPIC_ROWS = [
    {"segment": [0, 10], "score": 0.9, "verb": 0, "noun": 1, "action": "0,1"},
    {"segment": [80.5, 90.5], "score": 0.8, "verb": 1, "noun": 3, "action": "1,3"},
]


def test_the_tasks_of_epic_kitchens(tmp_path, capsys):
    detections = write(tmp_path / "d.json", {"results": {"P01_11": EPIC_ROWS}})
    table = write(tmp_path / "EPIC_100_validation.csv", EPIC_TABLE)
    output = tmp_path / "figures.json"
    arguments = [detections, "--annotations", table, "--verb-noun", "--output", str(output)]
    assert main([*arguments, "--tiou", "0.1", "0.5"]) == 0
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert {task: own["map"] for task, own in figures.items()} == {"verb": 1, "noun": 0.5, "action": 0.5}
    assert figures["action"]["per_class"] == {"0,1": 1, "1,2": 0}
    assert capsys.readouterr().out.splitlines()[0] == "verb"
    write(tmp_path / "EPIC_100_validation.csv", EPIC_TABLE.replace("noun_class", "noun"))
    assert main(arguments) == 1
    assert "has no column 'noun_class'" in capsys.readouterr().err
    (tmp_path / "EPIC_100_validation.csv").write_bytes(b"\xff\xfe")
    assert main(arguments) == 1
    assert "EPIC_100_validation.csv is no table in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"segment": [0, 1], "score": 1}, "a detection has no 'action', and others have one"),
        ({"segment": [0], "score": 1, "verb": 0, "noun": 1}, r"a segment is \[0\]; write \[start, end\]"),
        ({"segment": [0, 1], "verb": 0, "noun": 1}, "score: None is not a number"),
        (3, "it must have a list of objects"),
    ],
)
def test_detections_that_cannot_be_used(tmp_path, row, message):
    path = tmp_path / "d.json"
    write(path, {"results": {"v": [*EPIC_ROWS, row]}})
    with pytest.raises(ValueError, match=f"video 'v'.*{message}"):
        read_detections(path)


def test_verbs_and_nouns_as_the_reference_has_them(metric_goldens, tmp_path):
    cases = json.loads((metric_goldens / "micro_epic.json").read_text())
    assert len(cases) == 5
    for case in cases:
        truth = read_annotations(Path(write(tmp_path / "a.json", case["ground_truth"])), "val")
        found = read_detections(Path(write(tmp_path / "d.json", case["predictions"])))
        figures = verb_noun_map(found, truth, case["tiou_thresholds"])[case["task"]]
        expected = case["expected"]["opentad_epic"]
        if case["name"] == "verb_no_gt_class_collides":
            # The verb that is nowhere annotated counts as another one there, and in the challenge's evaluation not.
            assert figures["per_class"] == {"0": 1, "2": 1} and expected["ap"]["2"] == [0.5] * 3
            continue
        assert figures["map"] == pytest.approx(expected["avg"], abs=1e-12), case["name"]
        # OpenTAD numbers an action as 300 times the verb and the noun.
        numbers = [[int(part) for part in label.split(",")] for label in figures["per_class"]]
        ids = [str(number[0] if len(number) == 1 else 300 * number[0] + number[1]) for number in numbers]
        values = dict(zip(ids, figures["per_class"].values(), strict=True))
        assert values == {label: pytest.approx(sum(ap) / len(ap)) for label, ap in expected["ap"].items()}
