"""What people write into annotation files in good faith, and what becomes of it."""

import json
import logging

import pytest
from test_annotations import entry
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.evaluate import read_video_scores
from re2tal_hf.data.annotations import AnnotationError, read_annotations, read_label_names
from re2tal_hf.data.detection_files import write_detections, write_submission
from re2tal_hf.data.labelled_clips import read_clips
from re2tal_hf.data.subsets import check_actions
from re2tal_hf.data.video_files import find_videos


@pytest.fixture
def make(tmp_path):
    """Writes {video_id: entry} as a database and gives its path."""

    def make_file(videos, name="annotations.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"database": videos}))
        return path

    return make_file


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_blanks_and_invisible_characters_are_no_part_of_a_label(make, caplog):
    labels = [
        "punch",
        "punch ",
        "punch\xa0",
        "\ufeffpunch",
        "pun\u200bch",
        "high  jump",
        "high\tjump",
        "e\u0301",
        "\xe9",
    ]
    with caplog.at_level(logging.WARNING):
        found = read_annotations(make({"a": entry(*((label, i, i + 1) for i, label in enumerate(labels)))}))
    assert found.label_names == ["high jump", "punch", "\xe9"]
    assert found.videos[0].labels == [1, 1, 1, 1, 1, 0, 0, 2, 2]
    assert found.counts == {"label_spelling": 6}
    assert "label_spelling: 6 labels with blanks" in caplog.text and "first: a 'punch '" in caplog.text


def test_letters_are_joined_and_parted_inside_a_word_only(make):
    persian = "\u0645\u06cc\u200c\u062f\u0648\u062f"
    found = read_annotations(make({"a": entry((persian, 0, 1), (f"{persian}\u200c", 2, 3))}))
    assert found.label_names == [persian]


def test_labels_that_differ_only_in_case_are_refused(make):
    path = make({"a": entry(("Punch ", 0, 1), ("punch", 1, 2)), "b": entry(("punch", 0, 1), subset="Test")})
    with pytest.raises(AnnotationError, match=r"'Punch' \(1 actions\) and 'punch' \(2 actions\) differ only in case"):
        read_annotations(path, subset="training")
    found = read_annotations(path, subset="training", label_names=["punch", "Punch"])
    assert found.videos[0].labels == [1, 0]


@pytest.mark.parametrize("label", ["", " ", "\u200b", True, False, -1, 1.5, [], ["run"], {}, None])
def test_what_names_no_class_is_refused(make, label):
    with pytest.raises(AnnotationError, match="video 'a', annotation 1: .*label"):
        read_annotations(make({"a": entry(("run", 0, 1), (label, 1, 2))}))


def test_ids_may_be_written_as_decimals(make):
    actions = [
        {"segment": [0, 1], "label": "run", "label_id": 1.0},
        {"segment": [0, 1], "label": "jump", "label_id": 2},
    ]
    assert read_annotations(make({"a": {"annotations": actions}})).label_names == ["run", "jump"]
    assert read_annotations(make({"a": entry((3.0, 0, 1))})).label_names == ["3"]


def test_points_are_dropped_or_get_a_width(make, caplog):
    path = make({"a": entry(("run", 1, 2), ("run", 4, 4), ("run", 0, 0), ("run", 9.75, 9.75), duration=10)})
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(AnnotationError, match="3 of 4 segments end at .*point_width=1"),
    ):
        read_annotations(path)
    assert read_annotations(path, max_lost=1).counts == {"point": 3}
    assert "data.point_width=1" in caplog.text and "--point-width 1" in caplog.text
    for repair in (True, False):
        found = read_annotations(path, point_width=1, repair=repair)
        assert found.videos[0].segments.tolist() == [[1, 2], [3.5, 4.5], [0, 0.5], [9.25, 10]]
        assert found.counts == {}
    for width in (0, -1, float("nan"), "wide"):
        with pytest.raises(ValueError, match="point_width"):
            read_annotations(path, point_width=width)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1:02:03.5", 3723.5),
        ("02:03", 123),
        ("00:01:02,500", 62.5),
        ("90:00", 5400),
        ("62.5s", 62.5),
        (" 62.5 ", 62.5),
        ("6.25e1", 62.5),
        (62, 62),
    ],
)
def test_times_that_are_read(make, time, seconds):
    [video] = read_annotations(make({"a": entry(("run", 0, time), duration=time)})).videos
    assert video.segments.tolist() == [[0, seconds]] and video.duration == seconds


