"""Wrong calls: the pipeline and the processor."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from calls_of_files import check_frames
from calls_of_models import PIXELS
from torch import nn
from wrong_arguments import (
    CLIPS,
    INF,
    NAN,
    Arguments,
    Call,
    classifier,
    frames,
    pipe,
    pipe_without_classes,
    tensor,
    values,
)

from re2tal_hf import (
    Re2TALVideoProcessor,
    TemporalActionLocalizationPipeline,
)
from re2tal_hf.video_windows import Window

# The pipeline.


def check_rows(rows: Any, arguments: Arguments) -> None:
    """Of one video, or of several."""
    if not isinstance(rows, list):
        rows = list(rows)
    if rows and isinstance(rows[0], list):
        for of_video in rows:
            check_rows(of_video, arguments)
        return
    assert len(rows) <= (arguments.get("top_k") or math.inf), "more than top_k"
    for row in rows:
        assert row.keys() == {"label", "score", "start", "end"}, row
        assert isinstance(row["label"], str) and 0 <= row["start"] < row["end"] < INF, row
        # A classifier's scores, by which they are multiplied, have a scale of their own.
        assert 0 <= row["score"] <= (1 if arguments.get("video_scores") is None else INF), row
        assert row["score"] >= (arguments.get("threshold") or 0), row


def localize(videos: Any, **arguments: Any) -> Any:
    found = (pipe_without_classes() if "video_scores" in arguments else pipe())(videos, **arguments)
    return found if isinstance(found, list) else list(found)


PIPELINE = {
    "videos": [
        *CLIPS,
        lambda: {"frames": frames(12, 24, 24, 3), "frame_rate": "10"},
        lambda: {"frames": frames(12, 24, 24, 3), "fps": 10},
        lambda: {"frames": 5, "frame_rate": 10},
        lambda: {"path": 5},
        lambda: {"path": None, "bytes": None},
        lambda: {"video": {"video": None}},
        lambda: [frames(12, 24, 24, 3), {"frames": []}],
        lambda: iter([frames(12, 24, 24, 3)]),
    ],
    "frame_rate": values(
        1e-9, 1e-300, 1e9, 1e300, "10", [10], np.float32(10), torch.tensor(10.0), Fraction(30000, 1001)
    ),
    "threshold": values(0.4, 50, "0.5", -0.1, [0.5], np.float64(0.5)),
    "top_k": values(3, 0, 2.0, 2.5, "3", 10**30, np.int64(3)),
    "max_segments": values(3, 0, 2.5, "3", 10**30),
    "window_overlap": values(0.2, 1, 1.5, -0.1, "0.5", 0.999999999),
    "batch_size": values(2, 0, 2.5, "2", 10**30, np.int64(2)),
    "progress": values(False, "bar", 1, lambda done, count: None),
    "video_scores": values(
        {"jump": 0.5}, {0: 0.5}, [0.5, 0.2], {"jump": "0.5"}, {"jump": NAN}, {0: 1, "a": 1}, [[0.5]], []
    ),
    "max_frames": values(5, 0, None, 2.5, "many", 10**30),
}


def build_pipeline(**arguments: Any) -> Any:
    return TemporalActionLocalizationPipeline(**arguments)


def check_pipeline(built: Any, arguments: Arguments) -> None:
    check_rows(built(frames(12, 24, 24, 3), frame_rate=10), arguments)


BUILT_PIPELINE = {
    "model": [lambda: pipe().model.model, lambda: nn.Linear(2, 2), lambda: "user/model", lambda: classifier()],
    "video_processor": [lambda: Re2TALVideoProcessor, lambda: {"size": 3}, lambda: "user/model"],
    "device": values("cpu", -1, "cuda:77", "gpu", 5000, torch.device("cpu"), "meta"),
    "batch_size": values(2, 0, "2"),
    "threshold": values(0.4, 50, "0.5"),
    "top_k": values(3, 0, "3"),
}


# The processor.

SETTINGS = {
    "size": values({"height": 16}, {"height": 16, "width": 16}, 16, {"shortest_edge": 16}, {"height": "16",
      "width": 16},
                   {"height": 10**6, "width": 10**6}, {"height": 1.5, "width": 2}, {"h": 16, "w": 16}, [16, 16], (16,
                     16)),
    "crop_size": values({"height": 16, "width": 16}, 16, {"height": -1, "width": 16}, {"height": 10**7,
      "width": 10**7}),
    "do_center_crop": values(True, "yes", 1),
    "do_resize": values(False, "no", 0),
    "do_rescale": values(False, "no"),
    "do_normalize": values(False, None),
    "resample": values(2, "bilinear", 99, -1),
    "image_mean": values([0.5], [0.5, 0.5], 0.5, (0.5, 0.5, 0.5), ["a"], [[0.5]], [0.5] * 1000, np.zeros(3)),
    "image_std": values([0.5], [0.5, 0.5], 0.0, [0.5, 0, 0.5], 1e-320, "0.5"),
    "rescale_factor": values(1 / 255, 0, "1", 1e300),
    "sampling": values("sliding", "resized", "random", ["sliding"]),
    "frame_rate": values(15, 0, 1e-9, 1e9, "15", None),
    "num_frames": values(16, 0, 2.5, 10**9, 10**12, "16"),
    "window_overlap": values(0.5, 1, -1, 0.999999),
    "nms_method": values("soft", "hard", "none", "best", None),
    "nms_sigma": values(0.5, 0, "0.5"),
    "voting_threshold": values(0.5, 0, 2, None),
    "max_candidates": values(2000, 0, 10**30),
    "max_detections": values(200, 0, 1.5),
}  # fmt: skip
RIGHT_SETTINGS: Arguments = {"size": {"height": 16, "width": 16}, "num_frames": 8, "frame_rate": 10.0}


def check_processor(processor: Any, arguments: Arguments) -> None:
    """It can be used where frames are of one size."""
    windows = processor.windows("v", 3.0)
    assert windows and all(window.num_frames >= 1 for window in windows)
    found = [processor.resize_and_crop(torch.full((2, 3, 16, 16), 7, dtype=torch.uint8))]
    pixels = processor.prepare(found)["pixel_values_videos"]
    assert pixels.shape[:3] == (1, processor.num_frames, 3) and pixels.isfinite().all()


def prepare_clips(videos: Any, **settings: Any) -> Any:
    return Re2TALVideoProcessor(**RIGHT_SETTINGS)(videos, **settings)


def check_clips(batch: Any, arguments: Arguments) -> None:
    pixels, mask = (torch.as_tensor(np.asarray(batch[name])) for name in ("pixel_values_videos", "frame_mask"))
    assert pixels.dim() == 5 and pixels.shape[2] == 3 and pixels.shape[:2] == mask.shape and len(pixels), pixels.shape
    assert mask.dtype == torch.bool and mask.any() and pixels.isfinite().all()


def check_windows(windows: Any, arguments: Arguments) -> None:
    windows = windows if isinstance(windows, list) else [windows]
    assert windows and all(
        isinstance(window.video_id, str) and 0 <= window.start < arguments["duration"] and window.times
        for window in windows
    )


def check_prepared(batch: Any, arguments: Arguments) -> None:
    pixels, mask = batch["pixel_values_videos"], batch["frame_mask"]
    assert pixels.shape[:2] == mask.shape == (len(arguments["videos"]), 16) and pixels.isfinite().all()


def window(**change: Any) -> Arguments:
    return {"video_id": "v", "start": 0.0, "frame_rate": 10.0, "num_frames": 16, "duration": 4.0, **change}


def post_process(windows: Any, **arguments: Any) -> Any:
    if isinstance(windows, list):
        windows = [Window(**each) if isinstance(each, dict) and len(each) == 5 else each for each in windows]
    return pipe().video_processor.post_process_temporal_action_localization(windows=windows, **arguments)


def outputs(**change: Any) -> dict[str, Any]:
    right = {
        "logits": tensor(1, 6, 2),
        "pred_segments": torch.arange(12.0).reshape(1, 6, 2),
        "point_mask": tensor(1, 6, dtype=torch.bool),
    }
    return {name: value for name, value in (right | change).items() if value is not ...}


OUTPUTS = [
    *[
        functools.partial(outputs, **{name: value})
        for name in outputs()
        for value in (..., None, [1], tensor(1, 5, 2), tensor(6, 2), tensor(1, 6, 2, value=NAN), tensor(0, 6, 2), "abc",
                      tensor(1, 6, 2, dtype=torch.int64), tensor(2, 6, 2), np.zeros((1, 6, 2)), tensor(1, 6))
    ],
    lambda: [outputs(), outputs()],
    lambda: [outputs()],
    lambda: [outputs(), None],
    lambda: list(outputs()),
]  # fmt: skip
WINDOWS = [
    lambda: [window(), window()],
    list,
    lambda: window(),
    lambda: [None],
    lambda: [{"video_id": "v"}],
    *[
        functools.partial(lambda name, value: [window(**{name: value})], name, value)
        for name in ("video_id", "start", "frame_rate", "num_frames", "duration")
        for value in (None, -1, 0, NAN, INF, "a", 10**12)
    ],
]


def check_found(found: Any, arguments: Arguments) -> None:
    for of_video in found:
        segments, labels, scores = (of_video[name] for name in ("segments", "labels", "scores"))
        assert segments.shape == (len(labels), 2) and len(labels) == len(scores)
        assert segments.isfinite().all() and scores.isfinite().all() and (segments[:, 1] >= segments[:, 0]).all()


CALLS = {
    "pipe": Call(
        localize,
        lambda: {"videos": frames(12, 24, 24, 3), "frame_rate": 10.0},
        PIPELINE,
        check_rows,
        {"videos": ("video", "frames", "frame", "no.mp4")},
    ),
    "pipeline": Call(
        build_pipeline,
        lambda: {"model": pipe().model, "video_processor": pipe().video_processor, "device": "cpu"},
        BUILT_PIPELINE,
        check_pipeline,
        {},
    ),
    "settings": Call(Re2TALVideoProcessor, lambda: dict(RIGHT_SETTINGS), SETTINGS, check_processor, {}),
    "clips": Call(
        prepare_clips,
        lambda: {"videos": frames(12, 24, 24, 3), "return_tensors": "pt"},
        {"videos": CLIPS, "return_tensors": values("pt", "np", "tf", 5), "do_sample_frames": values(True, "yes")}
        | {name: SETTINGS[name] for name in ("size", "crop_size", "do_center_crop", "do_resize", "do_rescale",
          "image_mean",
                                             "image_std", "num_frames", "frame_rate", "resample", "rescale_factor")},
        check_clips,
        {"videos": ("video", "clip", "frames", "frame", "no.mp4")},
    ),
    "windows": Call(
        lambda **arguments: pipe().video_processor.windows(**arguments),
        lambda: {"video_id": "v", "duration": 7.3},
        {
            "video_id": values("w", 5, None, ""),
            "duration": values(1, 1e-9, 1e9, 1e300, "7", 0, -1, np.float32(7), Fraction(7, 2)),
            "overlap": values(0.2, 0, 1, 0.999999999, "0.5"),
            "max_frames": values(None, 10, 0, 2.5, "a"),
        },
        check_windows,
        {},
    ),
    "whole_video": Call(
        lambda **arguments: pipe().video_processor.whole_video(**arguments),
        lambda: {"video_id": "v", "duration": 7.3},
        {"video_id": values("w", 5), "duration": values(1, 1e-9, 1e9, 1e300, "7", 0), "max_frames": values(None, 10,
          0, "a")},
        check_windows,
        {},
    ),
    "prepare": Call(
        lambda **arguments: pipe().video_processor.prepare(**arguments),
        lambda: {"videos": [tensor(16, 3, 16, 16, dtype=torch.uint8, value=9)]},
        {"videos": [functools.partial(lambda clip: [clip()], clip) for clip in CLIPS + PIXELS[:12]] + [list, *CLIPS]},
        check_prepared,
        {},
    ),
    "resize_and_crop": Call(
        lambda **arguments: pipe().video_processor.resize_and_crop(**arguments),
        lambda: {"frames": tensor(4, 3, 24, 24, dtype=torch.uint8, value=9)},
        {"frames": CLIPS},
        lambda found, arguments: check_frames(found, {"times": arguments["frames"]}),
        {},
    ),
    "post_process": Call(
        post_process,
        lambda: {"outputs": outputs(), "windows": [window()]},
        {"outputs": OUTPUTS, "windows": WINDOWS, "threshold": PIPELINE["threshold"],
          "video_scores": PIPELINE["video_scores"]}
        | {name: SETTINGS[name] for name in ("nms_method", "nms_sigma", "voting_threshold", "max_candidates",
          "max_detections")},
        check_found,
        {"outputs": ("logits", "segments", "point_mask"), "windows": ("window", "Window", "video_id", "start",
          "frame_rate",
                                                                           "num_frames", "duration")},
    ),
}  # fmt: skip
