"""Files for other tools: what is written is read to the same actions, to the millisecond or the frame."""

import json
from pathlib import Path

import numpy as np
import pytest
from run_factory import small_pipeline
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.__main__ import main
from re2tal_hf.data.annotation_formats.format import VideoToWrite, lanes
from re2tal_hf.data.annotation_formats.formats import WRITERS, read_records
from re2tal_hf.data.annotation_records import Record
from re2tal_hf.data.annotation_set import AnnotationError
from re2tal_hf.data.annotation_writing import annotated_videos, detected_video, write_for_tool
from re2tal_hf.video_reader import VideoReader

RATE = 25.0
LABELS = ['kick "hard" & <run>', "shake_hands", "été, 2"]
each_writer = pytest.mark.parametrize("kind", sorted(WRITERS))


def drawn_video(name: str, seed: int, *, scores: bool = False) -> VideoToWrite:
    """Thirty actions that begin and end with frames, many of them within others of their class."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, 1400, 30)
    ends = np.minimum(starts + random.integers(1, 400, 30), 1500)
    labels = random.choice(LABELS, 30)
    actions = sorted((a / RATE, b / RATE, str(x)) for a, b, x in zip(starts, ends, labels, strict=True))
    found = random.random(30).round(2).tolist() if scores else None
    return VideoToWrite(name, actions, 60.0, RATE, (64, 48), found)


def read_back(paths: list[Path]) -> dict[str, list[tuple[float, float, str]]]:
    found = {}
    for path in paths:
        for record in read_records(path)[0]:
            rows = zip(record.segments, record.labels, strict=True)
            found[record.video_id] = sorted((start, end, str(label)) for (start, end), label in rows)
    return found


@each_writer
@pytest.mark.parametrize("scores", [False, True])
def test_what_is_written_is_read_to_the_same_actions(kind: str, scores: bool, tmp_path: Path) -> None:
    videos = [drawn_video(f"{name}.mp4", seed, scores=scores) for seed, name in enumerate("abc")]
    output = tmp_path / (f"all{WRITERS[kind].ending}" if WRITERS[kind].together else "folder")
    paths = write_for_tool(videos, kind, output)
    assert len(paths) == (1 if WRITERS[kind].together else 3)
    got = read_back(paths) if kind != "cvat" else _with_rate(paths)
    assert {Path(name).stem for name in got} == set("abc")
    for video in videos:
        rows = next(rows for name, rows in got.items() if Path(name).stem == Path(video.name).stem)
        assert [label for *_, label in rows] == [label for *_, label in sorted(video.actions)]
        for row, wanted in zip(rows, sorted(video.actions), strict=True):
            assert row[:2] == pytest.approx(wanted[:2], abs=1e-9)


def _with_rate(paths: list[Path]) -> dict[str, list[tuple[float, float, str]]]:
    """CVAT's files count frames and do not say how many a second has."""
    output = paths[0].parent / "ours.json"
    sources = list(map(str, paths))
    assert main(["annotations", "convert", *sources, "--frame-rate", f"{RATE:g}", "--output", str(output)]) == 0
    database = json.loads(output.read_text(encoding="utf-8"))["database"]
    return {
        name: sorted((*action["segment"], action["label"]) for action in entry["annotations"])
        for name, entry in database.items()
    }


@each_writer
def test_times_between_frames_are_rounded_once(kind: str, tmp_path: Path) -> None:
    video = VideoToWrite(
        "a.mp4", [(0.0, 0.001, "kick"), (1.23456, 2.34567, "kick"), (59.99, 60.0, "x")], 60.0, RATE, (8, 8)
    )
    written = tmp_path / "first"
    [path] = write_for_tool([video], kind, written)
    got = (_with_rate([path]) if kind == "cvat" else read_back([path])).popitem()[1]
    step = 1 / RATE if "frame_rate" in WRITERS[kind].needs and kind != "boris" else 0.001
    assert [row[2] for row in got] == ["kick", "kick", "x"] and all(end > start for start, end, _ in got)
    assert got[1][:2] == pytest.approx((1.23456, 2.34567), abs=step / 2)
    [again] = write_for_tool([VideoToWrite("a.mp4", got, 60.0, RATE, (8, 8))], kind, tmp_path / "second")
    assert again.read_bytes() == path.read_bytes()


