"""What a training says of its data before, and of its model after."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from killed_training import make_recipe

from re2tal_hf.data.annotation_set import AnnotatedVideo, AnnotationSet
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.training.data_table import data_table
from re2tal_hf.training.localization import LocalizationTrainer
from re2tal_hf.training.run_folder import RunFolder, RunFolderError
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def windows(data) -> TrainingWindows:
    make_recipe(data)
    processor = Re2TALVideoProcessor(size={"height": 32, "width": 32}, num_frames=32, frame_rate=16.0)
    [path, *_] = sorted((data / "videos").glob("training*"))
    segments = np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 6.0], [12.0, 99.0]])
    (data / "broken.mp4").write_bytes(b"no video")
    videos = [AnnotatedVideo("a", "training", path, None, segments, [0, 0, 1, 1])]
    videos.append(AnnotatedVideo("b", "training", data / "broken.mp4", None, segments, [0, 0, 0, 0]))
    return TrainingWindows(videos, processor, max_unreadable=0.5)


def test_the_table_holds_what_is_trained_on(windows):
    training = AnnotationSet([], ["jump", "run"], {"missing_file": 3})
    measured = AnnotatedVideo("c", "validation", None, 50.0, np.array([[1.0, 5.0], [2.0, 2.0]]), [1, 1])
    counts = {"label_spelling": 4, "empty_segment": 1}
    lines = data_table(windows, training, AnnotationSet([measured], ["jump", "run"], counts)).splitlines()
    rows = [re.split(r"  +", line.strip()) for line in lines[:7]]
    assert rows[0] == ["training", "validation"] and rows[1] == ["videos", "1", "1"]
    assert rows[2][2] == "50.0 / 50.0 / 50.0" and rows[3] == ["actions", "3", "1"]
    assert rows[4][1].startswith("1.0 / ") and rows[5:] == [["run", "2", "1"], ["jump", "1", "0"]]
    assert lines[7] == "1 windows an epoch of 32 frames, 2 s; 1 of 3 training actions are longer than a window"
    assert lines[8] == "training: 1 videos that cannot be read, left out"
    assert sum("twice with the same label" in line and line.endswith(": dropped") for line in lines) == 1
    assert sum("reach past the start or end" in line and line.endswith(": clipped") for line in lines) == 1
    assert "training: 3 videos without a file in the video folder: dropped" in lines
    assert "validation: 1 segments that start after their end: kept, as the metric's rules have it" in lines
    assert sum("labels with blanks" in line and line.endswith(": taken without") for line in lines) == 1


def test_points_have_no_length(windows):
    videos = [replace(windows.videos[0], segments=np.array([[2.0, 2.0]]), labels=[1], points=True)]
    pointed = copy.copy(windows)
    pointed.videos = videos
    lines = data_table(pointed, AnnotationSet([], ["jump", "run"], {}), AnnotationSet(videos, ["jump", "run"], {}))
    rows = [re.split(r"  +", line.strip()) for line in lines.splitlines()]
    assert rows[3] == ["actions", "1", "1"] and rows[4][1:] == ["points in time", "points in time"]
    assert rows[7] == ["1 windows an epoch of 32 frames, 2 s"]


def test_many_classes_are_summed_up(windows):
    names = [f"class {number}" for number in range(200)]
    video = replace(windows.videos[0], segments=np.array([[0.0, 1.0]] * 201), labels=[7, *range(200)])
    table = data_table(windows, AnnotationSet([], names, {}), AnnotationSet([video], names, {}))
    assert len(table.splitlines()) < 35
    assert re.search(r"  181 more classes +0 +181", table)


@pytest.mark.training
def test_a_run_says_where_its_model_lies_and_how_to_use_it(data, tmp_path, capsys):
    recipe = make_recipe(data, "training.epochs=1", "imports=[]")
    metrics = LocalizationTrainer(recipe, tmp_path / "my run").run()
    said = capsys.readouterr().out
    assert re.search(r"videos +2 +1\n", said) and "4 windows an epoch" in said
    model = tmp_path / "my run" / "best"
    expected = [
        f"The model: {model}",
        f"Its map: {metrics['map']:.4f}, after epoch 1 of 1",
        f"To use it: re2tal predict --model '{model}' VIDEO",
    ]
    assert said.splitlines()[-3:] == expected
    AcceleratorState._reset_state(reset_partial_state=True)
    LocalizationTrainer(recipe, tmp_path / "my run").run()
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("is finished: its 1 epochs are trained.") and said[1:4] == expected
    assert "more training.epochs" in said[4]


def test_metrics_of_a_run_are_read_or_named(tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_metrics("best") is None
    (tmp_path / "best").mkdir()
    for text in ("[", "[1]", json.dumps({"epoch": 1}), json.dumps({"map": None})):
        (tmp_path / "best" / "metrics.json").write_text(text)
        with pytest.raises(RunFolderError, match="metrics.json is damaged"):
            run.read_metrics("best", "map")
    (tmp_path / "best" / "metrics.json").write_text(json.dumps({"map": 1}))
    assert run.read_metrics("best", "map") == {"map": 1}
