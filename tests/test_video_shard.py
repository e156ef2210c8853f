"""Videos in tar shards, read as those in folders."""

import gzip
import io
import json
import tarfile

import pytest
import torch
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.data.annotations import AnnotationError, read_annotations
from re2tal_hf.data.timeline_index import TimelineIndex
from re2tal_hf.data.video_files import find_videos
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.video_container import VideoReadError
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader
from re2tal_hf.video_shard import ShardError, locate, members_of

PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


def write_shard(path, members, **settings):
    """Members are bytes or files by name."""
    with tarfile.open(path, "w", **settings) as archive:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.read_bytes()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(["a.mp4", "b.mkv", "c.ts", "d.avi"]):
        write_video(folder / name, numbered_frames(40)[number:], 10)
    return folder


@pytest.fixture
def shards(videos, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    files = sorted(videos.iterdir())
    write_shard(folder / "train-00000.tar", [("a.json", b"{}"), *((file.name, file) for file in files[:2])])
    write_shard(folder / "train-00001.tar", [(f"./deep/{file.name}", file) for file in files[2:]])
    return folder


def annotations(folder):
    actions = [{"segment": [0.5, 2], "label": "jump"}]
    content = {name: {"subset": "train", "annotations": actions} for name in "abcd"}
    path = folder / "annotations.json"
    path.write_text(json.dumps({"database": content}), encoding="utf-8")
    return path


def test_a_member_is_read_as_the_file(videos, shards):
    found = find_videos(shards)
    assert sorted(found) == ["a", "b", "c", "d"]
    for stem, [member] in found.items():
        file = next(videos.glob(f"{stem}.*"))
        with VideoReader(file, backend="pyav") as expected, VideoReader(member) as reader:
            times = [2.1, 0.3, 3.0]
            assert reader.duration == expected.duration
            frames = reader.frames_at(times)
            assert torch.equal(frames, expected.frames_at(times))
            assert frame_numbers(frames)[1] < frame_numbers(frames)[0]


def test_windows_of_shards_are_those_of_files(videos, shards, tmp_path):
    processor = Re2TALVideoProcessor(num_frames=16, frame_rate=10, size={"height": 32, "width": 32})
    windows = []
    for number, (folder, cache) in enumerate([(videos, None), (shards, None), (shards, tmp_path / "cache")]):
        source = annotations(tmp_path)
        index = TimelineIndex(tmp_path / f"index{number}")
        found = read_annotations(source, subset="train", video_folder=folder).videos
        windows.append(TrainingWindows(found, processor, timelines=index, cache=cache, seed=3))
    expected, *others = ([windows_of[number] for number in range(len(windows_of))] for windows_of in windows)
    assert len(expected) == 4
    for items in others:
        for item, other in zip(items, expected, strict=True):
            assert torch.equal(item["frames"], other["frames"])
            assert torch.equal(item["labels"]["segments"], other["labels"]["segments"])


def test_what_is_measured_is_kept(shards, tmp_path):
    index = TimelineIndex(tmp_path / "index")
    members = [path for paths in find_videos(shards).values() for path in paths]
    durations = [index.duration(member) for member in members]
    index.save()
    again = TimelineIndex(tmp_path / "index")
    assert [again.known_duration(member) for member in members] == durations
    # Another shard in its place, with a shorter video of that name.
    write_video(tmp_path / "short.mp4", numbered_frames(20), 10)
    write_shard(shards / "train-00000.tar", [("a.mp4", tmp_path / "short.mp4")])
    assert again.known_duration(shards / "train-00000.tar" / "a.mp4") is None
    assert again.duration(shards / "train-00000.tar" / "a.mp4") == 2.0
    again.save()
    assert TimelineIndex(tmp_path / "index").known_duration(shards / "train-00000.tar" / "a.mp4") == 2.0


def test_files_come_before_the_archive_they_are_from(videos, tmp_path):
    write_shard(tmp_path / "videos.tar", [("a.mp4", videos / "a.mp4")])
    (tmp_path / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    assert find_videos(tmp_path) == {"a": [tmp_path / "a.mp4"]}


@pytest.mark.parametrize("content", [PLAYLIST, b"ffconcat version 1.0\nfile /etc/passwd\n", b"", b"no video"])
def test_a_member_that_names_other_files_opens_none(tmp_path, content):
    shard = write_shard(tmp_path / "x.tar", [("a.mp4", content), ("b.mp4", b"behind")])
    with pytest.raises(VideoReadError, match=r"x\.tar/a\.mp4: (a playlist|a list|the file is empty|not a video)"):
        VideoReader(shard / "a.mp4")


@pytest.mark.parametrize("kept", [0.01, 0.2, 0.5])
def test_a_shard_that_is_cut_off(videos, tmp_path, kept):
    shard = write_shard(tmp_path / "x.tar", [(file.name, file) for file in sorted(videos.iterdir())])
    content = shard.read_bytes()
    shard.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ShardError, match=r"x\.tar: cut off or damaged"):
        find_videos(tmp_path)
    with pytest.raises(VideoReadError, match=r"x\.tar: cut off or damaged"):
        VideoReader(shard / "a.mp4")


def test_a_shard_that_ends_between_two_members(videos, tmp_path):
    shard = write_shard(tmp_path / "x.tar", [("a.mp4", b"1" * 512), ("b.mp4", b"2" * 512)])
    shard.write_bytes(shard.read_bytes()[:1024])
    with pytest.raises(ShardError, match=r"behind a\.mp4"):
        members_of(shard)


def test_a_shard_with_a_damaged_header(tmp_path):
    shard = write_shard(tmp_path / "x.tar", [("a.mp4", b"1" * 512), ("b.mp4", b"2" * 512)])
    content = bytearray(shard.read_bytes())
    content[1024:1030] = b"broken"
    shard.write_bytes(content)
    with pytest.raises(ShardError, match=r"cut off or damaged behind a\.mp4"):
        members_of(shard)


@pytest.mark.parametrize(
    "members, message",
    [
        ([("a.mp4", b"1"), ("./a.mp4", b"2")], r"two members are called a\.mp4; keep one"),
        ([("/etc/a.mp4", b"1")], "leads out of the archive"),
        ([("b/../../a.mp4", b"1")], "leads out of the archive"),
    ],
)
def test_names_that_are_none(tmp_path, members, message):
    with pytest.raises(ShardError, match=message):
        members_of(write_shard(tmp_path / "x.tar", members))


def test_links_in_a_shard_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert members_of(tmp_path / "x.tar") == []
    assert locate(tmp_path / "x.tar" / "a.mp4") is None


def test_compressed_and_other_files_are_no_shards(tmp_path):
    write_shard(tmp_path / "x.tar", [("a.mp4", b"1")])
    (tmp_path / "y.tar").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    with pytest.raises(ShardError, match="no tar archive without compression"):
        members_of(tmp_path / "y.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="cut off"):
        members_of(tmp_path / "empty.tar")


def test_two_shards_with_one_name(shards, videos, tmp_path):
    write_shard(shards / "train-00002.tar", [("a.mp4", videos / "b.mkv")])
    with pytest.raises(AnnotationError, match=r"several files for video 'a': .*train-00000.*train-00002"):
        read_annotations(annotations(tmp_path), video_folder=shards)


def test_a_table_names_members(shards):
    names = ["train-00000.tar/a.mp4", "train-00001.tar/deep/c.ts"]
    rows = [{"file_name": name, "annotations": [{"segment": [0.5, 2], "label": "jump"}]} for name in names]
    table = shards / "metadata.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert [video.path for video in read_annotations(shards).videos] == [shards / name for name in names]
    rows[0]["file_name"] = "train-00000.tar/x.mp4"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"metadata\.jsonl: row 1: there is no .*x\.mp4: the shard is not there"):
        read_annotations(shards)
