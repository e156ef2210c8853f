import json
import logging

import numpy as np
import pytest

from re2tal_hf.data.annotations import (
    RULES,
    AnnotationError,
    RuleLog,
    find_videos,
    read_annotations,
    read_label_names,
    repair_segments,
)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def entry(*actions, subset="training", **fields):
    annotations = [{"segment": list(times), "label": label} for label, *times in actions]
    return {"subset": subset, "annotations": annotations, **fields}


@pytest.fixture
def make(tmp_path):
    """Writes {video_id: entry} as a database and gives its path."""
    return lambda **videos: write(tmp_path / "annotations.json", {"database": videos})


@pytest.mark.parametrize(
    ("file", "videos", "classes", "segments", "counts"),
    [
        (
            "activitynet13.json",
            {"training": 9649, "validation": 4728, "testing": 4851},
            200,
            22152,
            {"past_video_edge": 215, "duplicate_segment": 45, "point": 12},
        ),
        (
            "thumos14_actionformer_style.json",
            {"Validation": 200, "Test": 212},
            20,
            6365,
            {"outside_video": 30},
        ),
        ("thumos14_opentad_style.json", {"training": 200, "validation": 211}, 20, 6328, {}),
        ("thumos14_times_as_strings.json", {"train": 200, "test": 210}, 20, 6318, {}),
        (
            "multithumos_superevents_style.json",
            {"training": 200, "testing": 213},
            65,
            38690,
            {"outside_video": 60, "point": 7, "past_video_edge": 5},
        ),
    ],
)
@pytest.mark.training
def test_public_files_load(public_annotations, caplog, file, videos, classes, segments, counts):
    with caplog.at_level(logging.WARNING):
        repaired = read_annotations(public_annotations / file)
    assert repaired.counts == counts
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(counts)
    assert all(f"{rule}: {count} " in " ".join(warnings) for rule, count in counts.items())
    assert len(repaired.label_names) == classes
    subsets = [video.subset for video in repaired.videos]
    assert {name: subsets.count(name) for name in set(subsets)} == videos

    dropped = sum(count for rule, count in counts.items() if RULES[rule][1] == "dropped")
    untouched = read_annotations(public_annotations / file, repair=False)
    assert untouched.counts == counts
    assert sum(len(video.labels) for video in untouched.videos) == segments
    assert sum(len(video.labels) for video in repaired.videos) == segments - dropped
    for video in repaired.videos:
        assert video.segments.dtype == np.float64
        assert video.segments.shape == (len(video.labels), 2)
        assert (video.segments[:, 0] >= 0).all()
        assert (video.segments[:, 0] < video.segments[:, 1]).all()
        assert video.duration is None or (video.segments <= video.duration).all()


def test_all_thumos_dialects_agree(public_annotations):
    training = [
        read_annotations(public_annotations / f"thumos14_{dialect}.json", subset=subset)
        for dialect, subset in (
            ("actionformer_style", "validation"),
            ("opentad_style", "training"),
            ("times_as_strings", "train"),
        )
    ]
    names = read_label_names(public_annotations / "thumos14_classes.txt")
    assert [annotations.label_names for annotations in training] == [names] * 3
    expected = {video.video_id: video for video in training[0].videos}
    rules = RuleLog()
    for annotations in training[1:]:
        assert {video.video_id for video in annotations.videos} == set(expected)
        for video in annotations.videos:
            other = expected[video.video_id]
            segments, labels = repair_segments(video, other.duration, rules)
            assert sorted(zip(labels, segments.tolist(), strict=True)) == sorted(
                zip(other.labels, other.segments.tolist(), strict=True)
            )
    # The dialect without durations cannot know of these before a video is opened.
    assert rules.counts == training[0].counts == {"outside_video": 4}


@pytest.mark.parametrize("subset", ["training", "TRAINING", "train", "Train"])
def test_subset_synonyms(make, subset):
    path = make(a=entry(("run", 1, 2)), b=entry(("run", 1, 2), subset="Test"))
    assert [video.video_id for video in read_annotations(path, subset=subset).videos] == ["a"]
    assert [video.video_id for video in read_annotations(path, subset="testing").videos] == ["b"]


def test_subset_name_in_the_file_comes_before_its_synonyms(make):
    path = make(a=entry(subset="train"), b=entry(subset="training"))
    assert [video.video_id for video in read_annotations(path, subset="train").videos] == ["a"]


