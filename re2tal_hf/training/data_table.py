"""The data of a training in one short table, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.annotation_set import ALWAYS_REPAIRED, RULES, AnnotatedVideo, AnnotationSet
from ..data.durations import Timelines
from ..data.subsets import actions_by_class
from ..data.windows import TrainingWindows

# More classes are summed up.
_MOST_CLASSES = 20


def data_table(windows: TrainingWindows, training: AnnotationSet, validation: AnnotationSet) -> str:
    """Describes what is trained on and what the model is measured by.

    Args:
        windows: Of the training; its videos are those that can be read.
        training: As read.
        validation: As read.

    Returns:
        Lines: videos, actions by class, their lengths beside that of a window, and what was left out or changed.
    """
    used = AnnotationSet(windows.videos, training.label_names, {})
    sides = [used, validation]
    lengths = [_lengths(side.videos) for side in sides]
    seconds = [[_duration(video, windows.frames.timelines) for video in side.videos] for side in sides]
    rows = [
        ("", ["training", "validation"]),
        ("videos", [str(len(side.videos)) for side in sides]),
        ("  seconds, least / median / most", [_spread([s for s in known if s is not None]) for known in seconds]),
        ("actions", [str(actions_by_class(side).total()) for side in sides]),
        (
            "  seconds, least / median / most",
            ["points in time" if side.points else _spread(own) for side, own in zip(sides, lengths, strict=True)],
        ),
        *_classes(sides),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  " + "  ".join(f"{value:>20}" for value in values) for name, values in rows]
    return "\n".join([*lines, _window(windows, lengths[0]), *_changes(windows, training, validation)])


def _classes(sides: Sequence[AnnotationSet]) -> list[tuple[str, list[str]]]:
    names, counts = sides[0].label_names, [actions_by_class(side) for side in sides]
    order = sorted(range(len(names)), key=lambda label: -counts[0][label])
    shown = order if len(order) <= _MOST_CLASSES else order[: _MOST_CLASSES - 1]
    rows = [(f"  {names[label]}"[:60], [str(count[label]) for count in counts]) for label in shown]
    if rest := order[len(shown) :]:
        sums = [str(sum(count[label] for label in rest)) for count in counts]
        rows.append((f"  {len(rest)} more classes", sums))
    return rows


def _window(windows: TrainingWindows, lengths: np.ndarray) -> str:
    processor = windows.processor
    total = f"{len(windows)} windows an epoch"
    if processor.sampling == "resized":
        return f"{total}, each a whole video in {processor.num_frames} frames"
    seconds = processor.num_frames / float(np.median([windows.frame_rate(video) for video in windows.videos]))
    line = f"{total} of {processor.num_frames} {windows.frames.steps}, {seconds:.3g} s"
    if not len(lengths):
        return line
    longer = int((lengths > seconds).sum())
    return f"{line}; {longer} of {len(lengths)} training actions are longer than a window"


def _changes(windows: TrainingWindows, training: AnnotationSet, validation: AnnotationSet) -> list[str]:
    lines = []
    if windows.num_unreadable:
        lines.append(f"training: {windows.num_unreadable} videos that cannot be read, left out")
    for rule, (found, repair) in RULES.items():
        count = training.counts.get(rule, 0) + windows.counts.get(rule, 0)
        if count:
            lines.append(f"training: {count} {found}: {repair}")
        if count := validation.counts.get(rule, 0):
            done = repair if rule in ALWAYS_REPAIRED else "kept, as the metric's rules have it"
            lines.append(f"validation: {count} {found}: {done}")
    return lines


def _lengths(videos: Sequence[AnnotatedVideo]) -> np.ndarray:
    segments = np.concatenate([video.segments for video in videos])
    lengths = segments[:, 1] - segments[:, 0]
    return lengths[lengths > 0]


def _duration(video: AnnotatedVideo, timelines: Timelines) -> float | None:
    known = timelines.known_duration(video.path) if isinstance(video.path, Path) else None
    return video.duration if known is None else known


def _spread(values: Sequence[float] | np.ndarray) -> str:
    if len(values) == 0:
        return "unknown"
    return " / ".join(f"{value:.1f}" for value in (min(values), float(np.median(values)), max(values)))
