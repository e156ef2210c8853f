"""From what a model found in windows to the detections of a video, in seconds."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tolerances import assert_close
from video_factory import numbered_frames, write_video

from re2tal_hf.finite import NotFiniteError
from re2tal_hf.temporal_segments import LENGTH_MARGIN, suppress
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader
from re2tal_hf.video_windows import Window


def output(logits, segments, mask=None):
    """A model's output for a batch of windows, one class unless logits say otherwise."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    logits = logits[..., None] if logits.dim() == 2 else logits
    segments = torch.as_tensor(segments, dtype=torch.float32)
    mask = torch.ones(segments.shape[:2]) if mask is None else torch.tensor(mask)
    return {"logits": logits, "pred_segments": segments, "point_mask": mask.bool()}


def post_process(outputs, windows, *, settings=None, **overrides):
    processor = Re2TALVideoProcessor(**(settings or {}))
    return processor.post_process_temporal_action_localization(outputs, windows, **overrides)


NO_NMS = {"nms_method": "none"}


def test_seconds_of_a_window():
    windows = [Window("v", 4.0, 20.0, 64, 6.0)]
    outputs = output([[2.0, 1.0, 0.0]], [[[0, 10], [-100, 5], [30, 400]]])
    [found] = post_process(outputs, windows, settings=NO_NMS)
    assert found["video_id"] == "v"
    expected = torch.tensor([[4.0, 4.5], [0.0, 4.25], [5.5, 6.0]], dtype=torch.float64)
    assert torch.equal(found["segments"], expected)
    assert_close(found["scores"], torch.tensor([2.0, 1.0, 0.0]).sigmoid())
    assert found["labels"].tolist() == [0, 0, 0] and found["labels"].dtype == torch.long


@pytest.mark.parametrize("settings", [{}, {"point_window": 1.0}], ids=str)
def test_a_window_without_a_real_point_finds_nothing(settings):
    outputs = output([[2.0, 1.0]], [[[0, 10], [2, 5]]], [[False, False]])
    [found] = post_process(outputs, [Window("v", 0.0, 20.0, 64, 6.0)], settings=settings)
    assert found["segments"].shape == (0, 2) and len(found["scores"]) == len(found["labels"]) == 0


def test_frames_of_a_read_window_are_its_seconds(tmp_path):
    """Both directions agree: the frame at which a segment starts is the one on screen then."""
    video = write_video(tmp_path / "sixty.mp4", numbered_frames(60), 20)
    processor = Re2TALVideoProcessor(frame_rate=10, num_frames=8, do_resize=False, **NO_NMS)
    with VideoReader(video) as reader:
        for window in processor.windows("v", reader.duration):
            [found] = processor.post_process_temporal_action_localization(output([[0.0]], [[[3, 7]]]), [window])
            frames = reader.frames_at([window.start + 3 / 10])
            assert torch.equal(reader.frames_at(found["segments"][0, :1].tolist()), frames)


def test_windows_of_a_video_are_merged_before_suppression():
    windows = [Window("a", 0.0, 10.0, 40, 8.0), Window("a", 2.0, 10.0, 40, 8.0)]
    # The same second to third second, seen by both windows.
    outputs = output([[2.0], [1.0]], [[[20, 30]], [[0, 10]]])
    [found] = post_process(outputs, windows, settings={"nms_sigma": 0.5})
    assert torch.equal(found["segments"][0], torch.tensor([2.0, 3.0], dtype=torch.float64))
    expected = torch.tensor([2.0, 1.0]).sigmoid().double()
    expected[1] *= np.exp(-((1 + 2 * LENGTH_MARGIN) ** -2) / 0.5)
    assert_close(found["scores"], expected.float())
    [found] = post_process(outputs, windows, settings={"nms_method": "hard"})
    assert len(found["scores"]) == 1


def test_segments_are_not_rounded_before_suppression():
    """Segments of a few milliseconds: rounded to 0.01 s they would suppress each other."""
    windows = [Window("a", 1000.0, 1000.0, 16, 2000.0)]
    outputs = output([[2.0, 1.0]], [[[0, 2], [2.5, 4.5]]])
    [found] = post_process(outputs, windows)
    expected = torch.tensor([[1000, 1000.002], [1000.0025, 1000.0045]], dtype=torch.float64)
    assert_close(found["segments"], expected)
    assert_close(found["scores"], torch.tensor([2.0, 1.0]).sigmoid())


