"""What cannot be learned is found by the loss's own label assignment, counted by class, and said with a cure."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from video_factory import numbered_frames, write_video

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALVideoProcessor
from re2tal_hf.data.annotations import AnnotatedVideo, AnnotationError, read_annotations
from re2tal_hf.data.learnable import check_learnable, find_misfits
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.training.data_checks import label_assignment

RATE = 10
NAMES = ["run", "jump"]
BACKBONE = {
    "model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "patch_size": [4, 8, 8],
    "window_size": [2, 2, 2],
}  # fmt: skip
STRIDE = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", numbered_frames(20 * RATE), RATE)


def build_model(head="actionformer", loss=None, **head_config):
    size = 32 if head == "vsgn" else 16
    config = Re2TALConfig(
        backbone_config=BACKBONE,
        head_config={"model_type": head, "hidden_size": size, "num_levels": 3, **head_config},
        loss_config=loss or {},
        num_labels=2,
    )
    return Re2TALForTemporalActionLocalization(config)


def build_windows(path, actions, num_frames=64, **settings):
    segments = np.array([action[:2] for action in actions], dtype=np.float64).reshape(-1, 2)
    video = AnnotatedVideo("v", "training", path, None, segments, [label for *_, label in actions])
    sampling = settings.pop("sampling", "sliding")
    processor = Re2TALVideoProcessor(
        size={"height": 16, "width": 16}, frame_rate=RATE, num_frames=num_frames, sampling=sampling
    )
    return TrainingWindows([video], processor, max_lost=1.0, **settings)


def misfits(model, windows):
    can_learn = label_assignment(model, windows.processor.num_frames)
    return find_misfits(windows, can_learn, model.model.feature_stride)


def reasons(model, windows):
    return Counter((misfit.label, misfit.reason) for misfit in misfits(model, windows))


@pytest.mark.training
@pytest.mark.parametrize("head", ["actionformer", "tridet"])
def test_what_is_found_is_what_training_gives_no_positive_point(path, head):
    generator = torch.Generator().manual_seed(1)
    starts = torch.rand(40, generator=generator) * 19
    lengths = 0.02 * 40 ** torch.rand(40, generator=generator)
    actions = [(s, s + n, 0) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    model = build_model(head)
    windows = build_windows(path, actions, max_attempts=1, truncation_threshold=1.0)
    # The windows of many epochs through the loss itself, action by action.
    missed = set()
    output = model.head(torch.zeros(1, model.model.feature_size, 16), torch.ones(1, 16, dtype=torch.bool))
    for number, (start, end, _) in enumerate(actions):
        windows.videos[0].segments, windows.videos[0].labels = np.array([[start, end]]), [0]
        for _ in range(400):
            _, labels = windows.draw_window(windows.videos[0], generator)
            targets = [{"segments": labels["segments"] / STRIDE, "class_labels": labels["class_labels"]}]
            if len(labels["segments"]) and not model.criterion._targets(output, targets)[0].any():
                missed.add(number)
    found = misfits(model, build_windows(path, actions))
    assert {misfit.reason for misfit in found} == {"too short"}
    expected = sorted(STRIDE / ((actions[number][1] - actions[number][0]) * RATE) for number in missed)
    assert sorted(misfit.factor for misfit in found) == pytest.approx(expected)
    assert 5 < len(found) < 35


def test_the_head_that_matches_anchors_learns_the_shortest(path):
    windows = build_windows(path, [(5.0, 5.05, 0), (8.0, 8.3, 1)])
    assert not misfits(build_model("vsgn"), windows)
    assert reasons(build_model(), windows) == {(0, "too short"): 1, (1, "too short"): 1}


def test_longer_than_a_window_shows(path):
    actions = [(0.0, 20.0, 0), (1.0, 9.6, 0), (1.0, 9.4, 1), (2.0, 4.0, 1)]
    model = build_model()
    assert reasons(model, build_windows(path, actions)) == {(0, "too long"): 2}
    assert reasons(model, build_windows(path, actions, truncation_threshold=0.5)) == {(0, "too long"): 1}
    assert not misfits(model, build_windows(path, actions, num_frames=200))
    assert not misfits(model, build_windows(path, actions, num_frames=256))
    assert not misfits(model, build_windows(path, actions, sampling="resized", truncation_threshold=1.0))
    cropped = build_windows(path, actions, num_frames=256, crop_ratio=(0.3, 0.5))
    assert reasons(model, cropped) == {(0, "too long"): 1}


def test_a_feature_step_of_a_resized_video_is_its_own(path):
    actions = [(5.0, 6.0, 0), (8.0, 12.0, 1)]
    windows = build_windows(path, actions, sampling="resized", num_frames=32)  # 2.5 s a step
    assert reasons(build_model(), windows) == {(0, "too short"): 1}
    assert not misfits(build_model(), build_windows(path, actions, sampling="resized", num_frames=128))


def test_ranges_with_a_gap_leave_lengths_without_a_point(path):
    model = build_model(regression_ranges=[[0, 1], [3, 4], [4, 100]])
    windows = build_windows(path, [(3.0, 3.5, 0), (5.0, 6.6, 1), (8.0, 11.0, 0)])
    assert reasons(model, windows) == {(1, "no point"): 1}
    model = build_model(regression_ranges=[[0, 1], [1, 2], [2, 3]])
    assert reasons(model, windows)[(0, "no point")] == 1
    model = build_model(loss={"center_radius": 0.05})
    assert reasons(model, build_windows(path, [(3.0, 5.0, 0)])) == {(0, "no point"): 1}


def report(model, windows, max_unlearnable=1.0):
    can_learn = label_assignment(model, windows.processor.num_frames)
    return check_learnable(windows, NAMES, can_learn, model.model.feature_stride, max_unlearnable)


def test_the_report_counts_by_class_and_names_what_fits(path):
    model = build_model()
    assert report(model, build_windows(path, [(2.0, 4.0, 1)])) == ""
    actions = [(0.0, 20.0, 0), (1.0, 10.0, 0), (3.0, 3.1, 1), (25.0, 26.0, 1), (4.0, 6.0, 0), (8.0, 9.0, 1)]
    lines = report(model, build_windows(path, actions)).splitlines()
    assert lines[0] == "4 of 6 training actions cannot be learned as they are:"
    assert lines[1].startswith("- too long, 2 (run 2): no window shows 75% of them")
    assert lines[1].endswith("processor.num_frames=192 would fit, or processor.frame_rate=4.2")
    assert lines[2].startswith("- too short, 1 (jump 1): a feature step is 0.4 s")
    assert lines[2].endswith("processor.frame_rate=40 with processor.num_frames=256 would fit")
    assert lines[3].startswith("- lost, 1 (jump 1): outside their video")


@pytest.mark.parametrize(
    ("actions", "settings", "fit"),
    [
        ([(0.0, 18.0, 0), (2.0, 15.0, 0)], {}, {"num_frames": 192}),
        ([(5.0, 5.2, 0), (8.0, 8.25, 0)], {"sampling": "resized"}, {"num_frames": 448}),
    ],
)
def test_what_is_named_fits(path, actions, settings, fit):
    model = build_model()
    with pytest.raises(AnnotationError, match=f"processor.num_frames={fit['num_frames']}.*\n.*data.max_unlearnable"):
        report(model, build_windows(path, actions, **settings), max_unlearnable=0.5)
    assert report(model, build_windows(path, actions, **settings, **fit)) == ""


def test_above_a_share_it_is_an_error(path):
    windows = build_windows(path, [(0.0, 20.0, 0), (2.0, 4.0, 1), (5.0, 6.0, 1)])
    assert report(build_model(), windows, max_unlearnable=0.34)
    with pytest.raises(AnnotationError, match="share of 0.33; .* set data.max_unlearnable, which is 0.3"):
        report(build_model(), windows, max_unlearnable=0.3)


def test_the_question_leaves_the_model_as_it_was():
    model = build_model(drop_path=0.5)
    before = torch.get_rng_state()
    label_assignment(model, 64)
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.head.modules())


@pytest.mark.training
@pytest.mark.parametrize(
    ("file", "subset", "frames", "rate", "stride"),
    [
        ("thumos14_actionformer_style.json", "validation", 1024, 15.0, 2),
        ("thumos14_opentad_style.json", "training", 1024, 15.0, 2),
        ("multithumos_superevents_style.json", "training", 1024, 15.0, 2),
        ("activitynet13.json", "training", 768, None, 4),
    ],
)
def test_public_data_sets_pass_in_the_published_settings(
    public_annotations: Path, monkeypatch, file, subset, frames, rate, stride
):
    annotations = read_annotations(public_annotations / file, subset=subset)
    durations = {video.video_id: video.duration for video in annotations.videos}
    monkeypatch.setattr(
        "re2tal_hf.data.readable_videos.known_durations",
        lambda videos, timelines: [durations[video.video_id] for video in videos],
    )
    for video in annotations.videos:
        video.path = Path("not opened.mp4")
    sampling = {"sampling": "resized"} if rate is None else {"frame_rate": rate}
    windows = TrainingWindows(annotations.videos, Re2TALVideoProcessor(num_frames=frames, **sampling))
    found = find_misfits(windows, label_assignment(build_model(num_levels=6), frames * STRIDE // stride), stride)
    assert len(found) < 0.03 * sum(len(video.labels) for video in windows.videos)
    assert all(math.isnan(misfit.factor) or misfit.factor > 1 for misfit in found)
