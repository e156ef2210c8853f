"""Videos made ready for a benchmark: what is wrong with them, what is encoded, and what is measured without them."""

import argparse
import json
import os
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.commands import evaluate, prepare
from re2tal_hf.data import preparation
from re2tal_hf.data.annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet
from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.data.preparation import Encoding, check_encoding, check_videos, encode, encode_all
from re2tal_hf.data.subsets import read_video_ids, without_videos
from re2tal_hf.video_reader import VideoReader, VideoReadError


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos: one as annotated, one of 25 frames a second in a folder, one cut off, one that is none."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "more").mkdir()
    write_video(folder / "v_right.mp4", numbered_frames(90, 96, 130), 30)
    write_video(folder / "more/slow.mkv", numbered_frames(75, 96, 130), 25)
    write_video(folder / "short.mp4", numbered_frames(30), 30)
    (folder / "broken.mp4").write_bytes(b"nonsense" * 100)
    return folder


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    action = {"segment": [0.2, 0.8], "label": "jump"}
    entry = {"subset": "validation", "duration": 3.0, "annotations": [action]}
    rates = {"right": {"fps": 30.0}, "slow": {"frame": 90}, "short": {}, "broken": {}, "gone": {"fps": "unknown"}}
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"database": {name: entry | rate for name, rate in rates.items()}}))
    return file


def test_findings(raw: Path, annotations: Path) -> None:
    videos = read_annotations(annotations, video_folder=raw, repair=False).videos
    assert [video.frame_rate for video in videos] == [30.0, 30.0, None, None, None]
    found = check_videos(videos)
    assert [(finding.video_id, finding.kind) for finding in found] == [
        ("slow", "frame rate"),
        ("short", "duration"),
        ("broken", "unreadable"),
        ("gone", "missing"),
    ]
    assert found[0].text == "25.00 frames a second, and 30.00 in the annotations"
    assert found[1].text == "1.00 s, and 3.00 s in the annotations"


@pytest.mark.parametrize(("name", "size"), [("v_right.mp4", (64, 86)), ("more/slow.mkv", (64, 86))])
def test_a_video_is_encoded_to_the_frames_that_would_be_read_of_it(
    raw: Path, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    encode(raw / name, tmp_path / "new/a.mp4", Encoding(15.0, 64))
    times = np.arange(45) / 15
    with VideoReader(raw / name) as before, VideoReader(tmp_path / "new/a.mp4") as after:
        assert (after.duration, after.frame_rate, after.height, after.width) == (3.0, 15.0, *size)
        assert frame_numbers(after.frames_at(times)) == frame_numbers(before.frames_at(times))
    assert os.listdir(tmp_path / "new") == ["a.mp4"]


def test_smaller_videos_keep_their_size() -> None:
    assert Encoding(15, 256).size(48, 64) == (48, 64)
    assert Encoding(15, 256).size(1920, 1080) == (456, 256)  # 455.1, made even
    assert Encoding(15, 256).size(49, 64) == (48, 64)


def test_nothing_is_left_of_what_cannot_be_read(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoReadError, match="broken"):
        encode(raw / "broken.mp4", tmp_path / "a.mp4", Encoding(15.0, 64))
    assert not list(tmp_path.iterdir())


class _HerePool:
    """Stands in for processes: works at once."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, work, *arguments):
        future: Future[None] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


def test_what_is_there_is_kept_and_what_has_changed_is_not(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "ProcessPoolExecutor", _HerePool)
    source = tmp_path / "short.mp4"
    source.write_bytes((raw / "short.mp4").read_bytes())
    folder, encoding = tmp_path / "out", Encoding(15.0, 24)
    sources = {Path("short.mp4"): source, Path("broken.mp4"): raw / "broken.mp4"}
    assert list(encode_all(sources, folder, encoding, 1)) == [Path("broken.mp4")]
    assert sorted(os.listdir(folder)) == ["prepared.json", "short.mp4"]
    (folder / "short.mp4").write_bytes(b"kept")
    encode_all({Path("short.mp4"): source}, folder, encoding, 1)
    assert (folder / "short.mp4").read_bytes() == b"kept"
    later = (folder / "short.mp4").stat().st_mtime + 1
    os.utime(source, (later, later))
    encode_all({Path("short.mp4"): source}, folder, encoding, 1)
    with VideoReader(folder / "short.mp4") as reader:
        assert reader.frame_rate == 15.0
    with pytest.raises(ValueError, match=r"holds videos of .*15.0.* choose another --output"):
        check_encoding(folder, Encoding(30.0, 24))


@pytest.mark.training
def test_the_command(raw: Path, annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "videos"
    command = ["--annotations", str(annotations), "--videos", str(raw)]
    assert prepare.main(command) == 0
    said = capsys.readouterr().out
    assert "missing: 1 of 5 videos\n  gone: " in said and said.endswith("1 of 5 videos are as annotated\n")
    assert prepare.main([*command, "--output", str(output), "--processes", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"3 videos in {output}",
        f"2 missing videos, in {output}/missing_files.txt",
    ]
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert files == ["missing_files.txt", "more/slow.mp4", "prepared.json", "short.mp4", "v_right.mp4"]
    assert read_video_ids(output / "missing_files.txt") == {"broken", "gone"}
    # The videos are found there as they were before.
    assert sum(video.path is not None for video in read_annotations(annotations, video_folder=output).videos) == 3
    assert prepare.main([*command, "--output", str(output), "--shorter-edge", "64"]) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert prepare.main([*command, "--output", str(raw)]) == 1
    assert "is the folder of the videos" in capsys.readouterr().err


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    videos = [AnnotatedVideo(name, "", tmp_path / name, 3.0, np.empty((0, 2)), []) for name in ("a.mp4", "a.mkv")]
    with pytest.raises(ValueError, match=r"would both become a\.mp4: rename one"):
        prepare.names_of(videos, tmp_path)


@pytest.mark.parametrize("text", ['["a", "b"]', "a\nb\n", "a \n\n b"])
def test_lists_of_videos(text: str, tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text(text)
    assert read_video_ids(file) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "[]", "[1]", '{"a": 1}', '["a"'])
def test_what_is_no_list_of_videos(text: str, tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    file.write_text(text)
    with pytest.raises(AnnotationError, match="blocked: "):
        read_video_ids(file)


def annotated(*ids: str) -> AnnotationSet:
    videos = [AnnotatedVideo(name, "validation", None, 3.0, np.array([[0.0, 1.0]]), [0]) for name in ids]
    return AnnotationSet(videos, ["jump"], {})


def test_videos_are_left_out() -> None:
    assert [video.video_id for video in without_videos(annotated("a", "b"), {"b", "other"}, "f").videos] == ["a"]
    for ids, which in (({"c"}, "none"), ({"a", "b"}, "all")):
        with pytest.raises(AnnotationError, match=f"f: {which} of the 2 videos"):
            without_videos(annotated("a", "b"), ids, "f")


@pytest.mark.parametrize(
    ("missing", "left", "fate"), [("missed", 3, "count as missed"), ("left-out", 2, "left out of")]
)
def test_the_measurement_says_what_became_of_missing_videos(missing: str, left: int, fate: str) -> None:
    options = argparse.Namespace(missing=missing, exclude=None)
    measured, [line] = evaluate.measured_videos(annotated("a", "b", "c"), {"a", "c"}, options)
    assert len(measured.videos) == left
    assert line.startswith("1 of 3 videos have no readable file, ") and fate in line and line.endswith("'b'")
    assert evaluate.measured_videos(annotated("a"), {"a"}, options)[1] == []
