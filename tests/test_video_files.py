import json
import unicodedata

import pytest
from video_factory import numbered_frames, write_video

from re2tal_hf.data.annotations import AnnotationError, read_annotations
from re2tal_hf.data.labelled_clips import read_clips
from re2tal_hf.data.video_files import find_file, find_videos, names_of_results

COMPOSED, APART = (unicodedata.normalize(form, "été_ñ") for form in ("NFC", "NFD"))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def annotations(path, *ids):
    entries = {
        id: {"subset": "training", "duration": 4.0, "annotations": [{"segment": [1, 2], "label": "a"}]} for id in ids
    }
    path.write_text(json.dumps({"database": entries}))
    return path


@pytest.mark.parametrize(
    "extension", ["mts", "m2ts", "ogv", "mxf", "asf", "vob", "gif", "MP4", "rm", "dv", "3g2", "hevc"]
)
def test_every_extension_is_found(tmp_path, extension):
    path = touch(tmp_path / f"a.{extension}")
    assert find_videos(tmp_path) == {"a": [path]}
    [video] = read_annotations(annotations(tmp_path / "a.json", "a"), video_folder=tmp_path).videos
    assert video.path == path


def test_what_is_no_video_is_not_found(tmp_path):
    for name in ("a.txt", "._a.mp4", "a.png", "a.mp4.part"):
        touch(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="holds no video"):
        find_videos(tmp_path)
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "a.gif")  # a preview
    assert find_videos(tmp_path) == {"a": [tmp_path / "a.mp4"]}


def test_linked_folders_are_searched_and_loops_end(tmp_path):
    folder, disk = tmp_path / "videos", tmp_path / "disk"
    touch(folder / "here" / "a.mp4")
    touch(disk / "deep" / "b.mp4")
    (folder / "linked").symlink_to(disk, target_is_directory=True)
    (folder / "again").symlink_to(disk, target_is_directory=True)
    (folder / "here" / "up").symlink_to(folder, target_is_directory=True)
    (disk / "deep" / "back").symlink_to(disk, target_is_directory=True)
    (folder / "c.mp4").symlink_to(disk / "deep" / "b.mp4")
    (folder / "gone.mp4").symlink_to(disk / "gone.mp4")
    (folder / "itself.mp4").symlink_to(folder / "itself.mp4")
    assert {stem: len(paths) for stem, paths in find_videos(folder).items()} == {"a": 1, "b": 1, "c": 1}
    assert find_videos(folder / "linked")["b"] == [folder / "linked" / "deep" / "b.mp4"]


@pytest.mark.parametrize(("id", "name"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_accents_match_in_both_forms(tmp_path, id, name):
    path = touch(tmp_path / "videos" / name / f"{name}.mp4")
    [video] = read_annotations(annotations(tmp_path / "a.json", id), video_folder=tmp_path).videos
    assert (video.video_id, video.path) == (id, path)
    assert find_file(tmp_path / "videos" / id / f"{id}.mp4") == path
    assert find_file(tmp_path / "videos" / id / "other.mp4") is None


def test_names_that_differ_only_in_the_form_of_their_accents_are_said(tmp_path):
    source = annotations(tmp_path / "a.json", COMPOSED)
    for name in (COMPOSED, APART):
        touch(tmp_path / "videos" / f"{name}.mp4")
    with pytest.raises(AnnotationError, match="several files for video.*only in how accents are written.*keep one"):
        read_annotations(source, video_folder=tmp_path / "videos")
    with pytest.raises(AnnotationError, match="duplicate ids.*accents"):
        read_annotations(annotations(tmp_path / "b.json", COMPOSED, APART))


def test_an_id_may_end_like_an_extension(tmp_path):
    path = touch(tmp_path / "match.dv.mp4")
    [video] = read_annotations(annotations(tmp_path / "a.json", "match.dv"), video_folder=tmp_path).videos
    assert video.path == path


@pytest.mark.parametrize(("listed", "name"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_accents_in_a_table_of_metadata(tmp_path, monkeypatch, listed, name):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write_video(touch(tmp_path / "data" / "train" / f"{name}.mp4"), numbered_frames(5))
    row = {"file_name": f"{listed}.mp4", "annotations": [{"segment": [0.0, 0.1], "label": "a"}]}
    (path.parent / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    [video] = read_annotations(tmp_path / "data").videos
    assert video.path == path


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.mp4", "b/x.mp4", "y.mp4"], ["a_x", "b_x", "y"]),
        (["x.mp4", "x.avi"], ["x.mp4", "x.avi"]),
        (["a/x.mp4", "a/x.avi", "b/x.mp4"], ["a_x.mp4", "a_x.avi", "b_x.mp4"]),
        (["a/c/x.mp4", "b/c/x.mp4", "a_c_x.mp4"], ["a_c_x-2", "b_c_x", "a_c_x"]),
        (["X.mp4", "x.mp4"], None),
        ([f"a/{COMPOSED}.mp4", f"b/{APART}.mp4"], [f"a_{COMPOSED}", f"b_{APART}"]),
        (["/x.mp4", "/a/x.mp4"], None),
        (["a_b/x.mp4", "a/b_x.mp4", "a/b/x.mp4"], None),
        (["x.mp4", "x-2.mp4", "b/x.mp4", "b_x.mp4"], None),
    ],
)
def test_results_of_several_videos_get_names_of_their_own(paths, names):
    found = names_of_results(paths)
    assert names is None or found == names
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(paths)
    assert not any("/" in name for name in found)


def test_a_linked_split_has_its_table_of_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, folder in (("train", tmp_path / "data" / "train"), ("validation", tmp_path / "disk")):
        write_video(touch(folder / f"{split}.mp4"), numbered_frames(5))
        row = {"file_name": f"{split}.mp4", "annotations": [{"segment": [0.0, 0.1], "label": "a"}]}
        (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "validation").symlink_to(tmp_path / "disk", target_is_directory=True)
    videos = read_annotations(tmp_path / "data").videos
    assert [(video.video_id, video.subset) for video in videos] == [("train", "train"), ("validation", "validation")]


def test_clips_of_a_class_whose_name_is_written_in_two_forms(tmp_path):
    for split, name in (("train", COMPOSED), ("validation", APART)):
        for clip in ("a.mts", "b.gif"):
            codec = {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0} if clip.endswith("gif") else {}
            container = "gif" if codec else "mpegts"
            write_video(touch(tmp_path / split / name / clip), numbered_frames(5), container=container, **codec)
    clips = read_clips(tmp_path, "validation")
    assert clips.label_names == [COMPOSED]
    assert [video.labels for video in clips.videos] == [[0], [0]]
