"""What annotations hold and what looks wrong with them, before anything is trained by them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..video_reader import VideoReadError
from .annotation_records import Record
from .annotation_set import RULES, AnnotatedVideo, AnnotationError, RuleLog, repair_segments
from .durations import known_durations, with_duration
from .label_spelling import labels_alike
from .time_units import check_times
from .timeline_index import TimelineIndex
from .video_files import files_of_id, find_videos
from .window_choice import WindowChoice, choose_window

Weight = Literal["error", "warning", "note"]
# Of errors training is refused or loses videos; warnings are likely mistakes.
_WEIGHTS: dict[str, Weight] = {"empty_segment": "error", "outside_video": "error", "detection": "note"}
_TITLES = {"empty_segment": "actions that start after their end; are the times exchanged, or [start, length]?"}
_SAME_ACTION = 0.8
_TINY_SECONDS = 0.1
# Beside the median of a class with so many actions.
_UNLIKE, _ENOUGH = 10.0, 5
_FEW_ACTIONS = 10
_MOST_EXAMPLES = 20


@dataclass
class Finding:
    """One kind of thing that was found.

    Attributes:
        weight: How bad it is.
        title: What it is.
        count: How often.
        examples: Some of them.
    """

    weight: Weight
    title: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(" ".join(example.split())[:200])


@dataclass
class Spread:
    """Seconds of several: least, median, most."""

    least: float
    median: float
    most: float


@dataclass
class AnnotationReport:
    """What annotations hold.

    Attributes:
        subsets: Names as they are spelled; empty for videos of none.
        videos: By subset.
        minutes: By subset, of the videos whose length is known.
        actions: By class, by subset.
        lengths: Of the actions of each class that end after their start.
        all_lengths: Of all of them.
        window: That fits.
        gaps: Between one action of a video and the next.
        background: Share of the time of videos in which no action is.
        overlapping: Actions that overlap another one of their video, of the same class and of others.
        findings: The worst first.
        timelines: Of every video its name, length and actions.
    """

    subsets: list[str]
    videos: dict[str, int]
    minutes: dict[str, float]
    actions: dict[str, dict[str, int]]
    lengths: dict[str, Spread]
    all_lengths: Spread | None
    window: WindowChoice | None
    gaps: Spread | None
    background: float | None
    overlapping: dict[str, int]
    findings: list[Finding]
    timelines: list[AnnotatedVideo] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Returns it as values of JSON, without the timelines."""
        content = asdict(self)
        del content["timelines"], content["labels"]
        content["window"] = self.window and {**asdict(self.window), "seconds": self.window.seconds}
        return content


def check_annotations(records: Sequence[Record], folder: Path | None = None) -> AnnotationReport:
    """Reads the videos of annotations to their end and describes what is found.

    Args:
        records: The annotations.
        folder: Of the videos; without one nothing is said of files.

    Raises:
        FileNotFoundError: There is no such folder, or no video in it.
    """
    findings: list[Finding] = []
    labels = sorted({str(label) for record in records for label in record.labels})
    videos = [_video(record, labels) for record in records]
    if folder is not None:
        videos = _with_files(videos, folder, findings)
    findings += _of_times(videos)
    findings += _of_classes(videos, labels)
    for record in records:
        for rule, example in record.found:
            _finding(findings, _WEIGHTS.get(rule, "warning"), RULES[rule][0]).add(example)
    repaired = [_repaired(video) for video in videos]
    findings += _of_segments(repaired, labels)
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.weight))
    return _report(videos, repaired, labels, findings)


def _video(record: Record, labels: Sequence[str]) -> AnnotatedVideo:
    segments = np.array(record.segments, dtype=np.float64).reshape(-1, 2)
    numbers = [labels.index(str(label)) for label in record.labels]
    return AnnotatedVideo(record.video_id, record.subset or "", None, record.duration, segments, numbers)


def _finding(findings: list[Finding], weight: Weight, title: str) -> Finding:
    found = next((each for each in findings if each.title == title), None)
    if found is None:
        found = Finding(weight, title)
        findings.append(found)
    return found


