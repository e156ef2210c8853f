"""Annotations, or what a model found, as files that another tool opens for correction."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..video_reader import VideoReader
from .annotation_formats.format import VideoToWrite
from .annotation_formats.formats import FORMATS, WRITERS
from .annotation_records import Record
from .annotation_set import POINT_HINT, AnnotationError
from .annotations import find_record_files
from .timeline_index import TimelineIndex
from .video_files import names_of_results
from .whole_files import written_whole

_NEEDED = {"duration": "length", "frame_rate": "frame rate", "size": "size"}


def annotated_videos(
    records: Sequence[Record], folder: Path | None = None, frame_rate: float | None = None, prefix: str = ""
) -> list[VideoToWrite]:
    """Returns annotations as they are to be written.

    Args:
        records: The annotations.
        folder: Of the videos, from whose files come name, length, rate and size.
        frame_rate: Of videos without a file.
        prefix: Before the names.

    Raises:
        AnnotationError: Videos have no file in the folder, or several; an action does not end after its start.
        VideoReadError: A video cannot be read.
    """
    if folder is not None:
        find_record_files(records, folder)
        if lacking := [record.video_id for record in records if record.path is None]:
            raise AnnotationError(f"{folder}: no file for video {lacking[0]!r} and {len(lacking) - 1} others")
    index, videos = TimelineIndex(), []
    for record in records:
        actions = [(start, end, str(label)) for (start, end), label in zip(record.segments, record.labels, strict=True)]
        actions = _checked(actions, record.video_id)
        if isinstance(record.path, Path):
            with index.open(record.path) as reader:
                name = record.path.relative_to(folder or "").as_posix()
                videos.append(video_of_reader(prefix + name, actions, reader))
        else:
            videos.append(VideoToWrite(prefix + record.video_id, actions, record.duration, frame_rate))
    index.save()
    return videos


def names_for_tools(paths: Sequence[str | Path]) -> list[str]:
    """Returns names of video files; where some are called the same, with the folders below the one that holds all."""
    files = [Path(path).absolute() for path in paths]
    if len({file.name for file in files}) == len(files):
        return [file.name for file in files]
    above = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(above).as_posix() for file in files]


def detected_video(name: str, rows: Sequence[dict[str, Any]], reader: VideoReader) -> VideoToWrite:
    """Returns what a model found in a video as it is to be written; points get a second about them, for all to show."""
    rows = [with_length(row, reader.duration) for row in sorted(rows, key=lambda row: (row["start"], row["end"]))]
    actions = [(row["start"], row["end"], row["label"]) for row in rows]
    return video_of_reader(name, actions, reader, [row["score"] for row in rows])


def with_length(row: dict[str, Any], duration: float = math.inf) -> dict[str, Any]:
    """A detection as it is, or with a second about the point in time that it is, within the video."""
    if row["start"] < row["end"]:
        return row
    return {**row, "start": max(row["start"] - 0.5, 0.0), "end": min(row["end"] + 0.5, duration)}


def video_of_reader(
    name: str, actions: Sequence[tuple[float, float, str]], reader: VideoReader, scores: Sequence[float] | None = None
) -> VideoToWrite:
    """Returns a video with what its file tells of length, rate and size."""
    return VideoToWrite(name, actions, reader.duration, reader.frame_rate, (reader.width, reader.height), scores)


def write_for_tool(videos: Sequence[VideoToWrite], kind: str, output: Path) -> list[Path]:
    """Writes videos in a format; the files are complete whenever they are there.

    Args:
        videos: The videos.
        kind: Of `WRITERS`.
        output: The file or, where each video has one of its own, their folder.

    Returns:
        The files.

    Raises:
        AnnotationError: Something that the format needs is not known.
        OSError: They cannot be written.
    """
    texts = texts_for_tool(videos, kind, output)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return list(texts)


def texts_for_tool(videos: Sequence[VideoToWrite], kind: str, output: Path) -> dict[Path, str]:
    """Returns what `write_for_tool` writes, by the path of the file; arguments and errors as there."""
    writer = WRITERS[kind]
    for video in videos:
        if lacking := [_NEEDED[name] for name in writer.needs if not getattr(video, name)]:
            way = "give --videos or --frame-rate" if lacking == ["frame rate"] else "give --videos"
            raise AnnotationError(f"{FORMATS[kind].title} needs the {' and '.join(lacking)} of {video.name}; {way}")
    if writer.together:
        parts = {output: list(videos)}
    else:
        # A subtitle track without a cue is no file of its kind.
        kept = [video for video in videos if video.actions or kind != "subtitles"]
        names = names_of_results([video.name for video in kept])
        parts = {output / f"{name}{writer.ending}": [video] for name, video in zip(names, kept, strict=True)}
    return {path: writer.text(part) for path, part in parts.items()}


def hint(videos: Sequence[VideoToWrite], kind: str) -> str | None:
    """Returns what is to be done in the tool before it takes the files, None where that is nothing."""
    told = WRITERS[kind].hint
    return told(sorted({label for video in videos for label in video.labels})) if told else None


def _checked(actions: list[tuple[float, float, str]], video_id: str) -> list[tuple[float, float, str]]:
    for start, end, label in actions:
        if not 0 <= start < end:
            wrong = "begins before its video" if start < 0 else "does not end after its start"
            point = f"; {POINT_HINT}" if start == end else ""
            raise AnnotationError(f"{video_id}: {label!r:.80} [{start:g}, {end:g}] {wrong}{point}")
    return sorted(actions)
