"""Training windows beside the actions that they are to show."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import torch

from ..data.frame_store import FrameStore
from ..data.learnable import Misfit, find_misfits, remedy
from ..data.timeline_index import TimelineIndex
from ..data.window_choice import choose_window
from ..data.windows import TrainingWindows
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..training.data_checks import label_assignment
from ..video_processing_re2tal import Re2TALVideoProcessor
from .finding import Finding

# Shares of actions that may be as they should not.
_UNLEARNED, _LONGER, _CUT = 0.1, 0.25, 0.4
# Feature steps of a usual action; share of a window that is video; frames a second beside those of the files.
_LEAST_STEPS, _LEAST_FILLED, _FASTER = 2.0, 0.25, 1.5
_BACKGROUND = 0.5
_DRAWN_WINDOWS = 100
_MOST_FILES = 20


def of_windows(windows: TrainingWindows, model: Re2TALForTemporalActionLocalization) -> list[Finding]:
    """What the windows of a training lack; no frame is decoded."""
    found = _of_misfits(windows, model)
    found += _of_background(windows)
    if windows.processor.sampling != "resized":
        found += _of_lengths(windows, model.model.feature_stride, {finding.kind for finding in found})
    return found


def of_detection(windows: TrainingWindows) -> list[Finding]:
    """What is lost after the model, in the windows that a video is localized by."""
    processor, found = windows.processor, []
    most = max(len(video.labels) for video in windows.videos)
    usual = float(np.median([len(video.labels) for video in windows.videos]))
    if processor.max_detections < usual:
        seen = (
            f"processor.max_detections is {processor.max_detections}, and videos have {usual:g} actions, up to {most}"
        )
        fix = f"processor.max_detections={max(200, 10 * most)}"
        found.append(Finding("cut_scores", seen, "most actions cannot be among the detections", fix))
    if processor.sampling == "sliding" and processor.feature_stride is None:
        found += _of_overlap(windows, processor)
    return found


def _of_misfits(windows: TrainingWindows, model: Re2TALForTemporalActionLocalization) -> list[Finding]:
    stride = model.model.feature_stride
    misfits = find_misfits(windows, label_assignment(model, windows.processor.num_frames), stride)
    frames, total = windows.processor.num_frames, sum(len(v.labels) for v in windows.videos) + windows.lost.total()
    rate = float(np.median([windows.frame_rate(video) for video in windows.videos]))
    told = {
        "too long": (
            "short_window",
            f"longer than a window of {frames} frames, {frames / rate:.3g} s",
            "their start and end are never seen together",
        ),
        "too short": (
            "low_rate",
            f"shorter than a feature step of {stride / rate:.2g} s",
            "in some windows, or in all, no point learns them",
        ),
        "no point": (
            "no_point",
            "no point of the head is responsible for",
            "their length is in no range of the head's levels, or only few points count as their centre",
        ),
    }
    found = []
    for reason, (kind, what, cause) in told.items():
        of_reason: list[Misfit] = [misfit for misfit in misfits if misfit.reason == reason]
        if len(of_reason) > _UNLEARNED * total:
            classes = Counter(model.config.id2label[misfit.label] for misfit in of_reason)
            listing = ", ".join(f"{name} {count}" for name, count in classes.most_common(5))
            seen = f"{len(of_reason)} of {total} training actions ({listing}) are {what}"
            if reason == "no point":
                seen = f"{len(of_reason)} of {total} training actions ({listing}): {what} them"
            fix = remedy(windows, reason, of_reason).removeprefix("; ")
            found.append(Finding(kind, seen, cause, fix))
    return found


def _of_background(windows: TrainingWindows) -> list[Finding]:
    """Windows that are drawn and show nothing to learn."""
    generator = torch.Generator().manual_seed(windows.seed)
    videos = [windows.videos[number % len(windows.videos)] for number in range(_DRAWN_WINDOWS)]
    empty = sum(not len(windows.draw_window(video, generator)[1]["class_labels"]) for video in videos)
    if empty <= _BACKGROUND * len(videos):
        return []
    return [
        Finding(
            "background",
            f"{empty} of {len(videos)} windows that training draws keep no action "
            f"(data.truncation_threshold is {windows.truncation_threshold:g})",
            "an action that the edge of a window cuts is no label unless so much of it is inside; or most videos have "
            "none",
            "data.truncation_threshold=0.5, longer windows (processor.num_frames), or videos with actions",
        )
    ]


def _of_lengths(windows: TrainingWindows, stride: int, known: set[str]) -> list[Finding]:
    """Windows and frames beside the lengths of actions and videos."""
    rates = np.array([windows.frame_rate(video) for video in windows.videos])
    seconds = np.concatenate([np.diff(video.segments).ravel() for video in windows.videos])
    frames = seconds * np.repeat(rates, [len(video.labels) for video in windows.videos])
    rate, found = float(np.median(rates)), []
    if len(frames) and "short_window" not in known:
        found += _of_long_actions(frames, windows.processor.num_frames, rate)
    if len(frames) and "low_rate" not in known:
        found += _of_coarse_actions(seconds, frames, stride, rate)
    num_frames = windows.processor.num_frames
    filled = float(np.median([windows.longest_window(video) for video in windows.videos])) / num_frames
    if filled < _LEAST_FILLED:
        seen = f"a usual video fills {filled:.0%} of a window of {num_frames / rate:.3g} s"
        fix = f"processor.num_frames={64 * math.ceil(filled * num_frames / 64)}"
        found.append(Finding("long_window", seen, "the rest is padding, which costs time and teaches nothing", fix))
    if isinstance(windows.frames, FrameStore):
        found += _of_frame_rate(windows, windows.frames.timelines, rate)
    return found


def _of_long_actions(frames: np.ndarray, num_frames: int, rate: float) -> list[Finding]:
    longer = float((frames > num_frames).mean())
    if longer <= _LONGER:
        return []
    needed = 64 * math.ceil(1.5 * float(np.quantile(frames, 0.95)) / 64)
    seen = f"{longer:.0%} of the training actions are longer than a window of {num_frames / rate:.3g} s"
    cause = "their start and end are never seen together"
    return [Finding("short_window", seen, cause, f"processor.num_frames={needed}, or a lower frame rate")]


def _of_coarse_actions(seconds: np.ndarray, frames: np.ndarray, stride: int, rate: float) -> list[Finding]:
    usual, choice = float(np.median(frames)), choose_window(seconds)
    if usual >= _LEAST_STEPS * stride or choice is None:
        return []
    # The choice is for networks that see each frame.
    factor = max(1.0, 2 * _LEAST_STEPS * stride * rate / usual / choice.frame_rate)
    num_frames = 64 * math.ceil(choice.num_frames * factor / 64)
    seen = f"a usual action has {usual:.2g} frames at {rate:.3g} a second, {usual / stride:.2g} feature steps"
    fix = f"processor.frame_rate={choice.frame_rate * factor:.3g} processor.num_frames={num_frames}"
    return [Finding("low_rate", seen, "its borders cannot be told that coarsely", fix)]


def _of_frame_rate(windows: TrainingWindows, timelines: TimelineIndex, rate: float) -> list[Finding]:
    native = []
    for path in [video.local_path() for video in windows.videos[:: max(1, len(windows.videos) // _MOST_FILES)]]:
        with timelines.open(path) as reader:
            native.append(reader.timeline.frame_rate)
    usual = float(np.median(native))
    if rate <= _FASTER * usual:
        return []
    seen = f"processor.frame_rate is {rate:.4g}, and the videos have {usual:.4g} frames a second"
    cause = "frames are repeated: windows are shorter in seconds, motion stutters, and the rest of it costs time only"
    return [Finding("high_rate", seen, cause, f"processor.frame_rate={usual:.3g}, or less")]


def _of_overlap(windows: TrainingWindows, processor: Re2TALVideoProcessor) -> list[Finding]:
    """Actions that in some place no window of the detection shows whole, though a window is long enough."""
    seconds = processor.num_frames / processor.frame_rate
    shared = processor.window_overlap * seconds
    lengths = [
        end - start
        for video in windows.videos
        if (video.duration or 0) > seconds
        for start, end in video.segments.tolist()
        if end - start < seconds
    ]
    cut = float(np.clip((np.array(lengths) - shared) / (seconds - shared), 0, 1).mean()) if lengths else 0.0
    if cut <= _CUT:
        return []
    overlap = min(0.75, np.ceil(20 * np.quantile(lengths, 0.75) / seconds) / 20)
    return [
        Finding(
            "overlap",
            f"windows of the detection share {shared:.2g} s (processor.window_overlap={processor.window_overlap:g}), "
            f"and {cut:.0%} of the actions lie where no window shows them whole",
            "an action at the border of two windows is cut in both",
            f"processor.window_overlap={max(0.5, overlap):g}",
        )
    ]