def test_videos_stay_apart_and_outputs_may_come_in_batches():
    generator = torch.Generator().manual_seed(0)
    windows = [Window(name, 2.0 * k, 10.0, 40, 20.0) for k, name in enumerate("abacb")]
    starts = torch.rand(5, 30, 1, generator=generator) * 30
    segments = torch.cat([starts, starts + 10 * torch.rand(5, 30, 1, generator=generator)], dim=-1)
    logits = torch.randn(5, 30, 4, generator=generator)
    mask = torch.rand(5, 30, generator=generator) > 0.3
    whole = post_process(output(logits, segments, mask.tolist()), windows)
    assert [found["video_id"] for found in whole] == ["a", "b", "c"]
    pieces = [output(logits[part], segments[part], mask[part].tolist()) for part in (slice(0, 2), slice(2, 5))]
    for one, two in zip(whole, post_process(pieces, windows), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in ("segments", "scores", "labels"))
    rows = [0, 2]
    seconds = torch.cat([(windows[r].start + segments[r].double() / 10)[mask[r]] for r in rows])
    scores = torch.cat([logits[r][mask[r]] for r in rows]).sigmoid().double()
    expected = suppress(
        seconds.clamp(0, 20).repeat_interleave(4, 0),
        scores.flatten(),
        torch.arange(4).repeat(len(scores)),
    )
    assert_close(whole[0]["scores"], expected[1].float())
    assert_close(whole[0]["segments"], expected[0])
    assert torch.equal(whole[0]["labels"], expected[2])
    assert (whole[0]["scores"].diff() <= 0).all()


def test_what_is_dropped():
    windows = [Window("v", 0.0, 10.0, 40, 4.0)]
    logits = [[3.0, 2.0, 1.0, 0.0, -9.0, 4.0, 5.0]]
    segments = [[[0, 5], [6, 9], [10, 14], [15, 20], [21, 25], [30, 30], [50, 60]]]
    outputs = output(logits, segments, [[1, 0, 1, 1, 1, 1, 1]])
    # The second is padding, the fifth scores 0.0001, the last two have no length in the video.
    [found] = post_process(outputs, windows, settings=NO_NMS)
    assert found["segments"][:, 0].tolist() == [0, 1.0, 1.5]
    [found] = post_process(outputs, windows, settings={**NO_NMS, "max_candidates": 2})
    assert found["segments"][:, 0].tolist() == [0, 1.0]
    [found] = post_process(outputs, windows, settings=NO_NMS, threshold=0.6)
    assert found["segments"][:, 0].tolist() == [0, 1.0]
    [found] = post_process(outputs, windows, max_detections=1)
    assert found["segments"][:, 0].tolist() == [0]
    settings = {**NO_NMS, "score_threshold": 0.0, "nms_min_score": 0.0}
    assert len(post_process(outputs, windows, settings=settings)[0]["scores"]) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"score_threshold": 0.3}, {"max_candidates": 3}, {"nms_method": "hard", "nms_iou_threshold": 0.2},
        {"nms_sigma": 0.05, "nms_min_score": 0.2}, {"nms_per_class": False}, {"voting_threshold": 0.3},
        {"voting_threshold": None, "max_detections": 4}, {"num_video_classes": 1},
    ],
)  # fmt: skip
def test_settings_of_the_detection_for_one_call(change):
    windows = [Window("v", 0.0, 10.0, 40, 4.0)]
    starts = torch.rand(12) * 30
    by_class = "num_video_classes" not in change
    outputs = output(torch.randn(1, 12, 3 if by_class else 1), torch.stack((starts, starts + 8), 1)[None])
    own = {} if by_class else {"video_scores": {1: 0.5, 2: 0.25}}
    [expected] = post_process(outputs, windows, settings=change, **own)
    [found] = post_process(outputs, windows, settings={}, **change, **own)
    [usual] = post_process(outputs, windows, **own)
    assert all(torch.equal(found[name], expected[name]) for name in ("segments", "scores", "labels"))
    assert change == {"voting_threshold": None} or any(
        found[name].shape != usual[name].shape or not torch.equal(found[name], usual[name])
        for name in ("segments", "scores")
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"nms_sigmaa": 1.0}, TypeError, "no setting 'nms_sigmaa'"),
        ({"sampling": "resized"}, TypeError, "no setting 'sampling'"),
        ({"nms_sigma": -1.0}, ValueError, "nms_sigma is -1.0"),
        ({"nms_method": "softer"}, ValueError, "nms_method is 'softer'"),
        ({"max_detections": 0}, ValueError, "max_detections is 0"),
    ],
)
def test_wrong_settings_of_a_call_are_named(change, error, message):
    with pytest.raises(error, match=message):
        post_process(output([[2.0]], [[[0, 5]]]), [Window("v", 0.0, 10.0, 40, 4.0)], **change)


def test_a_threshold_out_of_range_is_named():
    with pytest.raises(ValueError, match="threshold is nan"):
        post_process([output([[0.0]], [[[0.0, 1.0]]])], [Window("a", 0.0, 1.0, 2, 2.0)], threshold=float("nan"))


