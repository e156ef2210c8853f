"""What stops a run, or is said, before training: subsets, times, classes, and what cannot be learned."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_classification import TINY as TINY_CLIPS
from test_trainer import TINY
from video_factory import numbered_frames, write_video

from re2tal_hf.commands import evaluate
from re2tal_hf.data.annotations import AnnotatedVideo, AnnotationError, AnnotationSet, read_annotations
from re2tal_hf.data.durations import check_measured_times
from re2tal_hf.data.subsets import check_shared, compare_classes
from re2tal_hf.data.time_units import check_times
from re2tal_hf.publishing.dataset import read_dataset
from re2tal_hf.training.arguments import load_recipe
from re2tal_hf.training.classification import ClassificationTrainer
from re2tal_hf.training.evaluation import mean_average_precision
from re2tal_hf.training.localization import LocalizationTrainer

pytestmark = pytest.mark.usefixtures("fresh_accelerator")

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20
ACTIONS = [("Sway", 2.0, 4.5), ("Circle", 6.0, 9.0), ("Sway", 15.0, 18.0)]
SUBSETS = {"a": "training", "b": "training", "c": "validation", "d": "validation"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in SUBSETS:
        write_video(folder / f"{name}.mp4", numbered_frames(10 * SECONDS), 10)
    return folder


@pytest.fixture
def annotate(tmp_path):
    """Writes the annotations, those of each subset in its own way, and gives the file."""

    def write(training=ACTIONS, validation=ACTIONS, **fields):
        actions = {"training": training, "validation": validation}
        database = {
            name: {
                "subset": subset,
                "annotations": [{"label": label, "segment": times} for label, *times in actions[subset]],
                **fields,
            }
            for name, subset in SUBSETS.items()
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps({"database": database}))
        return path

    return write


@pytest.fixture
def build(videos, tmp_path):
    """Sets a training up, and runs nothing."""

    def start(annotations, *overrides):
        places = [f"data.annotations={annotations}", f"data.videos={videos}"]
        recipe = load_recipe("quickstart", [*TINY, *places, "training.trackers=[]", *overrides])
        return LocalizationTrainer(recipe, tmp_path / "run")

    return start


def refused(build, tmp_path, message, annotations, *overrides):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    with pytest.raises(ValueError, match=message):
        build(annotations, *overrides)
    assert not (tmp_path / "run").exists()


def scaled(factor, actions=ACTIONS):
    return [(label, start * factor, end * factor) for label, start, end in actions]


@pytest.mark.parametrize("field", ["training_subset", "validation_subset"])
@pytest.mark.parametrize("value", ["", "null", "''", "' '"])
def test_a_subset_must_be_named(annotate, build, tmp_path, field, value):
    listed = r"the name of the subset is empty; the file has 'training' \(2 videos\), 'validation' \(2 videos\)"
    message = rf"data.{field}: .*annotations.json: {listed}" if "'" in value else f"data.{field} is None"
    refused(build, tmp_path, message, annotate(), f"data.{field}={value}")


def test_one_subset_for_both_is_an_error_unless_meant(annotate, build, tmp_path, caplog):
    same = ["data.validation_subset=Training"]
    refused(build, tmp_path, r"2 of 2 validation videos are trained on too \(first: 'a'\).*shared", annotate(), *same)
    trainer = build(annotate(), *same, "data.allow_shared_videos=true")
    assert "2 of 2 validation videos are trained on too" in caplog.text
    assert len(trainer.windows.videos) == 2


def test_files_tell_whether_videos_are_the_same(videos, tmp_path, caplog):
    def subset(**paths):
        return AnnotationSet(
            [AnnotatedVideo(name, "", path, None, np.zeros((0, 2)), []) for name, path in paths.items()], [], {}
        )

    link, hard, copy = (tmp_path / f"{name}.mp4" for name in ("link", "hard", "copy"))
    link.symlink_to(videos / "a.mp4")
    shutil.copy(videos / "a.mp4", copy)
    hard.hardlink_to(copy)
    training = subset(a=videos / "a.mp4", x=copy)
    with pytest.raises(AnnotationError, match=r"1 of 2 validation videos .*first: 'other'"):
        check_shared(training, subset(other=link, b=videos / "b.mp4"), allowed=False)
    with pytest.raises(AnnotationError, match=r"1 of 1 validation videos .*first: 'hard'"):
        check_shared(training, subset(hard=hard), allowed=False)
    assert "1 of 1" in check_shared(training, subset(hard=hard), allowed=True)
    numbered = check_shared(training, subset(x=videos / "c.mp4"), allowed=False)
    assert "1 video ids are in the training and in the validation subset, with different files (first: 'x')" in numbered
    assert check_shared(training, subset(b=videos / "b.mp4", gone=None), allowed=False) == ""


@pytest.mark.parametrize("field", ["training", "validation"])
@pytest.mark.parametrize("actions", [[], [("Sway", 4.0, 4.0)]])
def test_a_subset_without_actions_is_an_error(annotate, build, tmp_path, field, actions):
    message = f"none of the 2 videos of the subset data.{field}_subset={field} has an action"
    overrides = ["data.max_unlearnable=1.0"] if actions else []
    refused(build, tmp_path, message, annotate(**{field: actions}), *overrides)


@pytest.mark.parametrize("duration", [{}, {"duration": SECONDS}])
@pytest.mark.parametrize(("field", "other"), [("training", "validation"), ("validation", "training")])
@pytest.mark.parametrize(("factor", "unit"), [(30, "frames at about 30 a second"), (1000, "milliseconds")])
def test_times_that_are_not_seconds(annotate, build, tmp_path, field, other, factor, unit, duration):
    annotations = annotate(**{field: scaled(factor), other: ACTIONS}, **duration)
    refused(build, tmp_path, f"6 of 6 segments lie wholly outside their video.*{unit}", annotations)


def test_some_times_outside_are_counted_by_class(annotate, build, caplog):
    trainer = build(annotate(training=[*ACTIONS, ("Circle", 25.0, 27.0)], duration=SECONDS))
    assert trainer.windows.lost == {0: 2}
    assert "2 of 8 training actions cannot be learned as they are:\n- lost, 2 (Circle 2): outside" in caplog.text


def test_what_cannot_be_learned_is_said_or_refused(annotate, build, tmp_path, caplog):
    short = [*ACTIONS, ("Circle", 11.0, 11.05)]
    build(annotate(training=short))
    assert "2 of 8 training actions cannot be learned as they are:\n- too short, 2 (Circle 2)" in caplog.text
    message = r"too short, 2 \(Circle 2\)(.|\n)*data.max_unlearnable, which is 0.1"
    refused(build, tmp_path, message, annotate(training=short), "data.max_unlearnable=0.1")
    message = r"too long, 2 \(Sway 2\): no window shows 75% .*processor.num_frames=192 would fit"
    refused(build, tmp_path, message, annotate(training=[("Sway", 0.0, 20.0)]))
    build(annotate(training=[("Sway", 0.0, 20.0)]), "processor.num_frames=192")


def test_classes_that_a_subset_lacks_are_named(annotate, build, caplog):
    validation = [("Circle", 1.0, 3.0), ("Jump", 4.0, 6.0), ("Jump", 8.0, 10.0)]
    build(annotate(validation=validation))
    assert "classes that only validation videos show, and so nothing learns: Jump (4)" in caplog.text
    assert "classes that only training videos show, and so nothing measures: Sway (4)" in caplog.text
    assert "neither" not in caplog.text and "case" not in caplog.text
    caplog.clear()
    build(annotate(validation=validation), "data.class_agnostic=true")
    build(annotate())
    assert not caplog.records
    path = annotate(training=[*ACTIONS, ("Sway ", 10.0, 12.0)])
    content = json.loads(path.read_text())
    content["database"]["e"] = {"subset": None, "annotations": [{"label": "Slant", "segment": [1.0, 2.0]}]}
    path.write_text(json.dumps(content))
    build(path)
    assert "classes that neither subset shows: Slant" in caplog.text
    declared = AnnotationSet([], ["Sway", "sway"], {})
    assert compare_classes(declared, declared)["differ in case or spaces only"] == ["'Sway' and 'sway'"]


def test_unflippable_labels_are_found_by_name(annotate, build, tmp_path):
    for label in ("Sway", "1"):
        trainer = build(annotate(), f"augmentation.unflippable_labels=[{label}]")
        assert trainer.windows.augmentation.unflippable_labels == (1,)
    message = "unflippable_labels: there is no class 'sway'; the classes are 0 'Circle', 1 'Sway'"
    refused(build, tmp_path, message, annotate(), "augmentation.unflippable_labels=[sway]")


def test_durations_that_are_not_those_of_the_files(annotate, build, caplog):
    build(annotate(duration=60 * SECONDS))
    assert caplog.text.count("wrong_duration: 2 videos whose file is shorter or longer") == 2
    assert "first: c, 1200 s in the annotations and 20 s long" in caplog.text


def test_clips_that_are_trained_on_are_not_measured(videos, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / "clips" / split / "run").mkdir(parents=True)
        shutil.copy(videos / "a.mp4", tmp_path / "clips" / split / "run")

    def start(*overrides):
        settings = [*TINY_CLIPS, f"data.annotations={tmp_path / 'clips'}", *overrides]
        return ClassificationTrainer(load_recipe("ut_clips", settings), tmp_path / "run")

    with pytest.raises(AnnotationError, match="data.training_subset: .*name of the split is empty"):
        start("data.training_subset=''")
    with pytest.raises(AnnotationError, match="1 of 1 validation videos are trained on too"):
        start("data.validation_subset=train")
    with pytest.raises(ValueError, match="there is no class 'jump'; the classes are 0 'run'"):
        start("augmentation={unflippable_labels: [jump]}")
    start()


def test_nothing_is_measured_without_actions():
    video = AnnotatedVideo("a", "validation", None, None, np.array([[3.0, 3.0]]), [0])
    with pytest.raises(AnnotationError, match="none of the 1 videos"):
        mean_average_precision({}, AnnotationSet([video], ["run"], {}), [0.5])
    video.segments = np.array([[3.0, 4.0]])
    rows = [{"label": "run", "score": 0.9, "start": 3.0, "end": 4.0}]
    other = [{"label": "of the model alone", "score": 0.9, "start": 3.0, "end": 4.0}]
    assert mean_average_precision({"a": rows + other}, AnnotationSet([video], ["run"], {}), [0.5])["map"] == 1.0


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["--subset", ""], "name of the subset is empty"),
        ({"validation": []}, [], "none of the 2 videos of the subset validation has an action"),
        ({"validation": scaled(1000)}, [], "6 of 6 segments .*milliseconds"),
        ({"validation": scaled(25)}, ["--dataset"], "6 of 6 segments .*frames"),
    ],
)
def test_the_evaluation_checks_before_it_loads_a_model(annotate, videos, capsys, change, arguments, message):
    source = arguments or ["--annotations"]
    source = [*arguments, "--annotations"] if "--subset" in arguments else source
    command = ["--model", "absent", "--videos", videos, *source, annotate(**change)]
    assert evaluate.main(list(map(str, command))) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_datasets_are_made_of_seconds_only(annotate, videos, caplog):
    frames = annotate(training=scaled(30), validation=[("Sway", 2.0, 4.5), ("Sway", 50.0, 60.0)])
    with pytest.raises(AnnotationError, match="8 of 10 segments lie wholly outside their video.*frames"):
        read_dataset(frames, videos)
    assert len(read_dataset(frames, videos, max_lost=1.0).splits) == 2
    with pytest.raises(AnnotationError, match="name of the subset is empty"):
        read_dataset(annotate(), videos, subsets=[""])
    problems = read_dataset(annotate(duration=60 * SECONDS), videos).problems
    assert [line.split(";")[0] for line in problems] == [
        "wrong_duration: 4 videos whose file is shorter or longer than the annotations say, the file's duration counts"
    ]


def test_there_must_be_something_to_measure(videos, tmp_path):
    video = AnnotatedVideo("a", "validation", None, None, np.array([[1.0, 2.0]]), [0])
    with pytest.raises(AnnotationError, match="validation: no video files"):
        check_measured_times([video], "validation")
    video.path = tmp_path / "a.mp4"
    video.path.write_bytes(b"no video")
    with pytest.raises(AnnotationError, match=r"none of the 1 video files can be read; first: .*a\.mp4"):
        check_measured_times([video], "validation")
    check_measured_times([video, replace(video, path=videos / "a.mp4")], "validation")


def test_public_annotations_are_in_seconds(public_annotations, caplog):
    for name in ("thumos14_actionformer_style", "multithumos_superevents_style", "activitynet13"):
        videos = read_annotations(public_annotations / f"{name}.json", repair=False).videos
        caplog.clear()
        check_times(videos, name)
        assert not caplog.records
