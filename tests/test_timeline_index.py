"""The index of timelines: no file is read from end to end twice, and none that has changed counts as known."""

import logging
import multiprocessing
import os
import pickle
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from video_factory import numbered_frames, write_video

from re2tal_hf.data import timeline_index
from re2tal_hf.data.annotation_set import AnnotatedVideo
from re2tal_hf.data.durations import known_durations
from re2tal_hf.data.timeline_index import TimelineIndex
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader, VideoReadError

RATE = 10


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = numbered_frames(30)
    uneven = [0.0, *np.cumsum(np.random.default_rng(0).uniform(0.02, 0.3, 19)).tolist()]
    return [
        write_video(folder / "even.mp4", frames, RATE),
        write_video(folder / "uneven é\udcff.mkv", frames[:20], RATE, timestamps=uneven),
        write_video(folder / "counted.avi", frames, RATE, codec="mpeg4"),
        write_video(folder / "stream.ts", frames, RATE),
    ]


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened, in order."""
    names, original = [], av.open

    def counting(file, *args, **kwargs):
        names.append(os.path.basename(str(file)))
        return original(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", counting)
    return names


@pytest.fixture
def index(tmp_path):
    return lambda **settings: TimelineIndex(tmp_path / "index", **settings)


def videos_of(paths):
    return [AnnotatedVideo(path.name, "training", path, None, np.array([[0.5, 1.5]]), [0]) for path in paths]


def assert_same_timeline(found, expected):
    for name in ("timestamps", "starts", "seconds", "keyframes", "parts"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype and np.array_equal(a, b), name
    for name in ("duration", "lead", "time_base", "told_by", "remarks", "frame_rate"):
        assert getattr(found, name) == getattr(expected, name)


def test_a_second_process_opens_nothing_and_knows_the_same(paths, index, opened):
    first = index()
    durations = known_durations(videos_of(paths), first)
    first.save()
    opened.clear()
    second = index()
    assert known_durations(videos_of(paths), second) == durations
    assert opened == []
    for path in paths:
        with second.open(path, "pyav") as known, VideoReader(path, backend="pyav") as reader:
            assert_same_timeline(known.timeline, reader.timeline)
            times = [2.1, 0.0, 1.3, 1.3]
            assert torch.equal(known.frames_at(times), reader.frames_at(times))
            assert known.frame_rate == reader.frame_rate


def test_packets_of_a_known_file_are_not_read(paths, index, monkeypatch):
    timelines = index()
    timelines.duration(paths[0])
    monkeypatch.setattr("re2tal_hf.video_reader.read_timeline", None)
    for known in (timelines, pickle.loads(pickle.dumps(timelines))):
        with known.open(paths[0]) as reader:
            assert len(reader.frames_at([0.0, 2.9])) == 2
    with pytest.raises(TypeError):
        timelines.open(paths[1])


def test_training_starts_without_opening_what_is_known(paths, index, opened):
    processor = Re2TALVideoProcessor(size={"height": 16, "width": 16}, frame_rate=RATE, num_frames=16)
    stated = [replace(video, duration=3.0) for video in videos_of(paths[:1])] + videos_of(paths[1:])
    first = TrainingWindows(stated, processor, timelines=index())
    items = [first[i] for i in range(len(first))]
    opened.clear()
    second = TrainingWindows(stated, processor, timelines=index())
    assert opened == []
    assert [video.duration for video in second.videos] == [video.duration for video in first.videos]
    for one, other in zip(items, (second[i] for i in range(len(second))), strict=True):
        assert torch.equal(one["frames"], other["frames"])
        assert torch.equal(one["labels"]["segments"], other["labels"]["segments"])


def test_a_file_that_has_changed_is_measured_anew(paths, index, opened):
    first = index()
    assert first.duration(paths[0]) == pytest.approx(3.0)
    first.save()
    status = paths[0].stat()
    write_video(paths[0], numbered_frames(17), RATE)
    for timelines in (first, index()):
        assert timelines.duration(paths[0]) == pytest.approx(1.7)
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))  # the size alone tells
    assert index().duration(paths[0]) == pytest.approx(1.7)
    paths[1].write_bytes(paths[1].read_bytes())
    opened.clear()
    index().duration(paths[1])
    assert opened


def test_a_file_that_cannot_be_read_is_never_known(paths, index):
    timelines = index()
    known_durations(videos_of(paths), timelines)
    timelines.save()
    paths[0].write_bytes(b"cut off")
    paths[1].unlink()
    paths[2].write_bytes(b"")
    for anew in (timelines, index()):
        found = known_durations(videos_of(paths), anew)
        assert [isinstance(duration, VideoReadError) for duration in found] == [True, True, True, False]
        anew.save()


def test_damage_and_other_versions_are_measured_anew(paths, index, opened, caplog, monkeypatch):
    first = index()
    expected = known_durations(videos_of(paths), first)
    first.save()
    [file] = first.folder.iterdir()
    good = file.read_bytes()

    def opened_after(content):
        file.write_bytes(content)
        opened.clear()
        timelines = index()
        assert known_durations(videos_of(paths), timelines) == expected
        timelines.save()
        assert file.read_bytes().count(b"\n") == 1 + len(paths)
        return set(opened)

    assert opened_after(good) == set()
    duration = repr(expected[3]).encode()
    with caplog.at_level(logging.WARNING):
        assert opened_after(good.replace(duration, duration[:-1] + b"9", 1)) != set()
    assert "is damaged; " in caplog.text
    assert len(opened_after(good[: len(good) // 2])) >= 2
    assert len(opened_after(b"")) == len(opened_after(b"\x00\xff\n\n{}")) == len(paths)
    monkeypatch.setattr(timeline_index, "_written_by", lambda: b"other code")
    assert len(opened_after(good)) == len(paths)


def test_what_is_to_be_said_of_a_video_is_said_by_every_process(paths, index, caplog):
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole + whole)
    first = index()
    first.duration(paths[0])
    first.save()
    assert "another file begins behind" in caplog.text
    caplog.clear()
    timeline_index.tell.cache_clear()
    index().duration(paths[0])
    assert f"{paths[0]}: another file begins behind" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_obstacle(paths, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    timelines = TimelineIndex(tmp_path / "file" / "index")
    assert timelines.duration(paths[0]) == pytest.approx(3.0)
    timelines.save()
    assert "durations of videos cannot be kept" in caplog.text


def test_gone_videos_are_forgotten_and_others_kept(paths, index):
    for path in paths[:2]:
        timelines = index()
        timelines.duration(path)
        timelines.save()
    paths[0].unlink()
    timelines = index()
    timelines.duration(paths[2])
    timelines.save()
    [file] = timelines.folder.iterdir()
    assert file.read_bytes().count(b"\n") == 3 and b"even.mp4" not in file.read_bytes()


def test_shares_of_processes_make_one_index(paths, index, opened):
    main, other = index(), index(writes=False)
    known_durations(videos_of(paths[:2]), main)
    known_durations(videos_of(paths[2:]), other)
    assert set(main.take_new()) == {str(path) for path in paths[:2]}
    for found in (main.take_new(), other.take_new()):
        main.add(found)
    other.save()
    assert not main.folder.exists()
    main.save()
    assert main.take_new() == {}
    opened.clear()
    known_durations(videos_of(paths), index())
    assert opened == []


def _measure_and_save(folder, paths):
    timelines = TimelineIndex(folder)
    for path in paths:
        timelines.duration(path)
        timelines.save()


def test_processes_that_write_at_once_leave_a_sound_index(paths, index, opened, caplog):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_measure_and_save, args=(index().folder, part)) for part in (paths, paths[::-1])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    opened.clear()
    known_durations(videos_of(paths), index())
    assert opened == [] and "damaged" not in caplog.text
    assert len(list(index().folder.iterdir())) == 1