def test_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text(json.dumps({"database": {"a": entry(("run", 1, 2))}}), encoding="utf-8-sig")
    assert read_annotations(path).label_names == ["run"]


def test_label_names_are_those_of_all_subsets(make):
    path = make(a=entry(("run", 1, 2)), b=entry(("jump", 1, 2), subset="validation"))
    assert read_annotations(path, subset="training").label_names == ["jump", "run"]
    assert read_annotations(path, subset="training").videos[0].labels == [1]


def test_label_ids_give_the_order_of_names(make):
    actions = [{"segment": [0, 1], "label": name, "label_id": i} for i, name in enumerate(("run", "jump"))]
    path = make(a={"subset": "train", "annotations": actions})
    assert read_annotations(path).label_names == ["run", "jump"]
    actions[1]["label_id"], actions[1]["label"] = 1, "run"
    with pytest.raises(AnnotationError, match="label 'run' has label_id 1 here and 0 elsewhere"):
        read_annotations(make(a={"subset": "train", "annotations": actions}))


def test_ids_index_the_given_names(tmp_path):
    videos = {"a": {"subset": "training", "duration": 9, "actions": [[1, 0, 1], [2, 3.5, 4]]}}
    path = write(tmp_path / "ids.json", videos)
    assert read_annotations(path).label_names == ["1", "2"]
    annotations = read_annotations(path, label_names=["run", "jump"], first_label_id=1)
    assert annotations.videos[0].labels == [0, 1]
    with pytest.raises(AnnotationError, match="unknown labels '2' .*first_label_id=1.*'jump'"):
        read_annotations(path, label_names=["run", "jump"])


def test_rules_drop_clip_and_count(make, caplog):
    actions = [
        ("run", 1, 2),
        ("jump", 1, 2),
        ("run", "1.0", "2"),
        ("run", 4, 4),
        ("run", 6, 5),
        ("run", -1, 3),
        ("run", 8, 12.5),
        ("run", 10, 11),
        ("run", 11, 11),
    ]
    path = make(a=entry(*actions, duration="10"), b=entry(("run", 3, 99)))
    with caplog.at_level(logging.WARNING):
        annotations = read_annotations(path)
    assert annotations.counts == {
        "duplicate_segment": 1,
        "empty_segment": 1,
        "point": 2,
        "past_video_edge": 2,
        "outside_video": 1,
    }
    assert annotations.videos[0].segments.tolist() == [[1, 2], [1, 2], [0, 3], [8, 10]]
    assert annotations.videos[0].labels == [1, 0, 1, 1]
    assert annotations.videos[1].duration is None
    assert annotations.videos[1].segments.tolist() == [[3, 99]]
    assert "empty_segment: 1 segments" in caplog.text and "first: a [4, 4]; give points a width" in caplog.text
    assert len(caplog.records) == 5


def in_unit(factor, number=6, seconds=40.0):
    """Videos with three actions each and the last near their end, times in so many parts of a second."""
    times = [(2.0, 5.0), (11.0, 14.5), (30.0, 38.0)]
    actions = [("run", start * factor, end * factor) for start, end in times]
    return {f"v{index}": entry(*actions, duration=seconds) for index in range(number)}


@pytest.mark.parametrize(
    ("factor", "guess"),
    [
        (30, "28.5 times the durations: they look like frames at about 30 a second"),
        (25, "frames at about 24 a second"),
        (1000, "they look like milliseconds; divide them by 1000"),
        (1e6, "microseconds"),
    ],
)
def test_times_that_are_not_seconds_are_refused(make, factor, guess):
    with pytest.raises(AnnotationError, match=f"1[78] of 18 segments lie wholly outside.*first: v0.*{guess}"):
        read_annotations(make(**in_unit(factor)))
    assert len(read_annotations(make(**in_unit(factor)), repair=False).videos) == 6
    assert read_annotations(make(**in_unit(factor)), max_lost=1.0).counts["outside_video"] >= 17


def test_a_few_times_outside_are_no_matter(make):
    videos = in_unit(1, number=3) | {"odd": entry(("run", 50, 60), ("run", 70, 80), duration=40)}
    annotations = read_annotations(make(**videos))
    assert annotations.counts == {"outside_video": 2}
    assert annotations.lost == {0: 2}
    assert annotations.class_agnostic().lost == {0: 2}


def test_start_and_length_in_place_of_start_and_end(make):
    with pytest.raises(AnnotationError, match=r"12 of 18 segments end before their start.*\[start, length\]"):
        read_annotations(make(**{f"v{i}": entry(("a", 1, 3), ("a", 11, 3), ("a", 30, 8)) for i in range(6)}))


