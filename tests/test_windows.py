import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tolerances import assert_close
from torch.utils.data import DataLoader
from video_factory import numbered_frames, write_video

from re2tal_hf.data.annotations import AnnotatedVideo, AnnotationError, read_annotations
from re2tal_hf.data.augmentation import Augmentation
from re2tal_hf.data.readable_videos import UnreadableVideosError
from re2tal_hf.data.windows import TrainingWindows, collate
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader

RATE = 10
ACTIONS = [(1.0, 2.0, 0), (4.0, 7.0, 1), (8.0, 8.5, 0)]


def processor(num_frames=32, **settings):
    return Re2TALVideoProcessor(size={"height": 16, "width": 24}, frame_rate=RATE, num_frames=num_frames, **settings)


def make_video(folder, video_id, seconds=10.0, actions=ACTIONS):
    """A dark video that is bright during its actions."""
    bright = np.zeros(round(seconds * RATE), dtype=bool)
    for start, end, _ in actions:
        bright[round(start * RATE) : round(end * RATE)] = True
    frames = np.where(bright[:, None, None, None], 200, 40).astype(np.uint8)
    path = folder / f"{video_id}.mp4"
    write_video(path, np.broadcast_to(frames, (len(bright), 32, 48, 3)), RATE)
    segments = np.array([action[:2] for action in actions], dtype=np.float64).reshape(-1, 2)
    labels = [label for *_, label in actions]
    return AnnotatedVideo(video_id, "training", path, None, segments, labels)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [
        make_video(folder, "long"),
        make_video(folder, "short", 2.5, [(0.5, 1.5, 1)]),
        make_video(folder, "other", 6.0, [(0.0, 1.2, 0), (3.0, 6.0, 1)]),
        make_video(folder, "background", 5.0, []),
    ]


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video")
    return AnnotatedVideo("broken", "training", path, None, np.array([[0.0, 1.0]]), [0])


def brightness(item):
    """Of every frame, 0 for a dark one and 1 for a bright one."""
    return (item["frames"].float().mean(dim=(1, 2, 3)) > 120).float()


def bright_frames(item):
    expected = torch.zeros(len(item["frames"]))
    for start, end in item["labels"]["segments"].round().long().tolist():
        expected[start:end] = 1
    return expected


def assert_same_items(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["frames"], b["frames"])
        assert torch.equal(a["labels"]["segments"], b["labels"]["segments"])
        assert torch.equal(a["labels"]["class_labels"], b["labels"]["class_labels"])


def items_of(windows):
    return [windows[i] for i in range(len(windows))]


@pytest.mark.parametrize("sampling", ["sliding", "resized"])
def test_labels_lie_where_the_actions_are_seen(videos, sampling):
    windows = TrainingWindows(videos, processor(sampling=sampling), windows_per_video=8, truncation_threshold=1e-6)
    for item in items_of(windows):
        assert len(item["frames"]) <= 32 and item["frames"].shape[1:] == (3, 16, 24)
        assert item["frames"].dtype == torch.uint8
        assert item["labels"]["segments"].dtype == torch.float32
        assert item["labels"]["class_labels"].dtype == torch.int64
        # Resampled frames round the boundaries: there one frame of each may differ.
        allowed = 0 if sampling == "sliding" else 2 * len(item["labels"]["segments"])
        assert (brightness(item) != bright_frames(item)).sum() <= allowed


def test_items_are_prepared_as_for_evaluation(videos):
    windows = TrainingWindows(videos[:1], processor(num_frames=128), crop_ratio=None)
    [window] = windows.processor.windows("long", 10.0)
    with VideoReader(videos[0].path) as reader:
        expected = windows.processor.read_window(reader, window)
    item = windows[0]
    prepared = collate([item], windows.processor)
    assert torch.equal(prepared["pixel_values_videos"][0], expected["pixel_values_videos"])
    assert torch.equal(prepared["frame_mask"][0], expected["frame_mask"])
    assert item["labels"]["segments"].tolist() == [[10, 20], [40, 70], [80, 85]]
    assert item["labels"]["class_labels"].tolist() == [0, 1, 0]


def test_resized_windows_hold_the_whole_video(videos):
    windows = TrainingWindows(videos[:1], processor(num_frames=50, sampling="resized"))
    window, labels = windows.draw_window(windows.videos[0], torch.Generator())
    assert (window.start, window.num_frames) == (0.0, 50)
    assert window.frame_rate == pytest.approx(5.0)
    assert_close(labels["segments"], torch.tensor([[5.0, 10.0], [20.0, 35.0], [40.0, 42.5]]))


