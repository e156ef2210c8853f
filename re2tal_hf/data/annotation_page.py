"""The report on annotations as text and as one page of HTML, with pictures of actions."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ..video_reader import VideoReadError
from .annotation_check import AnnotationReport, Spread
from .annotation_set import AnnotatedVideo
from .html_page import frames_as_addresses, write_html
from .timeline_index import TimelineIndex

logger = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).with_suffix(".html")
_PICTURE_HEIGHT = 72
# Start, middle and end of an action.
_MOMENTS = (0.05, 0.5, 0.95)
_MOST_PICTURED, _MOST_TIMELINES = 60, 100
_WINDOW = "{num_frames} frames at {frame_rate:g} a second, {seconds:.3g} s; {longer:.0%} of the actions are longer"


def report_text(report: AnnotationReport) -> str:
    """Returns a report as lines."""
    names = [name or "no subset" for name in report.subsets]
    rows: list[tuple[str, list[Any]]] = [
        ("", names),
        ("videos", [report.videos[name] for name in report.subsets]),
        ("minutes", [f"{report.minutes[name]:.1f}" for name in report.subsets]),
        ("actions", [sum(of[name] for of in report.actions.values()) for name in report.subsets]),
        *((f"  {label}"[:60], list(counts.values())) for label, counts in report.actions.items()),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}" + "".join(f"{value!s:>20}" for value in values) for name, values in rows]
    lines += [f"{name}: {value}" for name, value in _facts(report)]
    for finding in report.findings:
        lines.append(f"{finding.weight}: {finding.count} {finding.title}")
        lines += [f"  {example}" for example in finding.examples[:3]]
        if finding.count > 3 < len(finding.examples):
            lines.append(f"  and {finding.count - 3} more")
    return "\n".join(lines)


def write_page(path: Path, report: AnnotationReport, title: str, pictures: int = 4, seed: int = 0) -> None:
    """Writes a report as one page that needs no other file.

    Args:
        path: Of the page.
        report: The report.
        title: Of the page.
        pictures: Of each class so many random actions are shown, as far as videos can be read.
        seed: Which ones.
    """
    hues = {label: round(number * 360 / max(len(report.labels), 1)) for number, label in enumerate(report.labels)}
    write_html(
        path,
        _TEMPLATE,
        title=title,
        report=report,
        facts=_facts(report),
        hues=hues,
        pictures=_pictures(report, pictures, seed),
        most_actions=max((sum(of.values()) for of in report.actions.values()), default=1),
        timelines=[_timeline(video, report.labels) for video in report.timelines[:_MOST_TIMELINES]],
        more_timelines=max(0, len(report.timelines) - _MOST_TIMELINES),
        spread=_shown,
    )


def _facts(report: AnnotationReport) -> list[tuple[str, str]]:
    facts = [("length of actions, least / median / most", _shown(report.all_lengths))]
    if report.window:
        found = {**vars(report.window), "seconds": report.window.seconds}
        facts.append(("window that fits", _WINDOW.format(**found)))
    facts.append(("gap to the next action, least / median / most", _shown(report.gaps)))
    if report.background is not None:
        facts.append(("background", f"{report.background:.0%} of the time"))
    overlapping = ", ".join(f"{count} with an action of {kind}" for kind, count in report.overlapping.items())
    facts.append(("actions that overlap another", overlapping.replace("of same", "of the same")))
    return facts


def _shown(spread: Spread | None) -> str:
    return f"{spread.least:.3g} / {spread.median:.3g} / {spread.most:.3g} s" if spread else "none"


def _pictures(report: AnnotationReport, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Of each class some actions with their pictures as data of an address."""
    random, found = np.random.default_rng(seed), defaultdict(list)
    index = TimelineIndex()
    for number, label in enumerate(report.labels[:_MOST_PICTURED]):
        there = [
            (video, place)
            for video in report.timelines
            if isinstance(video.path, Path)
            for place, of in enumerate(video.labels)
            if of == number
        ]
        for chosen in random.permutation(len(there))[:count]:
            video, place = there[chosen]
            start, end = video.segments[place].tolist()
            try:
                times = [start + share * (end - start) for share in _MOMENTS]
                frames = frames_as_addresses(index, video.local_path(), times, _PICTURE_HEIGHT)
            except VideoReadError as error:
                logger.warning("no picture: %s", error)
                continue
            found[label].append({"video": video.video_id, "start": start, "end": end, "frames": frames})
    return found


def _timeline(video: AnnotatedVideo, labels: list[str]) -> dict[str, Any]:
    """Places of the actions of a video in percent of its length."""
    length = video.duration or float(video.segments[:, 1].max(initial=0.0)) or 1.0
    actions = []
    for (start, end), number in zip(video.segments.tolist(), video.labels, strict=True):
        place = {"left": 100 * start / length, "width": 100 * (end - start) / length}
        actions.append({**place, "label": labels[number], "start": start, "end": end})
    return {"name": video.video_id, "subset": video.subset, "length": length, "actions": actions}
