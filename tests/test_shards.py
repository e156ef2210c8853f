"""Datasets in tar shards: made, read by the library and by us, uploaded, streamed and trained from."""

import json

import datasets
import numpy as np
import pytest
from test_hub_dataset import content, database, make, videos, without_actions_in_the_test_split, write_annotations
from test_trainer import TINY

from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.publishing.dataset import read_dataset, write_dataset
from re2tal_hf.video_reader import VideoReader

__all__ = ["make", "videos"]  # fixtures
SUBSETS = ("train", "validation", "test")


@pytest.fixture(params=[database, without_actions_in_the_test_split])
def sharded(request, make, videos, tmp_path):
    """The same dataset as files and, a video to each shard, as shards."""
    source, files = make(request.param())
    shards = write_dataset(read_dataset(source, videos), tmp_path / "shards", name="Made", max_shard_size=1)
    return files, shards


def test_shards_hold_what_files_do(sharded):
    files, shards = sharded
    assert [path.name for path in sorted(shards.glob("train/*.tar"))] == ["train-00000.tar", "train-00001.tar"]
    for subset in SUBSETS:
        expected, found = (read_annotations(folder, subset=subset) for folder in (files, shards))
        assert content(found) == content(expected)
        for video, other in zip(found.videos, expected.videos, strict=True):
            with VideoReader(video.path) as reader, VideoReader(other.path) as of_file:
                assert reader.duration == of_file.duration == video.duration
                assert np.array_equal(reader.frames_at([1.0, 4.0]), of_file.frames_at([1.0, 4.0]))


def test_the_library_reads_them_as_webdataset(sharded):
    splits = datasets.load_dataset(str(sharded[1]), streaming=True)
    assert set(splits) == set(SUBSETS)
    first, second = splits["train"].decode(False)
    assert first["__key__"] == "test_a" and len(first["mp4"]["bytes"]) > 1000
    assert first["json"]["annotations"] == [{"segment": [1.0, 2.0], "label": 0}, {"segment": [3.25, 5.5], "label": 1}]
    assert splits["train"].features["json"]["annotations"].feature["label"].names == ["Weitwurf über", "run"]
    assert second["json"]["duration"] == 6.0 and second["json"]["annotations"] == []


def test_equal_videos_make_equal_shards_and_files_of_shards(sharded, tmp_path):
    files, shards = sharded
    again = write_dataset(read_dataset(shards, None), tmp_path / "again", name="Made", max_shard_size=10**9)
    assert len(list(again.glob("*/*.tar"))) == 3
    back = write_dataset(read_dataset(again, None), tmp_path / "back", name="Made")
    for file in files.glob("*/*"):
        assert (back / file.relative_to(files)).read_bytes() == file.read_bytes()
    third = write_dataset(read_dataset(back, None), tmp_path / "third", name="Made", max_shard_size=10**9)
    for shard in again.glob("*/*"):
        assert (third / shard.relative_to(again)).read_bytes() == shard.read_bytes()


@pytest.mark.training
def test_made_uploaded_and_trained_from_by_streaming(local_hub, videos, tmp_path):
    source = write_annotations(tmp_path / "annotations.json", database())
    made = ["--annotations", source, "--videos", videos, "--output", tmp_path / "made", "--repo", "user/sharded"]
    home = tmp_path / "home"
    script = "-m", "re2tal_hf.commands.make_dataset"
    local_hub.run(*script, *made, "--shard-gigabytes", 1e-9, home=home, cwd=tmp_path)
    settings = [*TINY, "training.epochs=1", "training.trackers=[]"]
    for name, dataset in {"streamed": ["user/sharded", "--streaming"], "local": [tmp_path / "made"]}.items():
        asked = len(local_hub.requests())
        local_hub.run(
            "-m", "re2tal_hf.commands.train", "--recipe", "quickstart", "--output", tmp_path / name, "--dataset",
            *dataset, *settings,
            home=tmp_path / f"{name}_home", cwd=tmp_path,
        )  # fmt: skip
        fetched = [line for line in local_hub.requests()[asked:] if line.startswith("GET") and ".tar" in line]
        # The shards of two splits once, and none of the third.
        of_splits = [f"{split}-{number:05d}.tar" for split in ("train", "validation") for number in range(2)]
        names = sorted(line.split("/")[-1].split(" ")[0] for line in fetched)
        assert names == (of_splits if name == "streamed" else [])
    logs = [json.loads((tmp_path / name / "log.jsonl").read_text()) for name in ("streamed", "local")]
    assert logs[0]["loss"] == logs[1]["loss"] > 0