@pytest.mark.parametrize("threshold", [0.3, 0.75, 1.0])
def test_crops_keep_enough_of_an_action(videos, threshold):
    windows = TrainingWindows(videos[:1], processor(num_frames=33), truncation_threshold=threshold)
    video = windows.videos[0]
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(200):
        window, labels = windows.draw_window(video, generator)
        assert window.num_frames == 33
        first = round(window.start * RATE)
        starts.add(first)
        inside = np.clip(video.segments * RATE - first, 0, 33)
        share = (inside[:, 1] - inside[:, 0]) / ((video.segments[:, 1] - video.segments[:, 0]) * RATE)
        kept = share >= threshold - 1e-9
        assert kept.any()
        assert_close(labels["segments"], torch.from_numpy(inside[kept]))
        assert labels["class_labels"].tolist() == np.array(video.labels)[kept].tolist()
    assert min(starts) < 10 and max(starts) > 45
    assert len(starts) > 30


@pytest.mark.parametrize("threshold", [0.75, 1.0])
def test_a_window_inside_an_action_is_that_action(tmp_path, threshold):
    whole = make_video(tmp_path, "whole", 10.0, [(0.0, 10.0, 1)])
    windows = TrainingWindows([whole], processor(num_frames=16), truncation_threshold=threshold)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        window, labels = windows.draw_window(windows.videos[0], generator)
        assert window.num_frames == 16
        assert labels["segments"].tolist() == [[0, 16]] and labels["class_labels"].tolist() == [1]


def test_of_an_action_longer_than_the_window_its_share_of_the_window_counts(tmp_path):
    video = make_video(tmp_path, "border", 10.0, [(4.0, 10.0, 1)])
    windows = TrainingWindows([video], processor(num_frames=20), max_attempts=1)
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        window, labels = windows.draw_window(windows.videos[0], generator)
        first = round(window.start * RATE)
        inside = min(first + 20, 100) - max(first, 40)
        assert len(labels["segments"]) == (inside >= 15)
        seen.add(inside)
    assert {14, 15, 20} <= seen


def test_crops_of_a_part_of_a_short_video_keep_a_long_action(tmp_path):
    video = make_video(tmp_path, "short", 2.0, [(0.0, 2.0, 1)])
    windows = TrainingWindows([video], processor(), crop_ratio=(0.3, 0.5))
    window, labels = windows.draw_window(windows.videos[0], torch.Generator())
    assert labels["segments"].tolist() == [[0, window.num_frames]]


def test_short_videos_are_cropped_by_a_ratio_and_padded(videos):
    windows = TrainingWindows(videos[1:2], processor(), windows_per_video=40)
    lengths = {len(item["frames"]) for item in items_of(windows)}
    assert lengths == {22, 23, 24, 25}  # 0.9 to 1 of 25 frames; halves round to even
    num_frames = len(windows[0]["frames"])
    batch = collate([windows[0]], windows.processor)
    assert batch["pixel_values_videos"].shape == (1, 32, 3, 16, 24)
    assert batch["frame_mask"].tolist() == [[True] * num_frames + [False] * (32 - num_frames)]
    assert (batch["pixel_values_videos"][0, num_frames:] == 0).all()

    whole = TrainingWindows(videos[1:2], processor(), crop_ratio=None)
    assert len(whole[0]["frames"]) == 25


def test_number_of_windows_per_epoch(videos):
    assert len(TrainingWindows(videos, processor(), windows_per_video=3)) == 12
    stretches = TrainingWindows(videos, processor(), windows_per_video=2, seconds_per_window=4.0)
    assert len(stretches) == 2 * (3 + 1 + 2 + 2)


def test_items_depend_on_seed_epoch_and_index_only(videos):
    settings = {"augmentation": Augmentation(crop_scale=(0.3, 1.0), brightness=0.4)}
    windows = TrainingWindows(videos, processor(), windows_per_video=2, seed=3, **settings)
    first = items_of(windows)
    torch.manual_seed(99)
    again = TrainingWindows(videos, processor(), windows_per_video=2, seed=3, **settings)
    loader = DataLoader(again, batch_size=None, num_workers=2, persistent_workers=True, shuffle=False)
    assert_same_items(first, loader)
    again.set_epoch(1)
    second = list(loader)
    windows.set_epoch(1)
    assert_same_items(items_of(windows), second)

    def starts(items):
        return [item["frames"].sum().item() for item in items]

    assert starts(first) != starts(second)
    other_seed = TrainingWindows(videos, processor(), windows_per_video=2, seed=4, **settings)
    assert starts(first) != starts(items_of(other_seed))
    assert len(set(starts(first))) == len(first)