def test_no_two_actions_of_a_lane_overlap() -> None:
    actions = [(0.0, 4.0, "a"), (1.0, 2.0, "a"), (2.0, 3.0, "a"), (3.5, 5.0, "a"), (4.0, 6.0, "a")]
    assert lanes(actions) == [0, 1, 1, 1, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", numbered_frames(50))  # 2 s
    return folder


@each_writer
def test_the_command_takes_names_and_rates_from_the_videos(kind: str, folder: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "ours.json", tmp_path / "written"
    entries = {name: {"annotations": [{"segment": [0.4, 1.2], "label": "kick"}]} for name in ("a", "b")}
    source.write_text(json.dumps({"database": entries}))
    options = ["--to", kind, "--videos", str(folder), "--output", str(output)]
    assert main(["annotations", "convert", str(source), *options]) == 0
    paths = [output] if output.is_file() else sorted(output.iterdir())
    got = _with_rate(paths) if kind == "cvat" else read_back(paths)
    names = {"a", "b"} if kind == "subtitles" else {"a.mp4", "b.mp4"}
    assert got == {name: [(pytest.approx(0.4), pytest.approx(1.2), "kick")] for name in names}


def test_what_a_model_found_becomes_predictions_of_label_studio(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"label": "kick", "score": 0.75, "start": 0.4, "end": 1.2},
        {"label": "x", "score": 0.5, "start": 0, "end": 1},
    ]
    path = folder / "a.mp4"
    with VideoReader(path) as reader:
        [written] = write_for_tool([detected_video(path.name, rows, reader)], "label-studio", tmp_path / "tasks.json")
    [task] = json.loads(written.read_text(encoding="utf-8"))
    assert task["data"] == {"video": "a.mp4", "fps": 25.0} and "annotations" not in task
    [prediction] = task["predictions"]
    assert [(result["value"], result["score"]) for result in prediction["result"]] == [
        ({"ranges": [{"start": 1, "end": 25}], "timelinelabels": ["x"]}, 0.5),
        ({"ranges": [{"start": 11, "end": 30}], "timelinelabels": ["kick"]}, 0.75),
    ]


@pytest.mark.parametrize(
    ("segment", "message"),
    [((1.0, 1.0), "does not end after its start; give points a width"), ((-1.0, 1.0), "begins before its video")],
)
def test_actions_that_no_tool_takes_are_refused(segment: tuple[float, float], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        annotated_videos([Record("a", "", 9.0, [segment], ["kick"], [None])])


def test_what_is_not_known_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "ours.json", tmp_path / "new" / "tasks.json"
    source.write_text(json.dumps({"a": {"annotations": [{"segment": [0.4, 1.2], "label": "kick"}]}}))
    for kind, what in (
        ("label-studio", "frame rate of a; give --videos or --frame-rate"),
        ("cvat", "of a; give --videos"),
    ):
        assert main(["annotations", "convert", str(source), "--to", kind, "--output", str(output)]) == 1
        assert what in capsys.readouterr().err and not output.parent.exists()
    options = ["--to", "label-studio", "--frame-rate", "25", "--output", str(output)]
    assert main(["annotations", "convert", str(source), "--video-prefix", "/data/local-files/?d=v/", *options]) == 0
    assert json.loads(output.read_text())[0]["data"] == {"video": "/data/local-files/?d=v/a", "fps": 25.0}
    assert [record.video_id for record in read_records(output)[0]] == ["a"]


@pytest.mark.training
def test_predict_writes_for_tools_what_comes_back(folder: Path, tmp_path: Path) -> None:
    small_pipeline().save_pretrained(tmp_path / "model")
    other = tmp_path / "other" / "a.mp4"  # of the same name
    other.parent.mkdir()
    other.write_bytes((folder / "a.mp4").read_bytes())
    kinds = [part for kind in WRITERS for part in ("--write", kind)]
    arguments = [
        "--model",
        str(tmp_path / "model"),
        "--output",
        str(tmp_path / "out"),
        "--threshold",
        "0",
        "--top-k",
        "7",
    ]
    assert main(["predict", *arguments, "--format", "json", *kinds, str(folder / "a.mp4"), str(other)]) == 0
    for kind in ("via", "boris", "label-studio"):
        got = read_back([tmp_path / "out" / f"{kind}{WRITERS[kind].ending}"])
        assert got.keys() == {"videos/a.mp4", "other/a.mp4"} and sum(map(len, got.values())) == 14
    for kind in ("elan", "cvat", "subtitles"):
        assert len(list((tmp_path / "out" / kind).iterdir())) == 2
