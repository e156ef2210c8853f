"""`re2tal compare`: two files of detections whose figures are known by hand."""

import json

import pytest

from re2tal_hf.commands.compare import main

KICK, PUSH = "kick", "push"


def action(label, start, end, **score):
    return {"label": label, "segment": [start, end], **score}


@pytest.fixture
def files(tmp_path):
    """Four videos with one action each; the first run finds every kick and no push, the second every action."""
    labels = {"a": KICK, "b": KICK, "c": PUSH, "d": PUSH}
    truth = {
        video: {"subset": "validation", "duration": 20.0, "annotations": [action(label, 2, 6)]}
        for video, label in labels.items()
    }
    found = {video: [action(label, 2, 6, score=0.9)] for video, label in labels.items()}
    kicks = {video: rows for video, rows in found.items() if labels[video] == KICK}
    for name, content in (("truth", {"database": truth}), ("all", {"results": found}), ("kicks", {"results": kicks})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def arguments(files, first="kicks", second="all"):
    return [str(files / f"{name}.json") for name in (first, second)] + [f"--annotations={files / 'truth.json'}"]


def test_a_class_that_one_run_never_finds(files, capsys):
    assert main([*arguments(files), "--tiou", "0.5", "0.7", "--output", str(files / "new" / "out.json")]) == 0
    figures = json.loads((files / "new" / "out.json").read_text())
    expected = {"first": 0.5, "second": 1.0, "difference": 0.5}
    assert {name: figures["map"][name] for name in expected} == expected
    assert figures["map@0.5"] == figures["map@0.7"] == figures["map"]
    # One draw of the four videos in 16 has no push, and one no kick: there the difference is 0, or 1.
    assert figures["map"]["interval"] == [0.0, 1.0]
    assert figures["per_class"][PUSH] == {"first": 0.0, "second": 1.0, "difference": 1.0, "interval": [1.0, 1.0]}
    assert figures["per_class"][KICK]["interval"] == [0.0, 0.0]
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:4] == ["mAP", "0.5000", "1.0000", "+0.5000"] and "zero is inside" in printed[-1]


def test_a_run_that_is_better_in_every_video(files, capsys):
    (files / "none.json").write_text(json.dumps({"results": {"a": []}}))
    assert main(arguments(files, "none")) == 0
    assert "95% interval +1.0000 to +1.0000: zero is outside, so that the second" in capsys.readouterr().out
    assert main(arguments(files, "all", "none")) == 0
    assert "zero is outside, so that the first run is better" in capsys.readouterr().out


def test_the_same_run_twice_is_told_apart_by_nothing(files, capsys):
    assert main(arguments(files, "all")) == 0
    assert "+0.0000 to +0.0000: zero is inside" in capsys.readouterr().out


def test_of_a_run_the_best_model(files, capsys):
    for model in ("best", "last"):
        (files / "run" / model).mkdir(parents=True)
        (files / "run" / model / "config.json").write_text("{}")
    (files / "run" / "best" / "detections.json").write_text((files / "all.json").read_text())
    assert main([str(files / "run"), *arguments(files, "all")[1:]]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["mAP", "1.0000", "1.0000"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"results": {"z": []}}, "1 videos that are not in the annotated subset ('z')"),
        ({"results": {"a": [action("wave", 2, 6, score=1)]}}, "classes that the annotations have not ('wave')"),
        ({"results": {"a": [action(KICK, 2, 6)]}}, "is not of the form"),
        ({"results": {"a": [{"label": KICK, "score": 1, "segment": [2]}]}}, "is not of the form"),
        ({"results": {"a": [action(KICK, 2, float("nan"), score=1)]}}, "no finite numbers"),
        ({"results": {"a": {"label": KICK}}}, "is not of the form"),
        ([], "is not of the form"),
    ],
)
def test_detections_that_cannot_be_measured(files, content, said, capsys):
    (files / "wrong.json").write_text(json.dumps(content))
    assert main([*arguments(files, "wrong"), "--output", str(files / "out.json")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and "wrong.json" in error
    assert not (files / "out.json").exists()


def test_a_subset_without_actions_and_a_run_without_detections(files, capsys):
    truth = {"database": {"a": {"subset": "validation", "duration": 9.0, "annotations": []}}}
    truth["database"]["b"] = {"subset": "training", "duration": 9.0, "annotations": [action(KICK, 1, 2)]}
    (files / "truth.json").write_text(json.dumps(truth))
    assert main(arguments(files)) == 1
    assert "has an action" in capsys.readouterr().err
    assert main([str(files), *arguments(files)[1:]]) == 1
    assert "re2tal evaluate --detections" in capsys.readouterr().err