def test_batches_travel_as_bytes_and_are_prepared_together(videos):
    windows = TrainingWindows(videos, processor())
    batch = next(iter(DataLoader(windows, batch_size=3, collate_fn=collate, num_workers=1)))
    assert all(torch.equal(frames, windows[i]["frames"]) for i, frames in enumerate(batch["frames"]))
    assert torch.equal(batch["labels"][1]["segments"], windows[1]["labels"]["segments"])
    here = collate([windows[i] for i in range(3)], windows.processor)
    for name, tensor in windows.processor.prepare(batch["frames"]).items():
        assert torch.equal(here[name], tensor)
    assert here["pixel_values_videos"].shape == (3, 32, 3, 16, 24)
    assert here["frame_mask"].shape == (3, 32) and "frames" not in here


def test_random_crops_replace_the_center_crop(videos):
    settings = {"frame_rate": RATE, "num_frames": 128}
    cropping = Re2TALVideoProcessor(
        size={"shortest_edge": 16},
        do_center_crop=True,
        crop_size={"height": 12, "width": 14},
        **settings,
    )
    augmentation = Augmentation(crop_scale=(0.2, 0.5))
    for chosen in (None, augmentation):
        item = TrainingWindows(videos[:1], cropping, augmentation=chosen, crop_ratio=None)[0]
        assert item["frames"].shape == (100, 3, 12, 14)
        assert torch.equal(brightness(item), bright_frames(item))

    free = Re2TALVideoProcessor(do_resize=False, **settings)
    assert TrainingWindows(videos[:1], free)[0]["frames"].shape[1:] == (3, 32, 48)
    with pytest.raises(ValueError, match="crop_scale needs frames of one size"):
        TrainingWindows(videos[:1], free, augmentation=augmentation)[0]


@pytest.mark.parametrize(("label", "flipped"), [(0, True), (1, False)])
def test_clips_with_left_and_right_are_not_flipped(tmp_path, label, flipped):
    path = write_video(tmp_path / "numbers.mp4", numbered_frames(20), RATE)
    video = AnnotatedVideo("numbers", "training", path, None, np.array([[0.5, 1.5]]), [label])
    plain = TrainingWindows([video], processor(), crop_ratio=None)[0]["frames"]
    augmentation = Augmentation(flip_probability=1.0, unflippable_labels=(1,))
    windows = TrainingWindows([video], processor(), crop_ratio=None, augmentation=augmentation)
    expected = plain.flip(-1) if flipped else plain
    assert torch.equal(windows[0]["frames"], expected)


def test_segments_are_checked_against_measured_durations(videos, caplog):
    segments = np.array([[1.0, 2.0], [9.0, 10.05], [9.0, 11.0], [12.0, 13.0]])
    video = AnnotatedVideo("long", "training", videos[0].path, None, segments, [0, 1, 0, 1])
    windows = TrainingWindows([video], processor())
    assert windows.counts == {"past_video_edge": 1, "outside_video": 1}
    assert "outside_video: 1 segments" in caplog.text
    assert windows.videos[0].duration == pytest.approx(10.0)
    np.testing.assert_allclose(windows.videos[0].segments, [[1, 2], [9, 10], [9, 10]])
    assert video.duration is None and len(video.segments) == 4


def test_times_that_are_not_seconds_by_the_measured_durations(videos):
    frames = replace(videos[0], segments=videos[0].segments * 10)
    with pytest.raises(AnnotationError, match="training videos: 3 of 3 .*about 10 a second"):
        TrainingWindows([frames], processor())
    assert TrainingWindows([frames], processor(), max_lost=1.0).lost == {0: 2, 1: 1}


def test_wrong_durations_are_named(videos, caplog):
    windows = TrainingWindows([replace(videos[0], duration=0.17), replace(videos[1], duration=2.6)], processor())
    assert windows.counts == {"wrong_duration": 1} and len(windows.videos[0].labels) == 3
    assert "first: long, 0.17 s in the annotations and 10 s long" in caplog.text


def test_files_unreadable_from_the_start_are_left_out(videos, broken, caplog):
    with pytest.raises(UnreadableVideosError, match="1 of 5 videos cannot be read.*max_unreadable"):
        TrainingWindows([*videos, broken], processor())
    caplog.clear()
    windows = TrainingWindows([*videos, broken], processor(), max_unreadable=0.2)
    assert windows.num_unreadable == 1
    assert len(windows) == 4
    items_of(windows)
    assert caplog.text.count("unreadable video: ") == 1
    assert str(broken.path) in caplog.text


