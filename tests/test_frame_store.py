"""Frames of videos at times, decoded or cached."""

import os
import resource

import numpy as np
import pytest
import torch
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.data.annotation_set import AnnotatedVideo
from re2tal_hf.data.frame_store import FrameCache, FrameStore
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader, VideoReadError

RATE = 10


def make_video(folder, name="numbers", frames=None):
    path = write_video(folder / f"{name}.mp4", numbered_frames(40) if frames is None else frames, RATE)
    return AnnotatedVideo(name, "training", path, 4.0, np.zeros((0, 2)), [])


@pytest.fixture
def video(tmp_path):
    return make_video(tmp_path)


def processor(**settings):
    return Re2TALVideoProcessor(frame_rate=RATE, **settings)


@pytest.mark.parametrize("cached", [False, True])
def test_frames_at_times_have_the_size_of_the_model(video, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    store = FrameStore(processor(size={"height": 24, "width": 32}), cache=cache)
    frames = store.at(video, [3.9, 0.0, 1.2, 1.2])
    assert frames.dtype == torch.uint8 and frames.shape == (4, 3, 24, 32)
    assert frame_numbers(frames) == [39, 0, 12, 12]
    with VideoReader(video.path) as reader:
        assert torch.equal(frames, reader.frames_at([3.9, 0.0, 1.2, 1.2], resize=store.processor.resize_and_crop))


@pytest.mark.parametrize(
    ("smallest_crop", "settings", "size"),
    [
        (0.25, {"size": {"height": 20, "width": 20}}, (40, 40)),
        (0.25, {"size": {"height": 40, "width": 40}}, (48, 48)),  # as far as the video has detail
        (0.25, {"size": {"height": 60, "width": 80}}, (60, 80)),
        (0.25, {"size": {"shortest_edge": 24}}, (24, 32)),
        (0.25, {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (48, 64)),
        (None, {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (8, 8)),
    ],
)
def test_a_random_crop_finds_frames_of_enough_detail(video, smallest_crop, settings, size):
    store = FrameStore(processor(**settings), smallest_crop=smallest_crop)
    assert store.at(video, [0.0]).shape == (1, 3, *size)


@pytest.mark.parametrize("settings", [{"size": {"height": 20, "width": 20}}, {"size": {"shortest_edge": 24}}])
def test_a_random_crop_of_frames_of_a_stated_edge(video, settings):
    # Of 64 x 48 pixels, whatever the size that the model gets.
    for edge, size in ((30, (30, 40)), (96, (96, 128))):
        assert FrameStore(processor(**settings), smallest_crop=0.25, crop_edge=edge).at(video, [0.0]).shape[2:] == size
    # Where no crop follows, the size is the model's.
    assert FrameStore(processor(**settings), crop_edge=30).at(video, [0.0]).shape[2:] in ((20, 20), (24, 32))


def test_cache_entries_are_never_stale(tmp_path):
    cache = FrameCache(tmp_path / "cache")
    video = make_video(tmp_path, "changing", np.full((20, 32, 48, 3), 40, np.uint8))

    def frames(times, preparation="none"):
        return cache.frames(video.path, np.array(times), lambda f: f, preparation, lambda: VideoReader(video.path))

    dark = frames([0.0, 0.5])
    assert dark.shape == (2, 3, 32, 48)
    assert not dark.flags.writeable
    assert frames([0.0]).shape == (1, 3, 32, 48)
    frames([0.0], preparation="other")
    assert len(list(cache.folder.iterdir())) == 3

    status = video.path.stat()
    make_video(tmp_path, "changing", np.full((20, 32, 48, 3), 200, np.uint8))
    os.utime(video.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert (frames([0.0, 0.5]) > dark + 100).all()


def test_cache_keeps_nothing_of_a_video_that_fails(tmp_path):
    cache = FrameCache(tmp_path / "cache")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    with pytest.raises(VideoReadError):
        cache.frames(broken, np.array([0.0]), lambda frames: frames, "none", lambda: VideoReader(broken))
    assert list(cache.folder.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(video, tmp_path):
    store = FrameStore(processor(size={"height": 24, "width": 32}), cache=tmp_path / "cache")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.at(video, [0.0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(store.at(video, [0.0])) == 1