def _with_files(videos: list[AnnotatedVideo], folder: Path, findings: list[Finding]) -> list[AnnotatedVideo]:
    """The videos with their files and true durations."""
    files = find_videos(folder)
    owners: dict[Path, str] = {}
    for video in videos:
        found = files_of_id(video.video_id, files, folder)
        if not found:
            _finding(findings, "error", "videos without a file in the video folder").add(video.video_id)
        elif len(found) > 1:
            example = f"{video.video_id}: {', '.join(path.name for path in found)}"
            _finding(findings, "error", "videos for which there are several files; keep one").add(example)
        else:
            video.path = found[0]
            if (other := owners.setdefault(found[0], video.video_id)) != video.video_id:
                _finding(findings, "error", "files that two entries name").add(f"{other} and {video.video_id}")
    for path in sorted({path for paths in files.values() for path in paths} - owners.keys()):
        _finding(findings, "note", "video files that no annotation names").add(path.name)
    here = [video for video in videos if video.path is not None]
    measured = dict(zip((id(video) for video in here), known_durations(here, TimelineIndex()), strict=True))
    rules, found_videos = RuleLog(), []
    for video in videos:
        duration = measured.get(id(video))
        if isinstance(duration, VideoReadError):
            _finding(findings, "error", "videos that cannot be read").add(str(duration))
            video.path = None
        elif duration is not None:
            video = with_duration(video, duration, rules)
        found_videos.append(video)
    findings += _of_rules(rules)
    return found_videos


def _of_rules(rules: RuleLog) -> list[Finding]:
    return [
        Finding(_WEIGHTS.get(rule, "warning"), _TITLES.get(rule, RULES[rule][0]), count, [rules.first[rule]])
        for rule, count in rules.counts.items()
    ]


def _of_times(videos: Sequence[AnnotatedVideo]) -> list[Finding]:
    """Units, then what no unit explains."""
    rules, unit = RuleLog(), Finding("error", "times that can hardly be seconds")
    for video in videos:
        repair_segments(video, video.duration, rules, tolerance=0.05)
        try:
            check_times([video], video.video_id)
        except AnnotationError as error:
            if "Times reach" in str(error) or "[start, length]" in str(error):
                unit.add(str(error))
    return ([unit] if unit.count else []) + _of_rules(rules)