@pytest.fixture
def breaking(tmp_path):
    """A video that opens at the start and is lost afterwards."""
    return make_video(tmp_path, "breaking", 3.0, [(1.0, 2.0, 0)])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_files_that_fail_later_are_replaced_and_counted(videos, breaking, tmp_path, caplog, cached, lost):
    windows = TrainingWindows(
        [breaking, *videos],
        processor(),
        windows_per_video=2,
        max_unreadable=0.2,
        cache=tmp_path / "cache" if cached else None,
    )
    breaking.path.unlink() if lost else breaking.path.write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        items = items_of(windows)
    assert len(items) == 10
    assert caplog.text.count("unreadable video: ") == 1
    assert str(breaking.path) in caplog.text
    assert windows.num_unreadable == 1
    assert_same_items(items, items_of(windows))


def test_workers_count_together(videos, breaking):
    windows = TrainingWindows([breaking, *videos], processor(), max_unreadable=0.2)
    breaking.path.write_bytes(b"cut off")
    items = list(DataLoader(windows, batch_size=None, num_workers=2))
    assert windows.num_unreadable == 1
    assert_same_items(items, items_of(windows))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_files_that_fail_later_stop_the_run(videos, breaking, num_workers):
    windows = TrainingWindows([*videos, breaking], processor())
    breaking.path.write_bytes(b"cut off")
    loader = DataLoader(windows, batch_size=None, num_workers=num_workers)
    with pytest.raises(UnreadableVideosError, match="1 of 5 videos"):
        list(loader)


@pytest.mark.training
def test_nothing_readable_stops_the_run_whatever_the_limit(broken):
    with pytest.raises(UnreadableVideosError, match="1 of 1 videos"):
        TrainingWindows([broken], processor(), max_unreadable=1.0)


@pytest.mark.parametrize("sampling", ["sliding", "resized"])
@pytest.mark.parametrize("augmentation", [None, Augmentation(crop_scale=(0.3, 1.0))])
def test_cache_gives_the_same_items(videos, tmp_path, monkeypatch, sampling, augmentation):
    settings = {"augmentation": augmentation, "windows_per_video": 2}
    expected = items_of(TrainingWindows(videos, processor(sampling=sampling), **settings))
    cached = TrainingWindows(videos, processor(sampling=sampling), cache=tmp_path, **settings)
    assert_same_items(expected, items_of(cached))
    assert len(list(tmp_path.iterdir())) == len(videos)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(VideoReader, "frames_at", refuse)
    assert_same_items(expected, items_of(cached))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows_per_video": 0}, "windows_per_video is out of range: 0"),
        ({"max_lost": 1.5}, "max_lost is out of range: 1.5"),
        ({"seconds_per_window": 0.0}, "seconds_per_window"),
        ({"truncation_threshold": 0.0}, "truncation_threshold"),
        ({"crop_ratio": (0.9, 1.1)}, "crop_ratio"),
        ({"crop_ratio": (1.0, 0.9)}, "crop_ratio"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_unreadable": 1.5}, "max_unreadable"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(videos, settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingWindows(videos, processor(), **settings)


def test_videos_need_files():
    with pytest.raises(ValueError, match="no videos"):
        TrainingWindows([], processor())
    video = AnnotatedVideo("lost", "training", None, 1.0, np.zeros((0, 2)), [])
    with pytest.raises(ValueError, match="1 videos have no file .first: 'lost'.*video_folder"):
        TrainingWindows([video], processor())


def test_real_videos(ut_interaction):
    annotations = read_annotations(
        ut_interaction / "annotations.json",
        subset="validation",
        video_folder=ut_interaction / "videos",
    )
    windows = TrainingWindows(annotations.videos, processor(num_frames=128))
    assert windows.num_unreadable == 0
    assert windows.counts == {}
    for annotated, measured in zip(annotations.videos, windows.videos, strict=True):
        assert measured.duration == pytest.approx(annotated.duration, abs=1e-3)
    assert len(windows[0]["frames"]) == 128


def test_real_damaged_video_is_replaced(videos, real_videos, caplog):
    nothing = np.zeros((0, 2)), []
    damaged = AnnotatedVideo("x", "training", real_videos / "corrupted.mp4", None, *nothing)
    windows = TrainingWindows([damaged, *videos], processor(num_frames=64), crop_ratio=None, max_unreadable=0.2)
    assert windows.num_unreadable == 0  # its header is sound
    assert len(windows[0]["frames"])
    assert windows.num_unreadable == 1
    assert "corrupted.mp4" in caplog.text
