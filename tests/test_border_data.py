import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from video_factory import write_video

from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.video_reader import VideoReader

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_border_data.py"
made = runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("seed", range(5))
def test_a_clip_is_shown_without_a_jump(seed):
    places, start, end = made["positions"](np.random.default_rng(seed), 90, 30.0, 15.0)
    first, last = made["STILL_FRAMES"] - 1, 90 - made["STILL_FRAMES"]
    steps = np.abs(np.diff(places))
    assert steps.max() < 1.2 * made["SPEEDS"][1] * 30 / 15
    assert places.min() >= 0 and places.max() <= 89
    assert (places[:start] <= first).all() and (places[end:] >= last).all()
    assert first < places[start] < first + 1 and places[end - 1] == pytest.approx(last)
    # It moves off slower than it goes on.
    assert steps[start] < 0.5 * steps[start + 10]


def test_sequences_of_clips(tmp_path, monkeypatch):
    for split in ("train", "validation"):
        for label in ("left", "right"):
            folder = tmp_path / "clips" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                shade = np.arange(40)[:, None, None, None] * 3 + 40 + 10 * number
                frames = np.broadcast_to(shade, (40, 32, 48, 3)).astype(np.uint8)
                write_video(folder / f"{number}.mp4", frames, 20.0)
    sizes = ["--height", "32", "--width", "48", "--num-training", "2", "--num-validation", "1"]
    output = tmp_path / "made"
    monkeypatch.setattr(sys, "argv", ["", "--clips", str(tmp_path / "clips"), "--output", str(output), *sizes])
    assert made["main"]() == 0
    annotations = read_annotations(output / "annotations.json", subset="training", video_folder=output / "videos")
    assert len(annotations.videos) == 2 and annotations.label_names == ["left", "right"]
    for video in annotations.videos:
        assert (np.diff(video.segments.ravel()) > 0).all()
        with VideoReader(video.path) as reader:
            assert reader.duration == pytest.approx(video.duration, abs=1e-4)
            shades = np.asarray(reader.frames_at(reader.timeline.seconds.tolist())).astype(float).mean((1, 2, 3))
        for border in (video.segments * 15).round().astype(int).ravel():
            assert np.abs(np.diff(shades[border - 2 : border + 3])).max() < 10
    first = {path.name: path.read_bytes() for path in output.rglob("*.*")}
    assert made["main"]() == 0
    assert first == {path.name: path.read_bytes() for path in output.rglob("*.*")}
