"""Datasets of the Hub: made, uploaded, loaded, streamed and trained from."""

import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from test_trainer import TINY
from video_factory import numbered_frames, write_video

from re2tal_hf.data.annotations import AnnotatedVideo, AnnotationError, read_annotations
from re2tal_hf.data.hub_video import HubVideo
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.publishing import dataset as dataset_files
from re2tal_hf.publishing.dataset import read_dataset, write_dataset
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReadError

ROOT = Path(__file__).resolve().parents[1]


def action(start, end, label):
    return {"segment": [start, end], "label": label}


def database():
    """Six seconds each; whole seconds, a name that is not ASCII, words of splits in names, a video without actions."""
    return {
        "test_a": {
            "subset": "training",
            "duration": 6,
            "annotations": [action(1, 2, "Weitwurf über"), action(3.25, 5.5, "run")],
        },
        "empty": {"subset": "training", "annotations": []},
        "train_c": {"subset": "validation", "duration": 6.0, "annotations": [action(0, 6, "run")]},
        "d": {"subset": "validation", "annotations": [action(2, 3, "Weitwurf über"), action(5, 7, "run")]},
        "e": {"subset": "testing", "duration": 6.0, "annotations": [action(4, 5, "run")]},
    }


def write_annotations(path, content):
    path.write_text(json.dumps({"database": content}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, video_id in enumerate(database()):
        frames = (numbered_frames(60) * (1 - number / 10)).astype(np.uint8)
        write_video(folder / f"{video_id}.mp4", frames, 10)
    return folder


@pytest.fixture
def make(videos, tmp_path):
    """Makes a dataset folder of a database; returns its annotation file and the folder."""

    def make_folder(content, **settings):
        source = write_annotations(tmp_path / "annotations.json", content)
        folder = write_dataset(read_dataset(source, videos), tmp_path / "made", name="Made", **settings)
        return source, folder

    return make_folder


def content(annotations):
    return annotations.label_names, [
        (video.video_id, video.segments.tolist(), video.labels) for video in annotations.videos
    ]


def without_actions_in_the_test_split():
    return {**database(), "e": {"subset": "testing", "annotations": []}}


@pytest.mark.parametrize("content_of_file", [database, without_actions_in_the_test_split])
def test_annotations_come_back(make, videos, content_of_file):
    source, folder = make(content_of_file())
    for subset in ("training", "validation", "testing"):
        for repair in (True, False):
            given = read_annotations(source, subset=subset, video_folder=videos, repair=repair)
            made = read_annotations(folder, subset=subset, repair=repair)
            if subset == "validation" and repair:  # "d" has an action past its end, and only the folder its duration
                assert made.videos[1].segments.tolist() == [[2, 3], [5, 6]]
                made.videos[1].segments[1, 1] = 7
            assert content(made) == content(given)
            assert all(video.path.is_file() and video.duration == 6 for video in made.videos)


@pytest.mark.parametrize("content_of_file", [database, without_actions_in_the_test_split])
def test_every_split_has_the_declared_features(make, monkeypatch, tmp_path, content_of_file):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    _, folder = make(content_of_file())
    declared = datasets.load_dataset_builder(str(folder)).info.features
    assert declared["annotations"].feature["label"].names == ["Weitwurf über", "run"]
    for streaming in (False, True):
        splits = datasets.load_dataset(str(folder), streaming=streaming)
        assert {name: rows.features for name, rows in splits.items()} == dict.fromkeys(
            ("train", "validation", "test"), declared
        )
    row = next(iter(splits["train"].decode(False)))
    assert row["video_id"] == "test_a" and row["duration"] == 6.0
    assert row["annotations"] == [
        {"segment": [1.0, 2.0], "label": 0},
        {"segment": [3.25, 5.5], "label": 1},
    ]


def test_order_of_the_classes_is_kept(make):
    numbered = database()
    for entry in numbered.values():
        for item in entry["annotations"]:
            item["label_id"] = {"run": 0, "Weitwurf über": 1}[item["label"]]
    source, folder = make(numbered)
    assert read_annotations(source).label_names == ["run", "Weitwurf über"]
    assert read_annotations(folder, subset="train").label_names == ["run", "Weitwurf über"]
    assert read_annotations(folder, subset="train").videos[0].labels == [1, 0]


@pytest.mark.parametrize("name", ["made [1]", "made?", "[a]*"])
def test_brackets_in_the_name_of_a_folder_with_a_card_are_no_pattern(make, tmp_path, name):
    _, folder = make(database())
    plain = [content(read_annotations(folder, subset=subset)) for subset in ("train", "validation", "test")]
    (tmp_path / "made ?1").mkdir()  # which a pattern would take, too
    moved = folder.rename(tmp_path / name)
    for subset, expected in zip(("train", "validation", "test"), plain, strict=True):
        found = read_annotations(moved, subset=subset)
        assert content(found) == expected
        assert all(video.path.parent == moved / subset for video in found.videos)


@pytest.mark.parametrize("row", ["null", "[1]", "3"])
def test_a_row_that_is_no_object_never_reaches_datasets(make, row):
    _, folder = make(database())
    table = folder / "train" / "metadata.jsonl"
    table.write_text(f"{table.read_text(encoding='utf-8')}{row}\n", encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"metadata.jsonl: row 3 is "):
        read_annotations(folder, subset="train")


def test_what_is_wrong_with_labels_is_said_before_a_dataset_is_made(videos, tmp_path):
    spelt = {"e": {"subset": "test", "annotations": [action(0, 1, "run "), {**action(2, 3, "run"), "score": 0.5}]}}
    dataset = read_dataset(write_annotations(tmp_path / "annotations.json", spelt), videos)
    assert dataset.label_names == ["run"]
    assert dataset.problems[0].startswith("label_spelling: 1 labels with blanks")
    assert dataset.problems[1].startswith("detection: 1 actions that are detections")


def test_card_says_what_is_inside(make):
    _, folder = make(database(), repo_id="user/made", license="cc-by-4.0")
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert "| train | 2 | 2 | 0.00 |" in text and "| validation | 2 | 3 | 0.00 |" in text
    assert "| Weitwurf über | 1 | 1 | 0 |" in text
    assert 'load_dataset("user/made"' in text and "--dataset user/made" in text
    assert "past_video_edge: 1 segments" in text and "'d'" not in text


def test_problems_are_counted_before_anything_is_written(videos, tmp_path):
    content = database()
    content["gone"] = {"subset": "training", "annotations": [action(0, 1, "run")]}
    content["broken"] = {"subset": "training", "annotations": [action(0, 1, "run")]}
    content["e"]["annotations"] += [action(4, 5, "run"), action(8, 9, "run"), action(3, 3, "run")]
    source = write_annotations(tmp_path / "annotations.json", content)
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        os.link(path, folder / path.name)
    (folder / "broken.mp4").write_bytes(b"not a video")
    dataset = read_dataset(source, folder)
    problems = "\n".join(dataset.problems)
    for rule in ("missing_file", "past_video_edge", "duplicate_segment", "outside_video", "point"):
        assert f"{rule}: 1 " in problems
    assert "unreadable_video: 1 " in problems and "broken.mp4" in dataset.unreadable[0]
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "validation": 2, "test": 1}
    assert len(dataset.splits["test"][0].labels) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations.json", "videos"]


def test_containers_that_the_library_does_not_know(videos, tmp_path):
    source = write_annotations(tmp_path / "a.json", {"e": {"subset": "test", "annotations": [action(0, 1, "run")]}})
    for suffix in (".webm", ".flv"):
        (tmp_path / suffix).mkdir()
        os.link(videos / "e.mp4", tmp_path / suffix / f"e{suffix}")
    write_dataset(read_dataset(source, tmp_path / ".webm"), tmp_path / "made", name="Made")
    assert [video.path.name for video in read_annotations(tmp_path / "made").videos] == ["e.mkv"]
    with pytest.raises(AnnotationError, match=r"e\.flv: .*ffmpeg -i e\.flv -c copy e\.mkv"):
        read_dataset(source, tmp_path / ".flv")


def test_large_splits_are_spread_over_folders(make, monkeypatch):
    monkeypatch.setattr(dataset_files, "FILES_PER_FOLDER", 1)
    _, folder = make(database())
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))
    assert files[:1] == ["test/e.mp4"] and {"train/000/test_a.mp4", "train/001/empty.mp4"} < set(files)
    assert [video.video_id for video in read_annotations(folder, subset="train").videos] == ["test_a", "empty"]


