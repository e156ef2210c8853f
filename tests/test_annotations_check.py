"""The report on annotations: what is planted is found, and nothing else; the page shows what anyone wrote as text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.__main__ import main
from re2tal_hf.data.annotation_check import AnnotationReport, check_annotations
from re2tal_hf.data.annotation_records import parse_record
from re2tal_hf.data.label_spelling import labels_alike
from re2tal_hf.data.window_choice import choose_window

Database = dict[str, dict[str, Any]]


def sound() -> Database:
    """Twelve videos of a minute, with four actions of each of two classes in all."""
    return {
        f"v{number}": {
            "subset": "validation" if number % 4 == 3 else "training",
            "duration": 60.0,
            "annotations": [
                {"segment": [10.0 * place + number % 3, 10.0 * place + number % 3 + 2 + place / 4], "label": label}
                for place, label in enumerate(("kick", "punch", "kick", "punch"))
            ],
        }
        for number in range(12)
    }


def report_on(database: Database, folder: Path | None = None) -> AnnotationReport:
    return check_annotations([parse_record(name, entry, "a.json") for name, entry in database.items()], folder)


def test_sound_annotations_raise_no_alarm() -> None:
    report = report_on(sound())
    assert report.findings == []
    assert report.videos == {"training": 9, "validation": 3}
    assert report.minutes == {"training": 9.0, "validation": 3.0}
    assert report.actions == {"kick": {"training": 18, "validation": 6}, "punch": {"training": 18, "validation": 6}}
    assert report.overlapping == {"same class": 0, "other classes": 0}
    assert report.background == pytest.approx(1 - (2 + 2.25 + 2.5 + 2.75) / 60)
    assert report.gaps is not None and report.gaps.least == pytest.approx(7.5)
    assert report.lengths["punch"].most == pytest.approx(2.75)


def _frames(database: Database) -> None:
    for action in database["v1"]["annotations"]:
        action["segment"] = [25 * time for time in action["segment"]]


def _change(video: str, number: int, **values: Any) -> Callable[[Database], None]:
    return lambda database: database[video]["annotations"][number].update(values)


def _double(database: Database) -> None:
    database["v1"]["annotations"].append({"segment": [1.05, 3.0], "label": "kick"})


def _exact_double(database: Database) -> None:
    database["v1"]["annotations"].append(dict(database["v1"]["annotations"][0]))


@pytest.mark.parametrize(
    ("plant", "weight", "title", "example"),
    [
        (_frames, "error", "times that can hardly be seconds", "they look like frames at about"),
        (_change("v2", 1, segment=[15.0, 12.0]), "error", "start after their end", "v2 [15, 12]"),
        (_change("v2", 1, segment=[71.0, 73.0]), "error", "wholly outside their video", "v2 [71, 73]"),
        (_change("v2", 3, segment=[58.0, 60.5]), "warning", "reach past the start or end", "v2 [58, 60.5]"),
        (_change("v2", 1, segment=[12.0, 12.05]), "warning", "shorter than 0.1 s", "v2 [12, 12.05] punch"),
        (_change("v2", 1, segment=[12.0, 12.15]), "warning", "10 times shorter or longer", "usually 2.5 s"),
        (_change("v2", 1, segment=[12.0, 12.0]), "warning", "start where they end", "v2 [12, 12]"),
        (_change("v2", 1, label="Punch"), "warning", "names look like one", "'Punch' (1 actions) and 'punch' (23)"),
        (_change("v2", 1, label="pnuch"), "warning", "names look like one", "'pnuch' (1 actions) and 'punch' (23)"),
        (_double, "warning", "nearly the same time", "v1 kick: [1, 3] and [1.05, 3]"),
        (_exact_double, "warning", "given twice", "v1 [1, 3]"),
        (_change("v2", 1, label="wave"), "warning", "classes that a subset lacks", "wave: none in validation"),
        (lambda database: database["v2"].update(annotations=[]), "note", "videos without an action", "v2"),
    ],
)
def test_a_planted_mistake_is_found(plant: Callable[[Database], None], weight: str, title: str, example: str) -> None:
    database = sound()
    plant(database)
    found = report_on(database).findings
    [finding] = [finding for finding in found if title in finding.title]
    assert finding.weight == weight and finding.count == 1
    assert any(example in text for text in finding.examples)


def test_names_that_are_different_classes_stay_so() -> None:
    assert labels_alike({"kick left": 30, "kick right": 30, "jump 1": 2, "jump 2": 40, "push": 20, "punch": 22}) == []
    assert labels_alike({"hand_shake": 30, "Hand Shake": 2}) == [("Hand Shake", "hand_shake", "case, spaces or marks")]
    assert labels_alike({"running": 30, "runing": 2, "cut": 3, "put": 40}) == [("runing", "running", "one letter")]


@pytest.mark.parametrize(
    ("lengths", "rate", "frames"),
    [
        ([4.0] * 20, 3.0, 32),
        ([1.0] * 20, 12.5, 32),
        ([0.5, 20.0] * 20, 25.0, 752),
        ([0.01] * 5, 30.0, 32),
        ([0.5, 50.0] * 20, 12.5, 944),
    ],  # fmt: skip
)
def test_the_window_holds_the_actions(lengths: list[float], rate: float, frames: int) -> None:
    choice = choose_window(lengths)
    assert choice is not None and (choice.frame_rate, choice.num_frames) == (rate, frames)
    assert choice.longer == 0 and choice.seconds >= 1.5 * max(lengths)


def test_there_is_no_window_without_actions() -> None:
    assert choose_window([]) is choose_window([0.0]) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b", "other"):
        write_video(folder / f"{name}.mp4", numbered_frames(50))  # 2 s
    (folder / "broken.mp4").write_bytes(b"\0" * 2000)
    return folder


def test_files_and_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>"
    database = {
        "a": {"subset": "training", "duration": 9.0, "annotations": [{"segment": [0.5, 1.5], "label": evil}]},
        "b": {"subset": "validation", "annotations": [{"segment": [0.0, 1.0], "label": evil}]},
        "broken": {"subset": "training", "annotations": [{"segment": [0.0, 1.0], "label": "kick"}]},
        "gone": {"subset": "training", "annotations": []},
    }
    source, page, values = tmp_path / "a.json", tmp_path / "out" / "r.html", tmp_path / "r.json"
    source.write_text(json.dumps({"database": database}), encoding="utf-8")
    arguments = ["--videos", str(folder), "--html", str(page), "--json", str(values), "--pictures", "1"]
    assert main(["annotations", "check", str(source), *arguments]) == 1
    printed = capsys.readouterr().out
    for line in (
        "error: 1 videos that cannot be read",
        "error: 1 videos without a file in the video folder\n  gone",
        "note: 1 video files that no annotation names\n  other.mp4",
        "warning: 1 videos whose file is shorter or longer than the annotations say",
    ):
        assert line in printed
    report = json.loads(values.read_text(encoding="utf-8"))
    assert report["minutes"]["validation"] == pytest.approx(2 / 60)
    assert report["actions"][evil] == {"training": 1, "validation": 1}
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert html.count("data:image/jpeg;base64,") == 3  # one action of the class whose videos can be read
    assert "http" not in html and str(tmp_path) not in html.replace(str(folder / "broken.mp4"), "")


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotations", "check", str(tmp_path / "none.json"), "--html", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: --html {tmp_path} is a folder: name a file.\n"
