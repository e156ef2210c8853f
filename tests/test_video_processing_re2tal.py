import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tolerances import assert_close, rounding
from transformers import AutoVideoProcessor
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader, VideoReadError
from re2tal_hf.video_windows import Window

SIZE = {"height": 24, "width": 32}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "sixty.mp4"
    return write_video(path, numbered_frames(60), 20)


# Windows


@pytest.mark.parametrize(
    ("frames", "num_frames", "overlap", "starts"),
    [
        (100, 40, 0.5, [0, 20, 40, 60]),
        (90, 40, 0.5, [0, 20, 40, 50]),  # the last one ends with the video
        (80, 40, 0.0, [0, 40]),
        (81, 40, 0.0, [0, 40, 41]),
        (40, 40, 0.5, [0]),
        (41, 40, 0.9, [0, 1]),
        (7, 40, 0.5, [0]),
        (50, 40, 0.99, list(range(11))),
    ],
)
def test_sliding_windows(frames, num_frames, overlap, starts):
    processor = Re2TALVideoProcessor(frame_rate=10, num_frames=num_frames, window_overlap=overlap)
    windows = processor.windows("v", frames / 10)
    assert [window.start for window in windows] == [start / 10 for start in starts]
    length = min(frames, num_frames)
    assert set(windows) == {Window("v", s / 10, 10, length, frames / 10) for s in starts}
    assert processor.windows("v", frames / 10, overlap=overlap) == windows


def test_sliding_windows_cover_any_video():
    rng = np.random.default_rng(0)
    for _ in range(200):
        duration, rate, overlap = rng.uniform(0.01, 100), rng.uniform(1, 60), rng.uniform(0, 0.95)
        num_frames = int(rng.integers(1, 300))
        processor = Re2TALVideoProcessor(frame_rate=rate, num_frames=num_frames, window_overlap=overlap)
        windows = processor.windows("v", duration)
        starts = [round(window.start * rate) for window in windows]
        assert starts[0] == 0 and len(set(starts)) == len(starts)
        steps = np.diff(starts)
        assert (steps > 0).all() and (steps <= max(1, round(num_frames * (1 - overlap)))).all()
        end = windows[-1].start + windows[-1].num_frames / rate
        assert duration - 1e-6 <= end < duration + 1 / rate + 1e-6


@pytest.mark.parametrize(
    ("duration", "frame_rate", "frames"),
    [
        (0.1 + 0.2, 10, 3),
        (0.7, 30, 21),
        (10 / 3, 30, 100),
        (10.01, 30000 / 1001, 300),
        (3.01, 1, 4),
    ],
)
def test_rounding_of_the_duration_makes_no_frame(duration, frame_rate, frames):
    processor = Re2TALVideoProcessor(frame_rate=frame_rate, num_frames=1000)
    assert processor.windows("v", duration)[0].num_frames == frames


def test_resized_window():
    processor = Re2TALVideoProcessor(sampling="resized", num_frames=96)
    assert processor.windows("v", 48.0) == [Window("v", 0.0, 2.0, 96, 48.0)]


@pytest.mark.parametrize("duration", [0, -1.0, float("nan"), float("inf")])
def test_windows_need_a_duration(duration):
    with pytest.raises(ValueError, match="v: duration is"):
        Re2TALVideoProcessor().windows("v", duration)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.windows("a", 1e9), "a: a duration of 1e.09 s .* Check duration, frame_rate.*larger max_frames"),
        (lambda p: p.whole_video("a", 1e9), "a: a duration of 1e.09 s"),
        (lambda p: p.windows("a", 3600.0, overlap=0.99999, max_frames=10**5), "overlap.*larger max_frames"),
        (lambda p: p.windows("a", 3600.0, max_frames=0), "max_frames is 0"),
        (lambda p: p.windows(5, 3600.0), "video_id is 5; it must be str"),
    ],
)
def test_hours_of_frames_are_asked_about(call, message):
    with pytest.raises(ValueError, match=message):
        call(Re2TALVideoProcessor())


def test_long_videos_are_planned():
    processor = Re2TALVideoProcessor()
    assert len(processor.windows("a", 24 * 3600.0)) == 10124
    assert len(processor.windows("a", 3e5, max_frames=10**8)) > 3 * 10**4


CLIP = np.full((4, 24, 32, 3), 100, np.uint8)