def test_a_video_without_detections():
    [found] = post_process(output([[-20.0]], [[[0, 5]]]), [Window("v", 0.0, 10.0, 40, 4.0)])
    assert found["segments"].shape == (0, 2) and found["segments"].dtype == torch.float64
    assert found["labels"].shape == found["scores"].shape == (0,)
    assert post_process([], []) == []


def test_half_precision_outputs():
    outputs = output([[2.0, -8.0]], [[[0, 5], [7, 9]]])
    outputs = {key: value.half() if key != "point_mask" else value for key, value in outputs.items()}
    [found] = post_process(outputs, [Window("v", 0.0, 10.0, 40, 4.0)], settings={"score_threshold": 0})
    assert_close(found["scores"][0], torch.tensor(2.0).sigmoid())


def test_scores_of_a_video_classifier():
    windows = [Window("a", 0.0, 10.0, 40, 9.0), Window("b", 0.0, 10.0, 40, 9.0)]
    outputs = output([[2.0], [1.0]], [[[0, 10]], [[20, 30]]])
    scores = torch.tensor([2.0, 1.0]).sigmoid().double()
    by_video = {"a": {7: 0.5, 3: 0.25, 4: 0.1}, "b": torch.tensor([0.0, 0.9, 0.2])}
    a, b = post_process(outputs, windows, video_scores=by_video)
    assert a["labels"].tolist() == [7, 3] and b["labels"].tolist() == [1, 2]
    assert_close(a["scores"], (scores[0] * torch.tensor([0.5, 0.25])).float())
    assert_close(b["scores"], (scores[1] * torch.tensor([0.9, 0.2])).float())
    assert torch.equal(a["segments"], torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64))
    # One video: without its id. A class that no one scored is not made up.
    one = output([[2.0]], [[[0, 10]]])
    [found] = post_process(one, windows[:1], video_scores={7: 0.5})
    assert found["labels"].tolist() == [7]
    [found] = post_process(one, windows[:1], video_scores={7: 0.5, 3: 0.4}, threshold=0.4)
    assert found["labels"].tolist() == [7]
    for scores in ([0.0, 0.9], np.array([0.0, 0.9], np.float32), {np.int64(1): torch.tensor(0.9)}, {1: 0.9, 10**12: 0}):
        [found] = post_process(one, windows[:1], video_scores=scores)
        assert found["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        (1, {"a": {0: 1.0}}, "lack 1 videos, such as 'b'"),
        (1, {"a": {0: 1.0}, "b": {}}, "'b' are empty"),
        (1, {0: 1.0}, "for each of 2 videos"),
        (2, {"a": {0: 1.0}, "b": {0: 1.0}}, "without classes of its own"),
        (1, {"a": {0: 1.0}, "b": {-1: 1.0}}, "'b': -1 is neither a label nor a class id"),
        (1, {"a": {0: 1.0}, "b": {1.5: 1.0}}, "'b': 1.5 is neither"),
        (1, {"a": {0: 1.0}, "b": {True: 1.0}}, "'b': True is neither"),
        (1, {"a": {0: 1.0}, "b": {0: 1.0, "run": 1.0}}, "'b' mix labels with class ids"),
        (1, {"a": {0: 1.0}, "b": {"run": 1.0}}, "'run' is no class id"),
        (1, {"a": {0: 1.0}, "b": {3: math.nan}}, "'b': the score of 3 is nan"),
        (1, {"a": {0: 1.0}, "b": {3: math.inf}}, "'b': the score of 3 is inf"),
        (1, {"a": {0: 1.0}, "b": torch.tensor([0.5, -0.5])}, "'b': the score of 1 is -0.5"),
        (1, {"a": {0: 1.0}, "b": torch.ones(2, 2)}, r"'b': the score of 0 is \[1.0, 1.0\]"),
        (1, {"a": {0: 1.0}, "b": {3: "high"}}, "'b': the score of 3 is 'high'"),
        (1, {"a": {0: 1.0}, "b": 0.5}, "'b' are 0.5; give"),
    ],
)
def test_scores_of_a_video_classifier_that_do_not_fit(classes, scores, message):
    windows = [Window("a", 0.0, 10.0, 40, 9.0), Window("b", 0.0, 10.0, 40, 9.0)]
    with pytest.raises(ValueError, match=message):
        post_process(output(torch.zeros(2, 1, classes), [[[0, 1]]] * 2), windows, video_scores=scores)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_nothing(value):
    windows = [Window("fine", 0.0, 10.0, 16, 4.0), Window("broken", 2.0, 10.0, 16, 4.0)]
    logits, segments = torch.zeros(2, 3, 2), torch.tensor([2.0, 9.0]).repeat(2, 3, 1)
    mask = [[True, True, False]] * 2
    logits[:, 2], segments[:, 2] = value, value  # padding may hold anything
    if value < 0:
        logits[:, :2, 0] = value  # of a point that stands for one class
    found = post_process([output(logits, segments, mask)], windows)
    assert [len(video["scores"]) for video in found] == ([2, 2] if value < 0 else [4, 4])
    broken = logits.clone()
    broken[1, 0] = value
    with pytest.raises(NotFiniteError, match=r"broken, window at 2.00 s: 1 of 2 logits are not finite"):
        post_process([output(broken, segments, mask)], windows)
    broken = segments.clone()
    broken[1, 1, 0] = value
    with pytest.raises(NotFiniteError, match=r"broken, window at 2.00 s: 1 of 4 segments are not finite"):
        post_process([output(logits, broken, mask)], windows)


