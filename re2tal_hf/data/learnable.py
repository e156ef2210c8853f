"""What training cannot learn of its annotations, and the settings that would let it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .annotation_set import POINT_HINT, AnnotatedVideo, AnnotationError
from .windows import TrainingWindows

CanLearn = Callable[[Tensor], Tensor]
"""Whether a head's points would learn segments, float `[N, 2]` in feature steps of a window, each alone: bool `[N]`."""

REASONS = {
    "too long": "no window shows {share:.0%} of them, so that their start and end are never seen together",
    "too short": "a feature step is {step:.2g} s, so that in some windows, or in all, no point learns them",
    "no point": "in some window none of the head's points is responsible for them",
    "lost": "outside their video, or ending where or before they start",
}
# Share of the actions that do not fit which a proposed setting leaves out, so that one odd action does not decide.
_LEFT_OUT = 0.1
_FRAMES = 64
"""Windows are proposed in multiples of this, which every architecture takes."""
_HIGHEST_RATE = 240
_VIDEOS_AT_ONCE = 64


@dataclass(frozen=True)
class Misfit:
    """An action that cannot be learned, or not as a whole.

    Attributes:
        label: Class id.
        reason: One of `REASONS`.
        factor: By what the frames of the window (too long) or of a second (too short) would have to be multiplied.
    """

    label: int
    reason: str
    factor: float = math.nan


def find_misfits(windows: TrainingWindows, can_learn: CanLearn, feature_stride: int) -> list[Misfit]:
    """Finds the actions of training videos that no window shows well enough, or no point of the head learns.

    Args:
        windows: The training windows.
        can_learn: As the loss assigns labels to the head's points.
        feature_stride: Frames of a feature step.
    """
    misfits = [Misfit(label, "lost") for label, count in windows.lost.items() for _ in range(count)]
    for first in range(0, len(windows.videos), _VIDEOS_AT_ONCE):
        videos = windows.videos[first : first + _VIDEOS_AT_ONCE]
        learned = iter(_learned(windows, videos, can_learn, feature_stride))
        for video in videos:
            misfits += _misfits_of_video(windows, video, list(islice(learned, len(video.labels))), feature_stride)
    return misfits


def _learned(
    windows: TrainingWindows, videos: Sequence[AnnotatedVideo], can_learn: CanLearn, feature_stride: int
) -> list[bool]:
    """Whether the actions of videos, one after another, are learned wherever a feature step begins."""
    # A whole video is seen in one way only.
    number = feature_stride if windows.processor.sampling != "resized" else 1
    placed = np.concatenate([windows.placements(video, number) for video in videos])
    segments = torch.from_numpy(placed / feature_stride).float()  # as the windows give them
    return can_learn(segments.flatten(0, 1)).view(segments.shape[:2]).all(dim=1).tolist()


def _misfits_of_video(
    windows: TrainingWindows, video: AnnotatedVideo, learned: Sequence[bool], feature_stride: int
) -> list[Misfit]:
    rate = windows.frame_rate(video)
    longest, threshold = windows.longest_window(video), windows.truncation_threshold
    misfits = []
    for (start, end), label, fits in zip(video.segments.tolist(), video.labels, learned, strict=True):
        frames = (end - start) * rate
        # The margin is for whole videos whose length is a whole number of frames but for rounding.
        if threshold * frames > longest + 1e-3:
            misfits.append(Misfit(label, "too long", threshold * frames / longest))
        elif not fits and 0 < frames <= feature_stride:
            misfits.append(Misfit(label, "too short", feature_stride / frames))
        elif not fits:
            misfits.append(Misfit(label, "no point"))
    return misfits


def check_learnable(
    windows: TrainingWindows,
    label_names: Sequence[str],
    can_learn: CanLearn,
    feature_stride: int,
    max_unlearnable: float,
) -> str:
    """Counts what cannot be learned.

    Args:
        windows: The training windows.
        label_names: Name of class 0, 1, ...
        can_learn: As the loss assigns labels to the head's points.
        feature_stride: Frames of a feature step.
        max_unlearnable: Largest share of the actions with which training goes on.

    Returns:
        What is to be said before training: how many actions of which classes, why, and what would help; empty
        where all can be learned.

    Raises:
        AnnotationError: More actions cannot be learned; the message is the same.
    """
    misfits = find_misfits(windows, can_learn, feature_stride)
    total = sum(len(video.labels) for video in windows.videos) + windows.lost.total()
    if not misfits:
        return ""
    lines = [f"{len(misfits)} of {total} training actions cannot be learned as they are:"]
    for reason, meaning in REASONS.items():
        if found := [misfit for misfit in misfits if misfit.reason == reason]:
            classes = Counter(label_names[misfit.label] for misfit in found)
            listing = ", ".join(f"{name} {count}" for name, count in classes.most_common())
            text = meaning.format(share=windows.truncation_threshold, step=_feature_step(windows, feature_stride))
            lines.append(f"- {reason}, {len(found)} ({listing}): {text}{remedy(windows, reason, found)}")
    report = "\n".join(lines)
    if len(misfits) > max_unlearnable * total:
        raise AnnotationError(
            f"{report}\nThat is a share of {len(misfits) / total:.2f}; to train nevertheless, set"
            f" data.max_unlearnable, which is {max_unlearnable:g}."
        )
    return report


def _feature_step(windows: TrainingWindows, feature_stride: int) -> float:
    """Seconds of a feature step, in the middle of the videos."""
    return feature_stride / float(np.median([windows.frame_rate(video) for video in windows.videos]))


def remedy(windows: TrainingWindows, reason: str, misfits: Sequence[Misfit]) -> str:
    """Returns settings that fit misfits of one of `REASONS`, as the end of a sentence."""
    if reason == "lost":
        return f"; correct the annotations, or {POINT_HINT}"
    if reason == "no point":
        return (
            "; see model.head_config.regression_ranges and model.loss_config.center_radius; of a head that finds"
            " points, model.head_config.radius"
        )
    processor, crop_ratio = windows.processor, windows.crop_ratio
    factor = float(np.quantile([misfit.factor for misfit in misfits], 1 - _LEFT_OUT, method="higher"))
    num_frames = math.ceil(processor.num_frames * factor / _FRAMES) * _FRAMES
    larger = f"processor.num_frames={num_frames}"
    if reason == "too long":
        if crop_ratio is not None and crop_ratio[1] < windows.truncation_threshold:
            return "; data.crop_ratio=null would fit, or a larger window"
        return f"; {larger} would fit, or processor.frame_rate={_rounded(processor.frame_rate / factor, math.floor):g}"
    if processor.sampling == "resized":
        return f"; {larger} would fit"
    rate = _rounded(processor.frame_rate * factor, math.ceil)
    if rate > _HIGHEST_RATE:
        return "; are they mistakes?"
    return f"; processor.frame_rate={rate:g} with {larger} would fit"


def _rounded(number: float, direction: Callable[[float], int]) -> float:
    """To two digits, up or down."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{direction(number / unit) * unit:.2g}")