def _of_classes(videos: Sequence[AnnotatedVideo], labels: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    counts = Counter(labels[number] for video in videos for number in video.labels)
    for rarer, other, what in labels_alike(counts):
        example = f"{rarer!r} ({counts[rarer]} actions) and {other!r} ({counts[other]}): {what}"
        _finding(found, "warning", "classes whose names look like one").add(example)
    for name, count in sorted(counts.items(), key=lambda item: item[1]):
        if count < _FEW_ACTIONS:
            title = f"classes with fewer than {_FEW_ACTIONS} actions, which are hardly learned"
            _finding(found, "note", title).add(f"{name} ({count})")
    subsets = sorted({video.subset for video in videos})
    if subsets == [""]:
        found.append(Finding("note", "videos without a subset: re2tal annotations split gives each one", len(videos)))
    there = {(labels[number], video.subset) for video in videos for number in video.labels}
    for name in counts:
        lacking = [subset for subset in subsets if subset and (name, subset) not in there]
        if lacking:
            _finding(found, "warning", "classes that a subset lacks").add(f"{name}: none in {', '.join(lacking)}")
    for video in videos:
        if not video.labels:
            _finding(found, "note", "videos without an action").add(video.video_id)
    return found


def _repaired(video: AnnotatedVideo) -> AnnotatedVideo:
    segments, numbers = repair_segments(video, video.duration, RuleLog())
    return AnnotatedVideo(video.video_id, video.subset, video.path, video.duration, segments, numbers)


def _of_segments(videos: Sequence[AnnotatedVideo], labels: Sequence[str]) -> list[Finding]:
    """Actions that are told twice, or much shorter or longer than others of their class."""
    found: list[Finding] = []
    lengths = _lengths(videos, labels)
    for video in videos:
        for first, second, overlap in _pairs(video):
            if overlap >= _SAME_ACTION:
                one, other = (labels[video.labels[number]] for number in (first, second))
                times = f"{_times(video, first)} and {_times(video, second)}"
                title = "actions of one class at nearly the same time; is it one action?"
                if one == other:
                    _finding(found, "warning", title).add(f"{video.video_id} {one}: {times}")
        for number, (start, end) in enumerate(video.segments.tolist()):
            name, example = labels[video.labels[number]], f"{video.video_id} {_times(video, number)}"
            usual = float(np.median(lengths[name]))
            if end - start < _TINY_SECONDS:
                _finding(found, "warning", f"actions shorter than {_TINY_SECONDS:g} s").add(f"{example} {name}")
            elif len(lengths[name]) >= _ENOUGH and not 1 / _UNLIKE <= (end - start) / usual <= _UNLIKE:
                title = f"actions {_UNLIKE:g} times shorter or longer than is usual in their class"
                _finding(found, "warning", title).add(f"{example} {name}, usually {usual:.3g} s")
    return found


def _times(video: AnnotatedVideo, number: int) -> str:
    start, end = video.segments[number].tolist()
    return f"[{start:.6g}, {end:.6g}]"


def _pairs(video: AnnotatedVideo) -> list[tuple[int, int, float]]:
    """Actions of a video that overlap, with their tIoU."""
    order = np.argsort(video.segments[:, 0], kind="stable").tolist()
    found: list[tuple[int, int, float]] = []
    open_ones: list[int] = []
    for number in order:
        start = video.segments[number, 0]
        open_ones = [other for other in open_ones if video.segments[other, 1] > start]
        found += [(other, number, _tiou(video.segments[other], video.segments[number])) for other in open_ones]
        open_ones.append(number)
    return found


def _tiou(one: np.ndarray, other: np.ndarray) -> float:
    inside = min(one[1], other[1]) - max(one[0], other[0])
    return float(inside / (max(one[1], other[1]) - min(one[0], other[0])))


def _lengths(videos: Sequence[AnnotatedVideo], labels: Sequence[str]) -> dict[str, list[float]]:
    lengths = defaultdict(list)
    for video in videos:
        for (start, end), number in zip(video.segments.tolist(), video.labels, strict=True):
            lengths[labels[number]].append(end - start)
    return lengths


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(min(values), float(np.median(values)), max(values)) if values else None


def _report(
    videos: Sequence[AnnotatedVideo],
    repaired: Sequence[AnnotatedVideo],
    labels: list[str],
    findings: list[Finding],
) -> AnnotationReport:
    subsets = sorted({video.subset for video in videos})
    actions = {name: dict.fromkeys(subsets, 0) for name in labels}
    for video in videos:
        for number in video.labels:
            actions[labels[number]][video.subset] += 1
    lengths = _lengths(repaired, labels)
    every = [length for of_class in lengths.values() for length in of_class]
    gaps, covered, known = [], 0.0, 0.0
    overlapping = {"same class": set[tuple[str, int]](), "other classes": set[tuple[str, int]]()}
    for video in repaired:
        of_video, inside = _gaps(video)
        gaps += of_video
        if video.duration:
            covered, known = covered + inside, known + video.duration
        for first, second, _ in _pairs(video):
            kind = "same class" if video.labels[first] == video.labels[second] else "other classes"
            overlapping[kind] |= {(video.video_id, first), (video.video_id, second)}
    return AnnotationReport(
        subsets,
        dict(Counter(video.subset for video in videos)),
        {name: sum(v.duration or 0 for v in videos if v.subset == name) / 60 for name in subsets},
        actions,
        {name: spread for name in labels if (spread := _spread(lengths[name]))},
        _spread(every),
        choose_window(every),
        _spread(gaps),
        1 - covered / known if known else None,
        {kind: len(which) for kind, which in overlapping.items()},
        findings,
        list(repaired),
        labels,
    )


def _gaps(video: AnnotatedVideo) -> tuple[list[float], float]:
    """Seconds between actions, and seconds in which there is one."""
    gaps, inside, reached = [], 0.0, None
    for start, end in sorted(video.segments.tolist()):
        if reached is not None and start > reached:
            gaps.append(start - reached)
        inside += max(0.0, end - (start if reached is None else max(start, reached)))
        reached = end if reached is None else max(reached, end)
    return gaps, inside