@pytest.mark.parametrize(
    "time",
    ["1:75", "1:62:03", "0:01:02:15", "1:2:3:4:5", "12,5", "now", "", "inf", "1_0", "9" * 400, 10**400, 1.7e9, True],
)
def test_times_that_are_refused(make, time):
    with pytest.raises(
        AnnotationError, match=r"video 'a', annotation 0: segment: .* is not a number of seconds"
    ) as caught:
        read_annotations(make({"a": entry(("run", 0, time))}))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("annotations", [3.5, {}, {"0": {}}, "none", "", 0, False, True])
def test_annotations_that_are_no_list_are_refused(make, annotations):
    with pytest.raises(AnnotationError, match="video 'a': \"annotations\" is .*; it must be a list"):
        read_annotations(make({"a": {"annotations": annotations}}))
    assert read_annotations(make({"a": {"annotations": None}})).videos[0].labels == []


@pytest.mark.parametrize(
    ("video_id", "file"),
    [
        ("train/v0", "train/v0.mp4"),
        ("train\\v0.mp4", "train/v0.mp4"),
        ("./train/v0.MP4", "train/v0.mp4"),
        ("/data/set/train/v0.mp4", "train/v0.mp4"),
        ("test/v0", "test/v0.mp4"),
        ("v1.mp4", "train/v1.mp4"),
        ("v1.avi", "train/v1.avi"),
        ("train/v2", "v2.mp4"),
        ("[1]", "a[b]/[1].mp4"),
        ("v3", "deep/v_v3.mkv"),
    ],
)
def test_ids_with_folders_and_extensions(make, tmp_path, video_id, file):
    videos = tmp_path / "my [videos]*"
    names = ["train/v0.mp4", "test/v0.mp4", "train/v1.mp4", "train/v1.avi", "v2.mp4", "a[b]/[1].mp4", "deep/v_v3.mkv"]
    for name in [*names, ".cache/v0.mp4", "__MACOSX/train/v2.mp4", "train/._v1.mp4", ".ipynb_checkpoints/v2.mp4"]:
        touch(videos / name)
    [video] = read_annotations(make({video_id: entry(("run", 1, 2))}), video_folder=videos).videos
    assert video.path == videos / file


def test_ids_that_mean_no_file_or_the_same_one(make, tmp_path):
    touch(tmp_path / "videos/test/v0.mp4")
    with pytest.raises(AnnotationError, match="none of its 1 videos"):
        read_annotations(make({"train/v0": entry(("run", 1, 2))}), video_folder=tmp_path / "videos")
    with pytest.raises(AnnotationError, match=r"'v0' and 'v0.mp4' are both called by v0\.mp4"):
        read_annotations(make({"v0": entry(), "v0.mp4": entry()}), video_folder=tmp_path / "videos")
    with pytest.raises(AnnotationError, match="'' is no id of a video"):
        read_annotations(make({"": entry()}))


def test_hidden_folders_alone_hold_no_video(tmp_path):
    touch(tmp_path / ".trash/v0.mp4")
    with pytest.raises(FileNotFoundError, match="holds no video.*hidden files and folders.*are passed over"):
        find_videos(tmp_path)
    touch(tmp_path / "train/.ipynb_checkpoints/a.mp4")
    touch(tmp_path / "train/run/notes.txt")
    with pytest.raises(AnnotationError, match="no readable clip"):
        read_clips(tmp_path, "train")


