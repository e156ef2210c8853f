"""Which subset the videos of a folder belong to, held against what `datasets.load_dataset` makes of the folder."""

import json
import logging
import shutil

import datasets
import pytest
from video_factory import numbered_frames, write_video

from re2tal_hf.data.annotations import AnnotationError, read_annotations

ACTION = [{"segment": [0.5, 1.0], "label": "kick"}]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", numbered_frames(20), 10)


@pytest.fixture
def make(tmp_path, video, monkeypatch):
    """Writes {table: its file names or rows} and the videos."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def make_folder(tables):
        folder = tmp_path / "data set"
        for table, names in tables.items():
            rows = [name if isinstance(name, dict) else {"file_name": name} for name in names]
            (folder / table).parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps({"annotations": ACTION, **row}) for row in rows]
            (folder / table).write_text("\n".join(lines))
            for row in rows:
                path = (folder / table).parent / row["file_name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(video, path)
        return folder

    return make_folder


def ours(folder):
    found = {}
    for video in read_annotations(folder).videos:
        found.setdefault(video.subset, set()).add(video.video_id)
    return found


def theirs(folder):
    splits = datasets.load_dataset("videofolder", data_dir=str(folder), streaming=True)
    names = {split: [row["video"]["path"] for row in rows.decode(False)] for split, rows in splits.items()}
    return {split: {path[: -len(".mp4")].rpartition("/")[2] for path in paths} for split, paths in names.items()}


@pytest.mark.parametrize(
    "tables",
    [
        {"metadata.jsonl": ["train/a.mp4", "validation/b.mp4", "test/c.mp4"]},
        {"metadata.jsonl": ["my-train/a.mp4", "valid_2/b.mp4", "clips.test/deep/c.mp4"]},
        {"metadata.jsonl": ["a.mp4", "b.mp4"]},
        {"train/day1/metadata.jsonl": ["a.mp4"], "train/day2/metadata.jsonl": ["b.mp4"]},
        {"train/metadata.jsonl": ["a.mp4"], "val/metadata.jsonl": ["b.mp4"], "dev/metadata.jsonl": ["c.mp4"]},
        {"data/training/metadata.jsonl": ["x/a.mp4"], "data/evaluation/metadata.jsonl": ["b.mp4"]},
        {"day1/metadata.jsonl": ["a.mp4"], "day2/metadata.jsonl": ["b.mp4"]},
        {"training/metadata.jsonl": ["b.mp4"], ".cache/test/metadata.jsonl": ["c.mp4"]},
    ],
)
def test_folders_name_the_splits_as_for_datasets(make, tables):
    folder = make(tables)
    assert ours(folder) == theirs(folder)


def test_a_table_of_one_split_may_name_folders_of_others(make):
    folder = make({"train/metadata.jsonl": ["test/a.mp4"], "validation/metadata.jsonl": ["b.mp4"]})
    assert ours(folder) == {"train": {"a"}, "validation": {"b"}}


def test_words_in_file_names_name_no_split(make):
    folder = make({"metadata.jsonl": ["test_1.mp4", "clip-train-2.mp4", "valid.mp4"]})
    assert ours(folder) == {"train": {"test_1", "clip-train-2", "valid"}}


def test_links_count_by_their_own_names(make, tmp_path):
    folder = make({"metadata.jsonl": ["clips/a.mp4"]}).rename(tmp_path / "test")
    (tmp_path / "val").symlink_to(folder)
    assert ours(tmp_path / "val") == ours(folder) == {"train": {"a"}}
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/val").symlink_to(folder)
    assert ours(tmp_path / "linked") == {"validation": {"a"}}


def test_the_subset_of_a_row_comes_first(make):
    rows = [{"file_name": "test/a.mp4", "subset": "extra"}, {"file_name": "test/b.mp4", "subset": None}]
    assert ours(make({"metadata.jsonl": rows})) == {"extra": {"a"}, "test": {"b"}}


def test_folders_of_ones_own_can_be_asked_for(make, caplog):
    folder = make({"set1/metadata.jsonl": ["a.mp4"], "set2/metadata.jsonl": ["b.mp4"]})
    found = read_annotations(folder, subset="Set2").videos
    assert [(video.video_id, video.subset) for video in found] == [("b", "Set2")]
    folder = make({"Train/day1/metadata.jsonl": ["c.mp4"], "metadata.jsonl": ["d.mp4"]})
    with caplog.at_level(logging.WARNING):
        assert ours(folder) == {"train": {"c"}, "set1": {"a"}, "set2": {"b"}, "": {"d"}}
    assert "1 videos lie beside the folders of the splits" in caplog.text
    assert [video.video_id for video in read_annotations(folder, subset="training").videos] == ["c"]
    assert [video.video_id for video in read_annotations(folder, subset="day1").videos] == ["c"]


def test_two_splits_for_one_video_are_refused(make):
    with pytest.raises(AnnotationError, match="folders of several splits, train and test"):
        read_annotations(make({"metadata.jsonl": ["train/test/a.mp4"]}))


@pytest.mark.parametrize("subset", ["", " "])
def test_an_empty_name_is_refused(make, subset):
    with pytest.raises(AnnotationError, match=r"name of the subset is empty; the file has 'train' \(1 videos\)"):
        read_annotations(make({"metadata.jsonl": ["train/a.mp4"]}), subset=subset)
