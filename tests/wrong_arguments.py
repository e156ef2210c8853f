"""Calls and what may stand in them in place of what is right; what they are made with."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from run_factory import small_pipeline
from torch import Tensor
from video_factory import write_video

from re2tal_hf import (
    Re2TALForVideoClassification,
    Re2TALVideoClassificationConfig,
    TemporalActionLocalizationPipeline,
)

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


def anything(result: Any, arguments: Arguments) -> None:
    """Whatever it is."""


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