@pytest.mark.parametrize("factor", [1 / 60, 1 / 1000])
def test_times_in_the_first_moments_of_every_video_are_doubted(make, caplog, factor):
    with caplog.at_level(logging.WARNING):
        read_annotations(make(**in_unit(factor)))
    assert "all actions of 6 videos lie in their first" in caplog.text
    caplog.clear()
    read_annotations(make(**in_unit(1 / 60) | in_unit(1, number=1)))
    assert not caplog.records


def test_class_agnostic(make):
    annotations = read_annotations(make(a=entry(("run", 1, 2), ("jump", 3, 4)))).class_agnostic()
    assert annotations.label_names == ["action"]
    assert annotations.videos[0].labels == [0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", 'expected {"database"'),
        ('{"database": {}}', 'expected {"database"'),
        ('{"database": {"a": {"annotations": []}, "a": {"annotations": []}}}', "duplicate ids 'a'"),
        ({"database": {"a": {"subset": "train"}}}, "video 'a': expected an object with"),
        ({"database": {"a": 3}}, "video 'a': expected an object with"),
        ({"database": {"a": entry(("run", 1))}}, "annotation 0: .*must be .start, end."),
        ({"database": {"a": entry(("run", 1, "two"))}}, "'two' is not a number"),
        ({"database": {"a": entry(("run", 1, None))}}, "None is not a number"),
        ('{"database": {"a": {"annotations": [{"label": "run", "segment": [0, NaN]}]}}}', "nan is"),
        ({"database": {"a": entry((None, 1, 2))}}, 'no usable "label"'),
        ({"database": {"a": entry((True, 1, 2), (1.5, 2, 3))}}, 'no usable "label"'),
        ({"database": {"a": entry((3, 1, 2), ("run", 2, 3))}}, "some labels are names"),
        ({"database": {"a": entry(duration=-1)}}, "duration -1 is not positive"),
        ({"database": {"a": entry(duration="long")}}, "duration: 'long' is not a number"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    path = write(tmp_path / "broken.json", content)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_wrong_choices_list_the_right_ones(make, tmp_path):
    path = make(a=entry(("run", 1, 2)), b=entry(("fly", 1, 2), subset="Test"))
    with pytest.raises(AnnotationError, match=r"'val'.*'training' \(1 videos\), 'Test' \(1 video"):
        read_annotations(path, subset="val")
    with pytest.raises(AnnotationError, match="unknown labels 'fly'.*'run', 'jump'"):
        read_annotations(path, label_names=["run", "jump"])
    assert read_annotations(path, subset="train", label_names=["run"]).videos[0].labels == [0]
    with pytest.raises(FileNotFoundError, match="absent.json"):
        read_annotations(tmp_path / "absent.json")


def test_video_files_are_found_by_id(make, tmp_path, caplog):
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    for name in ("v_a.MKV", "deep/b.b.webm", "c.mp4", "notes.txt"):
        (folder / name).touch()
    ids = ("a", "b.b", "c.mp4", "d")
    path = make(**{video_id: entry(("run", 1, 2)) for video_id in ids})
    annotations = read_annotations(path, video_folder=folder)
    assert [video.video_id for video in annotations.videos] == ["a", "b.b", "c.mp4"]
    found = [video.path.name for video in annotations.videos]
    assert found == ["v_a.MKV", "b.b.webm", "c.mp4"]
    assert annotations.counts == {"missing_file": 1}
    assert "missing_file: 1 videos without a file" in caplog.text and "first: d" in caplog.text

    kept = read_annotations(path, video_folder=folder, repair=False)
    assert [video.path is None for video in kept.videos] == [False, False, False, True]

    (folder / "deep" / "c.mp4").touch()
    with pytest.raises(AnnotationError, match=r"several files for video 'c.mp4'.*deep"):
        read_annotations(path, video_folder=folder)


def test_video_folder_without_the_videos(make, tmp_path):
    path = make(a=entry(("run", 1, 2)))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_annotations(path, video_folder=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="holds no video"):
        find_videos(tmp_path)
    (tmp_path / "other.mp4").touch()
    with pytest.raises(AnnotationError, match="none of its 1 videos .*'a', first file: 'other'"):
        read_annotations(path, video_folder=tmp_path)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """Writes {metadata file: rows} and empty videos beside them."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub"

    def make_folder(rows, videos):
        for name, lines in rows.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name, "\n".join(json.dumps(line) for line in lines))
        for name in videos:
            (folder / name).touch()
        return folder

    return make_folder


def test_hub_folder_with_splits(hub_folder):
    rows = {
        "train/metadata.jsonl": [
            {"file_name": "a.mp4", **entry(("run", 0, 1.5), ("jump", 2, 3), subset=None)},
            {"file_name": "b.mp4", **entry(subset=None)},
        ],
        "validation/metadata.jsonl": [{"file_name": "a.mp4", **entry(("jump", 1, 2), subset=None)}],
    }
    folder = hub_folder(rows, ["train/a.mp4", "train/b.mp4", "validation/a.mp4"])
    annotations = read_annotations(folder, subset="training")
    assert [video.path for video in annotations.videos] == [
        folder / "train/a.mp4",
        folder / "train/b.mp4",
    ]
    assert annotations.videos[0].segments.tolist() == [[0, 1.5], [2, 3]]
    assert annotations.videos[0].labels == [1, 0]
    assert annotations.videos[1].labels == []
    assert len(read_annotations(folder, subset="val").videos) == 1
    with pytest.raises(AnnotationError, match="duplicate ids 'a'"):
        read_annotations(folder)


def test_hub_folder_is_not_split_by_the_names_of_the_videos(hub_folder):
    names = ["clip_train_1.mp4", "clip_valid_1.mp4", "test-1.mp4"]
    lines = [{"file_name": name, **entry(("run", 0, 1), subset=None)} for name in names]
    annotations = read_annotations(hub_folder({"metadata.jsonl": lines}, names), subset="train")
    assert [f"{video.video_id}.mp4" for video in annotations.videos] == names
    assert [len(video.labels) for video in annotations.videos] == [1, 1, 1]


def test_hub_folder_with_one_metadata_file(hub_folder):
    lines = [
        {
            "file_name": "a.mp4",
            "video_id": "first",
            **entry(("run", "0", "1.5"), subset="Test", duration=1),
        },
        {"file_name": "gone.mp4", "video_id": None, **entry(("run", "0", "1"), subset="Train")},
    ]
    folder = hub_folder({"metadata.jsonl": lines}, ["a.mp4"])
    annotations = read_annotations(folder)
    assert [video.video_id for video in annotations.videos] == ["first"]
    assert annotations.videos[0].segments.tolist() == [[0, 1]]
    assert annotations.counts == {"past_video_edge": 1, "missing_file": 1}
    with pytest.raises(AnnotationError, match="no video of the 1 in subset 'train' has a file"):
        read_annotations(folder, subset="train")


def test_hub_folder_without_usable_metadata(hub_folder, tmp_path):
    with pytest.raises(AnnotationError, match="no metadata.jsonl"):
        read_annotations(tmp_path)
    folder = hub_folder({"metadata.jsonl": [{"name": "a.mp4"}]}, ["a.mp4"])
    with pytest.raises(AnnotationError, match="metadata.jsonl: row 1 has no .file_name"):
        read_annotations(folder)


# As HACS' README shows it, as OpenTAD's AnetPaddingDataset reads FineAction's annotations_gt.json, and as its
# convert_epic_kitchens_anno.py writes: the actions of the test are kept back.
PUBLISHED_FORMS = {
    "HACS": {
        "annotations": [{"label": "A", "segment": [5.4, 11.6]}],
        "duration": "92.166667",
        "url": "https://youtu.be/x",
    },
    "FineAction": {"annotations": [{"label": "A", "segment": [5.4, 11.6], "label_id": 7}], "duration": 92.17},
    "EPIC": {"duration": 92.17, "annotations": [{"segment": [5.4, 11.6], "label": "A", "label_name": "put"}]},
}


@pytest.mark.parametrize("form", PUBLISHED_FORMS)
def test_published_forms_load_with_the_videos_of_their_test(make, form):
    path = make(a={"subset": "train", **PUBLISHED_FORMS[form]}, b={"subset": "test", "duration": 2.5})
    video, held_back = read_annotations(path).videos
    assert video.segments.tolist() == [[5.4, 11.6]] and video.duration == pytest.approx(92.17, abs=0.01)
    assert len(held_back.labels) == 0 and held_back.subset == "test"
    with pytest.raises(AnnotationError, match="video 'b': expected an object"):
        read_annotations(make(a=PUBLISHED_FORMS[form], b={"subset": "test"}))