def test_classes_of_clips_are_read_like_labels(tmp_path):
    clip = write_video(touch(tmp_path / "train/punch/a.mp4"), numbered_frames(5))
    for place in ("train/punch /b.mp4", "test/kick\xa0/c.mp4"):
        touch(tmp_path / place).write_bytes(clip.read_bytes())
    clips = read_clips(tmp_path, "train")
    assert clips.label_names == ["kick", "punch"] and [video.labels for video in clips.videos] == [[1], [1]]
    touch(tmp_path / "test/Punch/d.mp4")
    with pytest.raises(AnnotationError, match="labels 'Punch' .* and 'punch' .* differ only in case"):
        read_clips(tmp_path, "train")


def metadata(folder, rows, name="metadata.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(rows if isinstance(rows, list) else [rows]))


ROW = json.dumps({"file_name": "v [0].mp4", "annotations": [{"segment": ["0:00", "0:01"], "label": "run "}]})


def test_folder_with_brackets_and_a_table(tmp_path):
    folder = tmp_path / "set [1] *?"
    metadata(folder / "[train]", ROW)
    touch(folder / "[train]" / "v [0].mp4")
    [video] = read_annotations(folder).videos
    assert (video.video_id, video.subset, video.segments.tolist()) == ("v [0]", "train", [[0, 1]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "file_name,start,end"}, r"metadata\.csv: this is a CSV table"),
        ({"metadata.csv": "", "metadata.jsonl": ROW}, r"metadata\.csv and metadata\.jsonl are both in"),
        ({"metadata.parquet": "PAR1"}, r"metadata\.parquet: not a Parquet table"),
        ({"metadata.jsonl": [ROW, "{"]}, r"metadata\.jsonl: line 2 is not JSON \(Expecting"),
        ({"metadata.jsonl": [ROW, "[]"]}, r"metadata\.jsonl: row 2 has no \"file_name\""),
        ({"metadata.jsonl": '{"file_name": 3}'}, r"metadata\.jsonl: row 1 has no \"file_name\""),
        (
            {"metadata.jsonl": '{"file_name": "a", "file_name": "b"}'},
            r"metadata\.jsonl: line 1: duplicate ids 'file_name'",
        ),
        ({"metadata.jsonl": '{"file_name": "a.mp4"}'}, r"metadata\.jsonl: row 1: video 'a': expected an object with"),
        ({"metadata.jsonl": "\ud800"}, r"metadata\.jsonl: not a text in UTF-8"),
        ({"metadata.jsonl": ROW, "README.md": "---\nconfigs: [\n---\n"}, r"README\.md: its metadata cannot be read"),
    ],
)
def test_tables_that_are_refused(tmp_path, files, message):
    for name, content in files.items():
        text = "\n".join(content) if isinstance(content, list) else content
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    touch(tmp_path / "v [0].mp4")
    with pytest.raises(AnnotationError, match=message):
        read_annotations(tmp_path)


DETECTIONS = [
    {"label": "run", "score": 0.9, "start": 0.5, "end": 2.0},
    {"label": "hop", "score": 0.1, "start": 3, "end": 4},
]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("source", None),
        ("source", b"a.json"),
        ("video_folder", 3),
        ("subset", ["training"]),
        ("label_names", "run"),
        ("label_names", [1]),
        ("first_label_id", -1),
        ("max_lost", float("nan")),
        ("point_width", True),
    ],
)
def test_arguments_of_wrong_types_are_named(make, argument, value):
    settings = {"source": make({"a": entry(("run", 0, 1))}), argument: value}
    with pytest.raises((TypeError, ValueError), match=f"{argument} is "):
        read_annotations(**settings)
    for source in ("x" * 5000, "a\0b", ""):
        with pytest.raises(FileNotFoundError, match="do not exist; give a JSON file or a folder"):
            read_annotations(source)


