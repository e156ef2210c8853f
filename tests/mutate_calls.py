"""Wrong calls: pipeline, processor, models, metric, rewiring, reader and files of detections.

Of a right call some arguments are replaced, by values that fit no argument or by those of another shape, type or range.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import Case
from PIL import Image
from run_factory import small_pipeline
from torch import Tensor, nn
from torchvision.models.video import R2Plus1D_18_Weights, r3d_18
from video_factory import write_video

from re2tal_hf import (
    Architecture,
    Re2TALForVideoClassification,
    Re2TALVideoClassificationConfig,
    Re2TALVideoProcessor,
    TemporalActionLocalizationPipeline,
    register_backbone,
    register_head,
    rewire,
)
from re2tal_hf.data.detection_files import FORMATS, write_detections, write_submission
from re2tal_hf.loss_points import LocalizationLoss
from re2tal_hf.metrics.tal_map.tal_map import TalMap
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.video_reader import VideoReader
from re2tal_hf.video_windows import Window

Arguments = dict[str, Any]
SWIN = {"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
NAN, INF = float("nan"), float("inf")


def values(*options: Any) -> list[Callable[[], Any]]:
    """Functions that return the values, for some can be used up."""
    return [functools.partial(copy.deepcopy, option) for option in options]


# Right for some arguments, wrong for most.
JUNK: list[Callable[[], Any]] = [
    *values(
        None, True, False, 0, 1, 2, -1, 2**40, 10**30, -(10**30), 0.5, -0.5, 1.5, 1e-300, 1e300, NAN, INF, -INF, 2j
    ),
    *values("", "abc", "0.5", "1", "x" * 5000, "a\nb", "\ud800", b"x", Path("x"), int, range(3), set(), {1}),
    *values([], [1], ["a"], [None], [[1, 2], [3]], [0.5, NAN], (), {}, {"a": 1}, {1: "a"}, {"a": {}}),
    *values(Decimal("0.5"), Fraction(1, 2), np.float32(0.5), np.int64(3), np.bool_(True)),
    *values(np.array(0.5), np.array(["a"]), np.array([None])),
    object,
    lambda: iter([1]),
    lambda: print,
    lambda: np.zeros((0, 2)),
    lambda: np.zeros((2, 3, 4), np.float32),
    lambda: torch.tensor(0.5),
    lambda: torch.tensor(3),
    lambda: torch.zeros(0),
    lambda: torch.full((2, 2), NAN),
    lambda: torch.zeros(3, dtype=torch.bfloat16),
    lambda: Image.new("L", (4, 4)),
    lambda: functools.reduce(lambda inner, _: [inner], range(200), [1]),
]


@dataclass(frozen=True)
class Call:
    """A call and what may stand in it.

    Attributes:
        function: Takes the arguments.
        right: Returns arguments that it takes.
        others: By argument: functions that return a value of its own kind, right or wrong.
        check: Takes the result and the arguments; raises an `AssertionError` where they do not go together.
        names: By argument: what a message may call it in place of its name.
        fixed: Arguments of ours, which get no other values.
    """

    function: Callable[..., Any]
    right: Callable[[], Arguments]
    others: dict[str, list[Callable[[], Any]]]
    check: Callable[[Any, Arguments], None]
    names: dict[str, tuple[str, ...]]
    fixed: tuple[str, ...] = ()


def mutate(draw: random.Random, folder: Path) -> Case:
    """A call with one to three wrong arguments, one of which it may not even know."""
    name = draw.choice(sorted(CALLS))
    call = CALLS[name]
    arguments = call.right()
    known = sorted({*arguments, *call.others})
    changed = draw.sample(known, min(len(known), draw.choice([1, 1, 1, 1, 2, 3])))
    for argument in changed:
        own = call.others.get(argument, [])
        use_own = own and (draw.random() < 0.7 or argument in call.fixed)
        arguments[argument] = draw.choice(own if use_own else JUNK)()
    if draw.random() < 0.05:
        misspelt = draw.choice(known) + draw.choice(["s", "_", "e"])
        arguments[misspelt] = 1
        changed.append(misspelt)
    names = tuple(text for argument in changed for text in (argument, *call.names.get(argument, ())))
    text = ", ".join(f"{argument}={_short(arguments[argument])}" for argument in changed)
    return Case(
        f"{name}({text})", lambda: call.function(**arguments), names, lambda result: call.check(result, arguments)
    )


def _short(value: Any) -> str:
    shape = f" {tuple(value.shape)} {value.dtype}" if isinstance(value, (np.ndarray, Tensor)) else ""
    return f"{type(value).__name__}{shape} {str(value)[:60]!r}"


# What the calls are made with, built once.


@functools.cache
def pipe() -> TemporalActionLocalizationPipeline:
    return small_pipeline()


@functools.cache
def pipe_without_classes() -> TemporalActionLocalizationPipeline:
    return small_pipeline(id2label={0: "action"}, label2id={"action": 0})


@functools.cache
def classifier() -> Re2TALForVideoClassification:
    return Re2TALForVideoClassification(Re2TALVideoClassificationConfig(backbone_config=SWIN, num_labels=3)).eval()


@functools.cache
def video_bytes() -> bytes:
    path = write_video(Path("video.mp4"), np.zeros((12, 32, 48, 3), np.uint8), 10.0)
    return path.read_bytes()


def frames(*shape: int, dtype: str = "uint8", value: float = 100) -> np.ndarray:
    return np.full(shape, value, dtype=dtype)


def tensor(*shape: int, dtype: torch.dtype = torch.float32, value: float = 0.5) -> Tensor:
    return torch.full(shape, value, dtype=dtype)


CLIPS = [
    *[
        functools.partial(frames, *shape)
        for shape in ((0, 24, 24, 3), (12, 24, 24, 4), (12, 24, 24), (24, 3), (12, 0, 24, 3), (3, 12, 24, 24))
    ],
    *[
        functools.partial(frames, *shape)
        for shape in ((1, 24, 24, 3), (12, 3, 24, 24), (2, 12, 24, 24, 3), (12, 2, 2, 3))
    ],
    *[
        functools.partial(frames, 12, 24, 24, 3, dtype=kind)
        for kind in ("float32", "float64", "int64", "bool", "object")
    ],
    *[functools.partial(frames, 12, 24, 24, 3, dtype="float32", value=value) for value in (0.5, NAN, INF, -5, 1e9)],
    functools.partial(tensor, 12, 3, 24, 24),
    functools.partial(tensor, 12, 3, 24, 24, dtype=torch.uint8),
    functools.partial(tensor, 12, 24, 24, 3, dtype=torch.uint8),
    lambda: [Image.new("RGB", (24, 24))] * 5,
    lambda: [Image.new("RGB", (24, 24)), Image.new("RGB", (24, 20))],
    lambda: [Image.new("RGB", (24, 24)), frames(24, 24, 3)],
    lambda: [frames(24, 24, 3), None],
    lambda: [frames(12, 24, 24, 3), frames(10, 24, 24, 3)],
    lambda: [frames(12, 24, 24, 3), "no.mp4"],
    lambda: "no.mp4",
    lambda: Path("no.mp4"),
    lambda: ["no.mp4"],
    lambda: b"no video",
    lambda: "http://127.0.0.1:1/no.mp4",
    video_bytes,
]


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


# The models.

PIXELS = [
    *[
        functools.partial(tensor, *shape)
        for shape in ((0, 8, 3, 16, 16), (1, 0, 3, 16, 16), (1, 8, 16, 16, 3), (1, 3, 8, 16, 16), (1, 8, 1, 16, 16),
                      (8, 3, 16, 16), (1, 8, 3, 0, 16), (1, 8, 3, 1, 1), (1, 1, 3, 16, 16), (1, 9, 3, 17, 5), (1, 8,
                        4, 16, 16))
    ],
    *[functools.partial(tensor, 1, 8, 3, 16, 16, dtype=kind)
      for kind in (torch.uint8, torch.int64, torch.float64, torch.bfloat16, torch.float16, torch.bool,
        torch.complex64)],
    lambda: np.zeros((1, 8, 3, 16, 16), np.float32),
    lambda: tensor(1, 8, 3, 16, 16).tolist(),
    lambda: tensor(1, 8, 3, 16, 16).to("meta"),
    lambda: tensor(1, 8, 3, 16, 16).to_sparse(),
]  # fmt: skip
MASKS = [
    *[
        functools.partial(tensor, *shape, dtype=torch.bool)
        for shape in ((1, 8), (8,), (1, 9), (2, 8), (1, 8, 1), (0, 8))
    ],
    *[functools.partial(tensor, 1, 8, dtype=kind, value=1) for kind in (torch.int64, torch.float32, torch.complex64)],
    lambda: torch.zeros(1, 8, dtype=torch.bool),
    lambda: np.ones((1, 8), bool),
    lambda: [[True] * 8],
    lambda: "abc",
]


def label(**change: Any) -> Arguments:
    right = {"segments": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "class_labels": torch.tensor([0, 1])}
    return {name: value for name, value in (right | change).items() if value is not ...}


LABELS = [
    *[
        functools.partial(lambda name, value: [label(**{name: value})], name, value)
        for name, options in {
            "segments": (..., None, [[1, 5], [2, 3]], tensor(2, 3), tensor(2), tensor(0, 2), tensor(2, 2, value=NAN),
                         torch.tensor([[5.0, 1.0], [2.0, 3.0]]), torch.tensor([[1, 5], [2, 3]]), tensor(1, 2, 2), "abc",
                         torch.tensor([[1.0, INF], [2.0, 3.0]]), tensor(2, 2, dtype=torch.complex64), np.ones((2, 2))),
            "class_labels": (..., None, [0, 1], torch.tensor([0, 7]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]),
                             torch.tensor([[0, 1]]), torch.tensor([0]), torch.tensor([], dtype=torch.long), "abc",
                             torch.tensor([True, False]), torch.tensor([0, 1], dtype=torch.int32)),
        }.items()
        for value in options
    ],
    lambda: [label(segments=torch.zeros(0, 2), class_labels=torch.zeros(0, dtype=torch.long))],
    list,
    lambda: label(),
    lambda: [label(), label()],
    lambda: [None],
    lambda: [{"segments": torch.ones(1, 2), "labels": torch.tensor([0])}],
    lambda: torch.tensor([0]),
]  # fmt: skip
FEATURES = [
    *[
        functools.partial(tensor, *shape)
        for shape in ((1, 4, 16), (0, 4, 16), (1, 0, 16), (1, 16, 4), (4, 16), (2, 4, 16), (1, 4, 8))
    ],
    functools.partial(tensor, 1, 4, 16, dtype=torch.float64),
    functools.partial(tensor, 1, 4, 16, dtype=torch.uint8),
    lambda: np.zeros((1, 4, 16)),
]


def forward(**arguments: Any) -> Any:
    with torch.no_grad():
        return pipe().model(**arguments)


def forward_backbone(**arguments: Any) -> Any:
    with torch.no_grad():
        return pipe().model.model(**arguments)


def forward_classifier(**arguments: Any) -> Any:
    with torch.no_grad():
        return classifier()(**arguments)


def check_output(output: Any, arguments: Arguments) -> None:
    assert output.logits.dim() == 3 and output.logits.shape[-1] == 2 and len(output.logits)
    assert output.pred_segments.shape == (*output.logits.shape[:2], 2)
    assert output.point_mask.shape == output.logits.shape[:2]
    assert (output.loss is None) == (arguments.get("labels") is None)
    assert output.loss is None or (output.loss.dim() == 0 and output.loss.isfinite())


def check_features(output: Any, arguments: Arguments) -> None:
    features = output.last_hidden_state
    assert features.dim() == 3 and features.shape[:2] == output.feature_mask.shape and len(features)
    assert features.isfinite().all()


def check_classified(output: Any, arguments: Arguments) -> None:
    assert output.logits.shape == (len(arguments["pixel_values_videos"]), 3) and output.logits.isfinite().all()
    assert output.loss is None or (output.loss.dim() == 0 and output.loss.isfinite())


# Rewiring.


@functools.cache
def network() -> nn.Module:
    with torch.device("meta"):
        return r3d_18()


def rewire_network(**arguments: Any) -> Any:
    return rewire(**arguments)


def check_rewired(model: Any, arguments: Arguments) -> None:
    assert isinstance(model, RewiredModel) and model.rewiring in ("re2tal", "none", "dr2net")
    assert model.backprop in ("reversible", "checkpoint", "plain")
    assert all(0 <= value <= 1 for pair in model.couplings() for value in pair)


COUPLINGS = values([0.5, 0.5], (1, 0), [[0.5, 0.5]] * 4, [[0.5, 0.5]] * 3, [0.5], [2, 0], ["a", "b"], [NAN, 1],
  [[0.5], 1],
                   torch.tensor([0.5, 0.5]), np.array([0.5, 0.5]), [True, False], {"alpha": 1, "beta": 0}, [[]],
                     "ab")  # fmt: skip


# The reader.


def read_frames(source: Any, times: Any, resize: Any = None, **options: Any) -> Any:
    with VideoReader(source, **options) as reader:
        return reader.frames_at(times, resize=resize)


def check_frames(found: Any, arguments: Arguments) -> None:
    assert found.dtype == torch.uint8 and found.dim() == 4 and found.shape[1] == 3
    assert len(found) == len(arguments["times"])


# The registries.


class Good(Architecture):
    model_type = "mutated"
    model_class = nn.Bilinear

    def build(self, *args: Any, **kwargs: Any) -> Any: ...
    def stages(self, model: Any, size: Any = None) -> Any: ...
    def norm(self, model: Any, *outputs: Any) -> Any: ...
    def classify(self, model: Any, features: Any) -> Any: ...
    def initialize(self, model: Any) -> Any: ...
    def feature_size(self, model: Any) -> Any: ...
    def feature_stride(self, model: Any) -> Any: ...


def bad_architecture(**change: Any) -> type:
    return type("Bad", (Good,), change)


def register_architecture(architecture: Any) -> Any:
    from re2tal_hf.architecture import BACKBONES

    before = set(BACKBONES)
    try:
        return register_backbone(architecture)
    finally:
        for name in set(BACKBONES) - before:
            BACKBONES.remove(name)


def register_and_forget(head: Any, **arguments: Any) -> Any:
    from re2tal_hf.head import HEADS

    before = set(HEADS)
    try:
        return register_head(**arguments)(head)
    finally:
        for name in set(HEADS) - before:
            HEADS.remove(name)


class Head(nn.Module):
    def initialize_weights(self) -> None: ...


# Metric and files.


def rows(**change: Any) -> list[Arguments]:
    right = {"video_id": "a", "segments": [[0, 8], [9, 12]], "labels": [3, 1], "scores": [0.9, 0.7]}
    return [{name: value for name, value in (right | change).items() if value is not ...}]


COLUMNS = {
    "video_id": (..., None, "", 5, "b", b"a", ["a"], "x" * 5000, "a\nb"),
    "segments": (..., None, "0-8", [["0", "8"], ["9", "12"]], [[0, 8]], [[8, 0], [9, 12]], [[0, NAN], [1, 2]], [[0,
      None], [1, 2]],
                 [0, 8], [[0, 1, 2], [1, 2, 3]], np.array([[0, 8], [9, 12]]), [[0, 8], [9]], {"start": 0}, [[True,
                   False]] * 2,
                 [[0, 10**30], [1, 2]], [[0, 1e300], [1, 2]], [["\ud800", 1], [1, 2]], torch.zeros(2, 2)),
    "labels": (..., None, ["run", "jump"], [3], [3.0, 1.0], [None, 1], "ab", [10**30, 1], [-1, 1], [True, False],
      [[3], [1]],
               np.array([3, 1], np.uint8), np.array([2**64 - 1, 1], np.uint64), {3: 1}, [2**62, 0]),
    "scores": (..., None, [0.9], [None, 0.5], ["0.9", "0.7"], [NAN, 0.5], [INF, 0.5], 0.9, [[0.9, 0.7]], {}, [2j, 1],
      [True, False]),
}  # fmt: skip
PREDICTIONS = [
    *[
        functools.partial(lambda name, value: rows(**{name: value}), name, value)
        for name, options in COLUMNS.items()
        for value in options
    ],
    list,
    lambda: rows() + rows(),
    lambda: rows()[0],
    lambda: [None],
    lambda: {"a": rows()[0]},
    lambda: [[0, 8, 3, 0.9]],
    lambda: (row for row in rows()),
]
THRESHOLDS = values([0.5], [], [0], [50], [0.5, 0.5], 0.5, "0.5", ["0.5"], [None], [NAN], [[0.5]], {0.5}, (0.3, 0.5),
                    np.linspace(0.3, 0.7, 5), list(np.linspace(0.001, 1, 5000)), torch.tensor([0.5]))  # fmt: skip


def compute(**arguments: Any) -> Any:
    return TalMap(keep_in_memory=True, cache_dir="cache").compute(**arguments)


def check_results(results: Any, arguments: Arguments) -> None:
    assert isinstance(results["per_class"], dict)
    numbers = [value for name, value in results.items() if name.startswith(("map", "recall@", "ar_auc"))]
    assert all(isinstance(value, float) and not value > 1 + 1e-9 and not value < 0 for value in numbers), results


def detection(**change: Any) -> list[Arguments]:
    right = {"label": "jump", "score": 0.9, "start": 1.0, "end": 2.0}
    return [{name: value for name, value in (right | change).items() if value is not ...}]


DETECTIONS = [
    *[
        functools.partial(lambda name, value: detection(**{name: value}), name, value)
        for name in ("label", "score", "start", "end")
        for value in (
            ...,
            None,
            "abc",
            "",
            5,
            NAN,
            INF,
            -1,
            [1],
            "a\nb\x00",
            "\ud800",
            np.float32(1.5),
            1e300,
            b"x",
            True,
        )
    ],
    lambda: detection() + [None],
    lambda: detection()[0],
    lambda: [[1, 2]],
    list,
]


def write_and_read(detections: Any, kind: str) -> str:
    path = Path(f"found.{kind}")
    try:
        write_detections(path, detections)
    except Exception:
        assert not path.exists(), "half-written"
        raise
    return path.read_text(encoding="utf-8")


def check_file(text: str, arguments: Arguments) -> None:
    lines = text.splitlines()
    assert "NaN" not in text and "nan" not in text and "Infinity" not in text, text[:200]
    assert arguments["kind"] not in ("csv", "json") or lines


def write_all(detections: Any) -> Any:
    write_submission(Path("all.json"), detections)
    return Path("all.json").read_text(encoding="utf-8")


def _anything(result: Any, arguments: Arguments) -> None:
    """Whatever it is."""


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
    "localizer": Call(
        forward,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16), "labels": [label()]},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS, "labels": LABELS, "temporal_features": FEATURES,
          "feature_mask": MASKS,
         "output_hidden_states": values(True, "yes", 1)},
        check_output,
        {},
    ),
    "features": Call(
        forward,
        lambda: {"temporal_features": tensor(1, 4, 16), "labels": [label()]},
        {"temporal_features": FEATURES, "feature_mask": MASKS, "labels": LABELS},
        check_output,
        {"temporal_features": ("batch",)},
    ),
    "backbone": Call(
        forward_backbone,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16)},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS, "output_hidden_states": values(True, "yes")},
        check_features,
        {},
    ),
    "classifier": Call(
        forward_classifier,
        lambda: {"pixel_values_videos": tensor(1, 8, 3, 16, 16), "labels": torch.tensor([1])},
        {"pixel_values_videos": PIXELS, "frame_mask": MASKS,
         "labels": values(torch.tensor([7]), torch.tensor([-1]), torch.tensor(1), torch.tensor([1, 2]), [1],
           torch.tensor([1.0]),
                          torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.5, 0.5]]), torch.tensor([True]),
                            [label()], torch.tensor([NAN]),
                          torch.tensor([1], dtype=torch.int32), torch.tensor([-100]))},
        check_classified,
        {},
    ),
    "rewire": Call(
        rewire_network,
        lambda: {"model": copy.deepcopy(network())},
        {"model": [lambda: nn.Linear(2, 2), lambda: r3d_18, lambda: "r3d_18", lambda: R2Plus1D_18_Weights.DEFAULT,
          lambda: pipe().model],
         "rewiring": values("none", "dr2net", "revit", ["re2tal"]), "backprop": values("plain", "checkpoint",
           "reversible", "fast"),
         "coupling": COUPLINGS, "stream_bits": values(16, 24, 8, True, 16.0, "16", [16], torch.tensor([16, 24]))},
        check_rewired,
        {"coupling": ("alpha", "coefficients"), "model": ("architecture",)},
    ),
    "reader": Call(
        read_frames,
        lambda: {"source": video_bytes(), "times": [0.0, 0.5]},
        {"source": values("no.mp4", Path("."), b"", b"no video", 5, "x\x00y"),
         "times": values([0.1], [], [NAN], [INF], "abc", ["0.5"], [[0.5]], 0.5, np.array([0.5]), [None], [1e300], [-5]),
         "size": values((16, 16), [16, 16], (16,), (0, 16), (16, -1), ("16", "16"), (1.5, 2), 16, (10**7, 10**7)),
         "backend": values("pyav", "auto", "opencv"), "num_threads": values(1, 0, -1, 2.5, 10**9, "2"),
           "name": values("a video", 5),
         "timeline": values(5), "resize": values(5, lambda frames: frames[:, :, ::2], lambda frames: None,
           lambda frames: frames[:1])},
        check_frames,
        {"source": ("video", "no.mp4", "file")},
    ),
    "register_backbone": Call(
        register_architecture,
        lambda: {"architecture": bad_architecture()},
        {"architecture": [lambda: nn.Linear, lambda: Good(), lambda: Architecture,
                          *[functools.partial(lambda name, value: bad_architecture(**{name: value}), name, value)
                            for name in ("model_type", "model_class", "input_name",
                              "classifier_names") for value in (None, 5, "", [], int)]]},
        _anything,
        {"architecture": ("model_type", "model_class", "input_name", "classifier_names")},
    ),
    "register_head": Call(
        register_and_forget,
        lambda: {"head": Head, "name": "mutated", "loss": LocalizationLoss},
        {"head": [lambda: nn.Linear, lambda: Head(), lambda: int], "name": values("", "actionformer", 5, None),
         "loss": [lambda: nn.Linear, lambda: LocalizationLoss(), lambda: "focal"], "paper": values("a paper", 5)},
        _anything,
        {"head": ("Linear", "initialize_weights"), "loss": ("Linear", "initialize_weights")},
    ),
    "metric": Call(
        compute,
        lambda: {"predictions": rows(), "references": rows(scores=...), "tiou_thresholds": [0.5]},
        {"predictions": PREDICTIONS, "references": PREDICTIONS, "tiou_thresholds": THRESHOLDS,
         "top_k": values([1, 5], 5, [0], [1.5], ["1"], [10**30], list(range(1, 10**5))),
         "max_proposals": values(10, 0, 1e9, 10**9, 10**6, 2.5, "10", np.int64(5)),
         "clean_references": values(True, "yes"), "precision_recall": values(True, "yes")},
        check_results,
        {"references": ("video",), "predictions": ("video",)},
    ),
    "file": Call(
        write_and_read,
        lambda: {"detections": detection(), "kind": "json"},
        {"detections": DETECTIONS, "kind": values(*FORMATS, "abc")},
        check_file,
        {"detections": ("label", "score", "start", "end"), "kind": ("found.abc",)},
        fixed=("kind",),
    ),
    "submission": Call(
        write_all,
        lambda: {"detections": {"v": detection()}},
        {"detections": [functools.partial(lambda rows: {"v": rows()}, rows) for rows in DETECTIONS]},
        _anything,
        {"detections": ("label", "score", "start", "end")},
    ),
}  # fmt: skip