def test_outputs_and_windows_must_match():
    with pytest.raises(ValueError, match="outputs are of 2 windows, not of 1"):
        post_process(output([[0.0], [0.0]], [[[0, 1]]] * 2), [Window("a", 0.0, 10.0, 40, 9.0)])


def test_detections_of_opentad(model_goldens):
    """A4: candidates of three windows, two of one video, and what OpenTAD makes of them.

    OpenTAD rounds times to 0.01 s before it suppresses, which moves its scores, and keeps segments
    of no length.
    """
    with safe_open(model_goldens / "a4_actionformer_opentad_full.safetensors", "pt") as golden:
        metadata = golden.metadata()
        windows, outputs = [], []
        for row, meta in enumerate(json.loads(metadata["metas_sliding"])):
            segments = golden.get_tensor(f"f32.eval.pred.0.{row}")
            logits = golden.get_tensor(f"f32.eval.pred.1.{row}").double().logit()
            start = (meta.get("window_start_frame", 0) + meta["offset_frames"]) / meta["fps"]
            rate = meta["fps"] / meta["snippet_stride"]
            windows.append(Window(meta["video_name"], start, rate, len(segments), meta["duration"]))
            outputs.append(output(logits[None], segments[None]))
        expected = {
            key: {k: golden.get_tensor(f"det.sliding.{key}.{k}") for k in ("segments", "labels", "scores")}
            for key in ("vid_a", "vid_c")
        }
    settings = {"nms_sigma": 0.7, "max_detections": 2000}
    for found in post_process(outputs, windows, settings=settings):
        reference = expected[found["video_id"]]
        empty = int((reference["segments"].diff(dim=1) <= 0).sum())
        assert len(reference["scores"]) - empty <= len(found["scores"]) <= len(reference["scores"])
        distance = (found["segments"][:, None] - reference["segments"]).abs().amax(dim=2)
        distance[found["labels"][:, None] != reference["labels"]] = torch.inf
        assert distance.amin(dim=1).max() <= 0.005 + 1e-6
        scores = torch.where(
            distance <= 0.005 + 1e-6,
            (found["scores"][:, None] - reference["scores"]).abs(),
            torch.inf,
        ).amin(dim=1)
        assert scores.quantile(0.9) <= 0.01


def test_points_suppress_each_other_within_a_window():
    windows = [Window("v", 2.0, 10.0, 64, 6.0)]
    times = [[10, 10], [12, 12], [19, 19], [-3, -3], [400, 400]]
    outputs = output([[2.0, 1.0, 0.5, 0.0, -0.5]], [times])
    [found] = post_process(outputs, windows, settings={"point_window": 1.0, "nms_sigma": 0.5})
    assert torch.equal(found["segments"][:, 0], found["segments"][:, 1])
    scores = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5]).sigmoid().double()
    # Segments of a second 0.2 s apart share 0.8 of 1.2, 0.9 s apart 0.1 of 1.9, and 0.7 s apart 0.3 of 1.7. The second
    # falls behind the third, which then lowers it, too. Those at the edges of the video are alone.
    first = float(torch.exp(torch.tensor(-((0.8 / 1.2) ** 2) / 0.5)))
    second = [
        float(torch.exp(torch.tensor(-((share / union) ** 2) / 0.5))) for share, union in ((0.1, 1.9), (0.3, 1.7))
    ]
    expected = {3.0: scores[0], 3.2: scores[1] * first * second[1], 3.9: scores[2] * second[0]}
    expected |= {1.7: scores[3], 6.0: scores[4]}
    assert len(found["scores"]) == 5
    for (time, _), score in zip(found["segments"].tolist(), found["scores"].tolist(), strict=True):
        near = min(expected, key=lambda known: abs(known - time))
        assert time == pytest.approx(near, abs=1e-6) and score == pytest.approx(float(expected[near]), abs=1e-5)
    # Without the window they are segments of no length, and dropped.
    assert len(post_process(outputs, windows)[0]["segments"]) == 0
    [hard] = post_process(outputs, windows, point_window=1.0, nms_method="hard", nms_iou_threshold=0.5)
    assert sorted(round(time, 3) for time, _ in hard["segments"].tolist()) == [1.7, 3.0, 3.9, 6.0]