def test_our_own_output_is_read_as_annotations(tmp_path, caplog):
    write_detections(tmp_path / "match.json", DETECTIONS)
    write_submission(tmp_path / "detections.json", {"match": DETECTIONS, "empty": []})
    for name, ids in (("match.json", ["match"]), ("detections.json", ["match", "empty"])):
        for subset in (None, "validation"):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                found = read_annotations(tmp_path / name, subset=subset)
            assert [video.video_id for video in found.videos] == ids
            assert found.label_names == ["hop", "run"] and found.videos[0].labels == [1, 0]
            assert found.videos[0].segments.tolist() == [[0.5, 2], [3, 4]]
            assert found.videos[0].subset == (subset or "")
            assert "detection: 2 actions that are detections, with a score, taken whatever" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"video,start,end", "this is a CSV table, which is not read; give JSON"),
        ("a.txt", b"v0 1 2", "this is a text"),
        ("a.xml", b"<annotation/>", "this is XML"),
        ("a.eaf", b"<x/>", "this is an ELAN file"),
        ("b.eaf", b"<ANNOTATION_DOCUMENT>", "not well-formed XML"),
        ("a.yaml", b"database: {}", "this is YAML"),
        ("a.json", b"<!doctype html>", "this is XML or HTML"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.json", b"PK\x03\x04", "an archive or a spreadsheet"),
        ("a.json", b"", "this is an empty file"),
        ("a.json", b"\xff\xfe\x00", "not a JSON file"),
        ("a.json", '{"a": "föhn"}'.encode("latin-1"), "byte 8 is no text in UTF-8; save it as UTF-8"),
        ("a.json", b"[" * 10**5, "nested too deep"),
        ("a.json", b'{"a": ' + b"1" * 5000 + b"}", "not a JSON file"),
        ("a.json", b'{"database": []}', "expected {"),
        ("a.json", b'{"database": 3}', "expected {"),
        ("a.json", b'[{"file_name": "a.mp4"}]', "expected {"),
        (
            "metadata.jsonl",
            ROW.encode() + b"\n" + ROW.encode(),
            r"this is JSON lines \(of a metadata.jsonl, give the folder\)",
        ),
    ],
)
def test_other_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(tmp_path / name)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_unicode_is_read(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"é": entry(("föhn", 0, 1))}, ensure_ascii=False), encoding=encoding)
    assert read_annotations(path).label_names == ["föhn"]


def test_subsets_that_are_none(make):
    path = make({"a": {"annotations": []}})
    with pytest.raises(
        AnnotationError, match="no videos in subset 'training'; no video has a \"subset\"; give each one"
    ):
        read_annotations(path, subset="training")
    with pytest.raises(AnnotationError, match="video 'a': \"subset\" is 3; it must be a name"):
        read_annotations(make({"a": entry(subset=3)}))
    found = read_annotations(make({"a": entry(subset=" training ")}), subset="training ")
    assert found.videos[0].subset == "training"
    with pytest.raises(AnnotationError, match="none of the 1 videos of the subset training has an action"):
        check_actions(found, "training")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no names of classes"),
        ("\n \n", "no names of classes"),
        ("run\nrun \n", "duplicate ids 'run'"),
        ("a\0b", "no names of classes"),
        ('["run", "hop"]', "no list of names, but begins"),
        (b"\xff\xfe\x00", "not a text in UTF-8"),
    ],
)
def test_files_of_label_names_that_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AnnotationError, match=rf"labels\.txt: .*{message}"):
        read_label_names(path)
    path.write_text("\ufeff run \r\n\nhigh\u00a0 jump\n", encoding="utf-8")
    assert read_label_names(path) == ["run", "high jump"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("{}", "not of the form"),
        ("[]", "not of the form"),
        ('{"a": 1}', "not of the form"),
        ('{"a": {}}', "empty"),
        ('{"a": {"run": "much"}}', "the score of 'run' is 'much'"),
        ('{"a": {"run": NaN}}', "the score of 'run' is nan"),
        ('{"a": {"fly": 1}}', "labels that the annotations do not: 'fly'"),
        ('{"a": {"run": 1}, "a": {"run": 1}}', "duplicate ids 'a'"),
    ],
)
def test_video_scores_that_are_refused(tmp_path, content, message):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"scores\.json.*{message}"):
        read_video_scores(str(path), ["run", "föhn"])
    path.write_text('{"a": {"föhn ": 0.5}}', encoding="utf-8")
    assert read_video_scores(str(path), ["run", "föhn"]) == {"a": {"föhn": 0.5}}
