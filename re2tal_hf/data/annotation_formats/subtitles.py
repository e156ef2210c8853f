"""Subtitles: SubRip (.srt), and WebVTT as the W3C specifies it; a cue is an action."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from ..detection_files import caption, clock
from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer

_TIME = r"(?:\d{1,4}:)?[0-5]?\d:[0-5]?\d[.,]\d{1,3}"
_TIMING = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?", re.ASCII)
# WebVTT escapes what is no tag.
_VTT_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_SRT_TAG = re.compile(r"</?(?:[bius]|font(?: [^<>]*)?)>", re.IGNORECASE)
# What re2tal predict writes behind a label.
_SCORE = re.compile(r" \([01]\.\d\d\)$")


def recognises(file: AnnotationFile) -> bool:
    lines = [line for line in (file.text or "")[:10_000].splitlines() if line.strip()]
    is_vtt = bool(lines) and re.match(r"WEBVTT(\s|$)", lines[0]) is not None
    return is_vtt or any(_TIMING.fullmatch(line) for line in lines[:2])


def read(file: AnnotationFile) -> Videos:
    """Reads the cues; their text, without styles and scores, is the label."""
    videos, lines = Videos(), file.lines()
    videos.add_video(file.own_video_id)
    is_vtt = lines[0].startswith("WEBVTT")
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if "-->" not in line:
            continue
        place = f"line {number}"
        timing = _TIMING.fullmatch(line)
        if timing is None:
            raise file.error(f"{line.strip()[:80]!r} is no timing; write 00:00:01,500 --> 00:00:03,000", place)
        text = []
        while number < len(lines) and lines[number].strip():
            text.append(lines[number])
            number += 1
        shown = (_VTT_TAG if is_vtt else _SRT_TAG).sub("", " ".join(text))
        shown = _SCORE.sub("", html.unescape(shown) if is_vtt else shown)
        start, end = (file.seconds(time, place) for time in timing.groups())
        videos.add(file.own_video_id, start, end, file.label(shown, place))
    return videos


def text(videos: Sequence[VideoToWrite]) -> str:
    """SubRip of one video, with the scores behind the labels where there are any."""
    [video] = videos
    scores: Sequence[float | None] = video.scores or [None] * len(video.actions)
    cues = [
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{caption(label, score)}\n"
        for number, ((start, end, label), score) in enumerate(zip(video.actions, scores, strict=True), start=1)
    ]
    return "\n".join(cues)


_WRITER = Writer(".srt", text, together=False)
FORMAT = Format("subtitles", "subtitles", recognises, read, _WRITER)