def test_nothing_half_written_stays(make, videos, monkeypatch, tmp_path):
    source, folder = make(database())
    before = sorted(tmp_path.iterdir())
    dataset = read_dataset(source, videos)
    with pytest.raises(FileExistsError, match="made exists"):
        write_dataset(dataset, folder, name="Made")

    def full_disk(*_args):
        raise OSError("no space left")

    monkeypatch.setattr(dataset_files, "_write_metadata", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_dataset(dataset, tmp_path / "other", name="Made")
    assert sorted(tmp_path.iterdir()) == before


def test_points_stay_points(videos, tmp_path):
    source = write_annotations(tmp_path / "annotations.json", database())
    folder = write_dataset(read_dataset(source, videos, points="middle"), tmp_path / "made", name="Made")
    read = {video.video_id: video.segments.tolist() for video in read_annotations(folder, points="middle").videos}
    assert read["test_a"] == [[1.5, 1.5], [4.375, 4.375]] and read["e"] == [[4.5, 4.5]] and read["train_c"] == [[3, 3]]


@pytest.fixture
def remote(videos, monkeypatch):
    """Videos on a pretended Hub, and the names of those that were fetched."""
    fetched = []

    def fetch(self):
        fetched.append(self.filename)
        if self.filename == "gone.mp4":
            raise VideoReadError("gone.mp4: cannot be fetched")
        return videos / self.filename

    monkeypatch.setattr(HubVideo, "fetch", fetch)

    def video(video_id, duration=6.0, segments=((1.0, 2.0),)):
        path = HubVideo("user/name", "0" * 40, f"{video_id}.mp4")
        return AnnotatedVideo(video_id, "train", path, duration, np.array(segments), [0] * len(segments))

    return video, fetched


def processor():
    return Re2TALVideoProcessor(size={"height": 16, "width": 24}, frame_rate=10, num_frames=32)


def test_windows_fetch_a_video_when_it_is_first_drawn(remote, tmp_path):
    video, fetched = remote
    windows = TrainingWindows(
        [video("test_a"), video("train_c"), video("d", duration=None)], processor(), cache=tmp_path / "frames"
    )
    assert len(windows) == 3 and fetched == ["d.mp4"]
    for _ in range(2):
        assert windows[1]["frames"].shape[1:] == (3, 16, 24)
    assert fetched == ["d.mp4", "train_c.mp4"]


def test_windows_of_fetched_and_local_videos_are_the_same(remote, videos):
    video, _ = remote
    streamed = [video("test_a"), video("d")]
    here = [replace(item, path=videos / item.path.filename) for item in streamed]
    for one, other in zip(
        *(TrainingWindows(items, processor(), windows_per_video=3) for items in (streamed, here)), strict=True
    ):
        assert torch.equal(one["frames"], other["frames"])
        assert torch.equal(one["labels"]["segments"], other["labels"]["segments"])


def test_the_true_duration_wins(remote, caplog):
    video, _ = remote
    segments = ((1.0, 2.0), (5.0, 8.0), (9.0, 10.0))
    windows = TrainingWindows([video("d", duration=60.0, segments=segments)], processor(), seconds_per_window=6)
    assert len(windows) == 10 and len(windows.videos[0].labels) == 3
    _ = windows[0]
    assert windows.videos[0].duration == 6.0
    assert windows.videos[0].segments.tolist() == [[1, 2], [5, 6]]
    assert "outside_video: 1" in caplog.text


def test_a_video_that_cannot_be_fetched_is_replaced(remote, caplog):
    video, _ = remote
    windows = TrainingWindows([video("gone"), video("d")], processor(), max_unreadable=0.5)
    assert len(windows[0]["frames"])
    assert windows.num_unreadable == 1 and "gone.mp4: cannot be fetched" in caplog.text


CHECKS = """
import datasets, json
from huggingface_hub import HfApi
from re2tal_hf.data.annotations import AnnotationError, read_annotations
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor

def requests():
    import urllib.request, os
    with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/_requests") as answer:
        return [line for line in json.load(answer) if line.startswith("GET") and ".mp4" in line]

def error(source, **settings):
    try:
        read_annotations(source, **settings)
    except AnnotationError as raised:
        return str(raised)

api = HfApi()
result, before = {}, len(requests())
streamed = read_annotations("user/made", subset="training", streaming=True)
size = {"height": 16, "width": 16}
windows = TrainingWindows(streamed.videos, Re2TALVideoProcessor(size=size, frame_rate=10, num_frames=16))
result["set up"] = requests()[before:]
windows[1]
result["drawn"] = [line.split("/")[-1] for line in requests()[before:]]
splits = datasets.load_dataset("user/made", streaming=True)
features = [rows.features for rows in splits.values()]
result["streamed labels"] = [a["label"] for r in splits["train"].decode(False) for a in r["annotations"]]
result["streamed"] = len(requests()) - before
here = read_annotations("user/made@v1", subset="val")
result["fetched"] = sorted({line.split("/")[-1] for line in requests()[before:]})
result["paths"] = [video.path.is_file() for video in here.videos]
plain = datasets.load_dataset("user/made")
features += [rows.features for rows in plain.values()]
result["features equal"] = all(item == features[0] for item in features)
result["splits"] = {name: list(rows["video_id"]) for name, rows in plain.items()}
api.create_repo("user/bare", repo_type="dataset")
result["errors"] = [error("user/none"), error("user/made@v9"), error("user/bare"), error("user/made", subset="extra")]
api.delete_file("train/empty.mp4", "user/made", repo_type="dataset")
result["counts"] = read_annotations("user/made", subset="train", streaming=True).counts
print(json.dumps(result))
"""


@pytest.mark.training
def test_made_uploaded_and_loaded(local_hub, videos, tmp_path):
    source = write_annotations(tmp_path / "annotations.json", database())
    script = "-m", "re2tal_hf.commands.make_dataset"
    arguments = ["--annotations", source, "--videos", videos, "--output", tmp_path / "made", "--repo", "user/made"]
    home = tmp_path / "home"
    dry = local_hub.run(*script, *arguments, "--dry-run", home=home, cwd=tmp_path)
    assert "train: 2 videos, 2 actions" in dry.stdout and not (tmp_path / "made").exists()
    local_hub.run(*script, *arguments, home=home, cwd=tmp_path)
    sent = local_hub.uploads()
    assert len(sent) == 5
    tag = "from huggingface_hub import HfApi; HfApi().create_tag('user/made', tag='v1', repo_type='dataset')"
    local_hub.run("-c", tag, home=home, cwd=tmp_path)
    # Another run with the upload alone has nothing left to send.
    local_hub.run(*script, "--output", tmp_path / "made", "--repo", "user/made", home=home, cwd=tmp_path)
    assert local_hub.uploads() == sent

    result = json.loads(local_hub.run("-c", CHECKS, home=home, cwd=tmp_path).stdout.splitlines()[-1])
    assert result["set up"] == []
    assert [name.split(" ")[0] for name in result["drawn"]] == ["empty.mp4"]
    assert result["streamed labels"] == [0, 1] and result["streamed"] == 1
    assert [name.split(" ")[0] for name in result["fetched"]] == ["d.mp4", "empty.mp4", "train_c.mp4"]
    assert result["paths"] == [True, True] and result["features equal"]
    assert result["splits"] == {"train": ["test_a", "empty"], "validation": ["train_c", "d"], "test": ["e"]}
    none, revision, bare, subset = result["errors"]
    assert "user/none: neither a file or folder here nor a dataset" in none and "hf auth login" in none
    assert "no revision 'v9'" in revision and "no metadata.jsonl" in bare
    assert "no videos in subset 'extra'" in subset and "'train' (2 videos)" in subset
    assert result["counts"] == {"missing_file": 1}


@pytest.mark.training
def test_trained_and_evaluated_from_the_hub(local_hub, videos, tmp_path):
    source = write_annotations(tmp_path / "annotations.json", database())
    arguments = ["--annotations", source, "--videos", videos, "--output", tmp_path / "made", "--repo", "user/training"]
    local_hub.run("-m", "re2tal_hf.commands.make_dataset", *arguments, home=tmp_path / "made_home", cwd=tmp_path)
    settings = [*TINY, "training.epochs=1", "data.num_workers=1", "training.trackers=[]"]
    for name, options in {"streamed": ["--streaming"], "plain": []}.items():
        asked = len(local_hub.requests())
        dataset = ["--dataset", "user/training", *options]
        local_hub.run(
            "-m", "re2tal_hf.commands.train", "--recipe", "quickstart", "--output", tmp_path / name, *dataset,
            *settings,
            home=tmp_path / f"{name}_home", cwd=tmp_path,
        )  # fmt: skip
        fetched = [line for line in local_hub.requests()[asked:] if line.startswith("GET") and ".mp4" in line]
        # Every video of the two splits once, and none of the third.
        names = sorted(line.split("/")[-1].split(" ")[0] for line in fetched)
        assert names == ["d.mp4", "empty.mp4", "test_a.mp4", "train_c.mp4"]
    logs = [json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("streamed", "plain")]
    assert logs[0]["loss"] == logs[1]["loss"] > 0
    done = local_hub.run(
        "-m", "re2tal_hf.commands.evaluate", "--model", tmp_path / "plain/last", "--dataset", "user/training",
        "--streaming", home=tmp_path / "plain_home", cwd=tmp_path,
    )  # fmt: skip
    assert "average mAP@0.3:0.7" in done.stdout
    results = json.loads((tmp_path / "detections.json").read_text())["results"]
    assert set(results) == {"train_c", "d"}