@pytest.mark.parametrize(
    ("clips", "settings", "message"),
    [
        ([], {}, "videos is empty"),
        (None, {}, "videos is None"),
        (CLIP[:0], {}, r"videos is ndarray uint8 \[0, 24, 32, 3\]"),
        (CLIP[..., :2], {}, r"videos is ndarray uint8 \[4, 24, 32, 2\]"),
        (CLIP / 255, {}, "values up to 0.39.*do_rescale=False"),
        (CLIP * 100.0, {}, "values from 10000 to 10000; give them from 0 to 255"),
        (CLIP * np.nan, {}, "values that are not finite"),
        (CLIP > 3, {}, "videos is ndarray bool"),
        ([CLIP, "a.mp4"], {}, r"videos\[1\] is 'a.mp4'"),
        ([CLIP[0], CLIP[0, :20]], {}, "videos is a list of unlike frames"),
        (CLIP, {"frame_rates": 1}, "frame_rates: there is no such setting; did you mean 'frame_rate'"),
        (CLIP, {"size": {"hight": 3, "width": 3}}, "size has .'hight', 'width'.; give height and width or"),
        (CLIP, {"return_tensors": "tf"}, "return_tensors is 'tf'"),
    ],
)
def test_wrong_clips_are_named(clips, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Re2TALVideoProcessor(size=SIZE)(clips, **settings)


def test_clips_of_other_types_are_taken():
    processor = Re2TALVideoProcessor(size=SIZE)
    expected = processor(CLIP, return_tensors="pt")["pixel_values_videos"]
    for clip in (CLIP.astype(np.int64), CLIP.astype(np.float32), CLIP[None], CLIP.transpose(0, 3, 1, 2)):
        assert_close(processor(clip, return_tensors="pt")["pixel_values_videos"], expected)
    assert_close(processor(CLIP / 255, do_rescale=False, return_tensors="pt")["pixel_values_videos"].float(), expected)
    assert not processor(CLIP.astype(np.float32) * 0, do_normalize=False)["pixel_values_videos"][0].any()


def test_windows_need_a_valid_overlap():
    with pytest.raises(ValueError, match="overlap is 1"):
        Re2TALVideoProcessor().windows("v", 10.0, overlap=1)


# From frames to tensors


def test_read_window(video):
    processor = Re2TALVideoProcessor(size=SIZE, frame_rate=20, num_frames=32)
    with VideoReader(video) as reader:
        windows = processor.windows("v", reader.duration)
        assert [window.start for window in windows] == [0.0, 0.8, 1.4]
        for window in windows:
            read = processor.read_window(reader, window)
            frames = reader.frames_at([window.start + k / 20 for k in range(32)])
            first = round(window.start * 20)
            assert frame_numbers(frames) == list(range(first, first + 32))
            expected = processor(frames, return_tensors="pt")
            assert torch.equal(read["pixel_values_videos"], expected["pixel_values_videos"][0])
            assert read["frame_mask"].all()


def test_read_window_pads_with_zeros(video):
    processor = Re2TALVideoProcessor(size=SIZE, frame_rate=20, num_frames=100)
    with VideoReader(video) as reader:
        [window] = processor.windows("v", reader.duration)
        read = processor.read_window(reader, window)
    assert read["pixel_values_videos"].shape == (100, 3, 24, 32)
    assert read["pixel_values_videos"].dtype == torch.float32
    assert read["frame_mask"].tolist() == [True] * 60 + [False] * 40
    assert not read["pixel_values_videos"][60:].any()
    assert read["pixel_values_videos"][:60].flatten(1).any(dim=1).all()


def test_read_resized_window(video):
    processor = Re2TALVideoProcessor(
        sampling="resized", num_frames=12, do_resize=False, do_rescale=False, do_normalize=False
    )
    with VideoReader(video) as reader:
        read = processor.read_window(reader, processor.windows("v", reader.duration)[0])
    assert frame_numbers(read["pixel_values_videos"]) == list(range(0, 60, 5))
    assert read["frame_mask"].all()


@pytest.mark.parametrize(
    ("settings", "shape", "decode_size"),
    [
        ({"size": SIZE}, (24, 32), (24, 32)),
        ({"size": 20}, (20, 20), (20, 20)),
        ({"size": {"shortest_edge": 24}}, (24, 32), None),
        (
            {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": 16, "resample": 3},
            (16, 16),
            None,
        ),
        ({"do_resize": False}, (48, 64), None),
    ],
)
def test_frame_sizes(video, settings, shape, decode_size):
    processor = Re2TALVideoProcessor(frame_rate=20, num_frames=4, **settings)
    assert processor.decode_size == decode_size
    with VideoReader(video) as reader:
        read = processor.read_window(reader, processor.windows("v", reader.duration)[3])
        frames = reader.frames_at([0.3, 0.35, 0.4, 0.45])
    assert read["pixel_values_videos"].shape == (4, 3, *shape)
    expected = processor(frames, return_tensors="pt")["pixel_values_videos"][0]
    assert torch.equal(read["pixel_values_videos"], expected)


def test_windows_are_prepared_together():
    processor = Re2TALVideoProcessor(size=SIZE, num_frames=90)
    windows = [torch.randint(256, (frames, 3, 24, 32), dtype=torch.uint8) for frames in (90, 7, 65)]
    batch = processor.prepare([windows[0], windows[1], windows[2].contiguous(memory_format=torch.channels_last)])
    expected = processor(windows, return_tensors="pt")
    for name in ("pixel_values_videos", "frame_mask"):
        assert torch.equal(batch[name], expected[name])
    assert not batch["pixel_values_videos"][1, 7:].any() and batch["frame_mask"].sum(1).tolist() == [90, 7, 65]
    for wrong, message in (
        ([windows[1], windows[1][..., 1:]], "sizes .* make no batch"),
        ([windows[0].repeat(2, 1, 1, 1)], "180 frames, more than num_frames=90"),
        ([], "make no batch"),
    ):
        with pytest.raises(ValueError, match=message):
            processor.prepare(wrong)


def test_normalization():
    processor = Re2TALVideoProcessor(size=SIZE)
    clip = torch.full((2, 3, 24, 32), 250, dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((250 / 255 - mean) / std)[:, None, None].expand(2, 3, 24, 32)
    pixel_values = processor(clip, return_tensors="pt")["pixel_values_videos"]
    assert_close(pixel_values[0], expected)


def test_clips_in_memory():
    processor = Re2TALVideoProcessor(size=SIZE)
    array = numbered_frames(5)
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    expected = processor(tensor, return_tensors="pt")
    assert expected["pixel_values_videos"].shape == (1, 5, 3, 24, 32)
    assert expected["frame_mask"].shape == (1, 5) and expected["frame_mask"].all()
    for clip in (array, [tensor], [Image.fromarray(frame) for frame in array], list(tensor)):
        result = processor(clip, return_tensors="pt")
        assert torch.equal(result["pixel_values_videos"], expected["pixel_values_videos"])
    assert processor(array, return_tensors="np")["frame_mask"].dtype == np.bool_


def test_clips_of_different_lengths():
    processor = Re2TALVideoProcessor(size=SIZE)
    clips = [numbered_frames(5), numbered_frames(3, 30, 30)]
    batch = processor(clips, return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (2, 5, 3, 24, 32)
    assert batch["frame_mask"].tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert not batch["pixel_values_videos"][1, 3:].any()
    alone = processor(clips[1], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(batch["pixel_values_videos"][1, :3], alone[0])
    with pytest.raises(ValueError, match="make no batch"):
        processor(clips, do_resize=False)


def test_files_are_not_decoded_whole(video):
    with pytest.raises(TypeError, match="sixty.mp4.*read_window"):
        Re2TALVideoProcessor()(str(video))


@pytest.mark.parametrize("change", [{}, {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}])
def test_the_middle_of_a_file_is_sampled_where_asked_for(video, change):
    settings = {"size": {"shortest_edge": 24}, "num_frames": 10, "frame_rate": 5.0, **change}
    processor = Re2TALVideoProcessor(**settings)
    with VideoReader(video) as reader:
        start = (reader.duration - 2) / 2
        middle = Window("", start, 5.0, 10, reader.duration)
        expected = processor.read_window(reader, middle)
    for files in (str(video), video, [str(video)]):
        batch = processor(files, do_sample_frames=True, num_frames=None, return_tensors="pt")
        assert torch.equal(batch["pixel_values_videos"][0], expected["pixel_values_videos"])
    two = processor([str(video), video.read_bytes()], do_sample_frames=True, num_frames=4, return_tensors="pt")
    assert two["pixel_values_videos"].shape[:2] == (2, 4) and two["frame_mask"].all()
    large = processor(str(video), do_sample_frames=True, size={"height": 30, "width": 40}, do_center_crop=False)
    assert large["pixel_values_videos"].shape[-2:] == (30, 40)
    with pytest.raises(VideoReadError, match="nothing.mp4"):
        processor("nothing.mp4", do_sample_frames=True)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_overlap": 1.0}, "window_overlap is 1.0"),
        ({"window_overlap": -0.1}, "window_overlap is -0.1"),
        ({"frame_rate": 0}, "frame_rate is 0"),
        ({"frame_rate": float("nan")}, "frame_rate is nan"),
        ({"frame_rate": float("inf")}, "frame_rate is inf"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 1.5}, "num_frames is 1.5"),
        ({"sampling": "random"}, "sampling is 'random'; it must be one of .'sliding', 'resized'."),
        ({"nms_method": "softer"}, "nms_method is 'softer'; it must be one of .'soft', 'hard', 'none'."),
        ({"nms_sigma": 0}, "nms_sigma is 0"),
        ({"nms_iou_threshold": 1.2}, "nms_iou_threshold is 1.2"),
        ({"voting_threshold": 0}, "voting_threshold is 0"),
        ({"score_threshold": 1}, "score_threshold is 1"),
        ({"nms_min_score": -1}, "nms_min_score is -1"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"max_candidates": 0}, "max_candidates is 0"),
        ({"num_video_classes": 0}, "num_video_classes is 0"),
        ({"image_std": [0.2, 0.0, 0.2]}, r"image_std\[1\] is 0.0; it must be at least 1e-06"),
        ({"image_std": -1.0}, "image_std is -1.0"),
        ({"image_mean": [float("nan"), 0.0, 0.0]}, r"image_mean\[0\] is nan"),
        ({"rescale_factor": 0.0}, "rescale_factor is 0.0"),
        ({"size": {"height": 0, "width": 8}}, "size.height is 0"),
        ({"do_resize": "no"}, "do_resize is 'no'; it must be bool"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Re2TALVideoProcessor(**settings)


def test_settings_of_one_call_out_of_range():
    clip = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="image_std is 0.0; it must be at least 1e-06"):
        Re2TALVideoProcessor(size={"height": 8, "width": 8})(clip, image_std=0.0)


def test_unknown_settings():
    with pytest.raises(ValueError, match="window_overlp: there is no such setting; did you mean 'window_overlap'"):
        Re2TALVideoProcessor(window_overlp=0.5)


SETTINGS = {
    "size": SIZE,
    "sampling": "resized",
    "frame_rate": 30.0,
    "num_frames": 64,
    "window_overlap": 0.25,
    "image_mean": (0.5, 0.5, 0.5),
    "nms_method": "hard",
    "nms_per_class": False,
    "voting_threshold": 0.7,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
}


def test_saved_and_loaded(tmp_path):
    processor = Re2TALVideoProcessor(**SETTINGS)
    processor.save_pretrained(tmp_path)
    loaded = Re2TALVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.voting_threshold == 0.7 and loaded.windows("v", 64.0)[0].frame_rate == 1.0
    changed = Re2TALVideoProcessor.from_pretrained(tmp_path, sampling="sliding", window_overlap=0.5)
    assert changed.windows("v", 10.0) != processor.windows("v", 10.0)
    with pytest.raises(ValueError, match="window_overlap"):
        Re2TALVideoProcessor.from_pretrained(tmp_path, window_overlap=2.0)


REMOTE = """
import sys
sys.modules["re2tal_hf"] = None  # as where the package was never installed
from transformers import AutoVideoProcessor
processor = AutoVideoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
code = sys.modules[type(processor).__module__.replace("video_processing_re2tal", "video_source")]
with code.open_video(sys.argv[2]) as reader:
    window = processor.windows("v", reader.duration)[0]
    print(processor.read_window(reader, window)["pixel_values_videos"].double().abs().sum().item())
processor.save_pretrained(sys.argv[3])
"""


@pytest.mark.training
def test_loaded_without_the_package(tmp_path, video, monkeypatch):
    monkeypatch.setattr(Re2TALVideoProcessor, "_auto_class", None)
    Re2TALVideoProcessor.register_for_auto_class()
    processor = Re2TALVideoProcessor(size=SIZE, num_frames=8)
    processor.save_pretrained(tmp_path / "model")
    with VideoReader(video) as reader:
        window = processor.windows("v", reader.duration)[0]
        expected = processor.read_window(reader, window)["pixel_values_videos"].double().abs().sum().item()
    for source, target in (("model", "again"), ("again", "once_more")):
        result = subprocess.run(
            [sys.executable, "-c", REMOTE, tmp_path / source, video, tmp_path / target],
            cwd=tmp_path,
            env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert float(result.stdout.split()[-1]) == pytest.approx(expected, rel=rounding(torch.float32))
    loaded = AutoVideoProcessor.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert loaded.num_frames == 8
