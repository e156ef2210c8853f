"""Subtitles: SubRip (.srt), and WebVTT as the W3C specifies it; a cue is an action."""

from __future__ import annotations

import html
import re

from .annotation_file import AnnotationFile, Videos
from .format import Format

_TIME = r"(?:\d{1,4}:)?[0-5]?\d:[0-5]?\d[.,]\d{1,3}"
_TIMING = re.compile(rf"\s*({_TIME})\s*-->\s*({_TIME})(?:\s.*)?", re.ASCII)
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
        caption = re.sub(r"</?[A-Za-z][^<>]*>", "", " ".join(text))
        caption = _SCORE.sub("", html.unescape(caption) if is_vtt else caption)
        start, end = (file.seconds(time, place) for time in timing.groups())
        videos.add(file.own_video_id, start, end, file.label(caption, place))
    return videos


FORMAT = Format("subtitles", "subtitles", recognises, read)
