"""CVAT: "CVAT for video 1.1" (XML), its tags of images, and the annotations.json of a task's backup.

A track is an action from the first frame on which it is seen to the last; frames are counted from 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer


def recognises(file: AnnotationFile) -> bool:
    if file.xml is not None:
        return file.xml.tag == "annotations" and any(child.tag in ("meta", "track") for child in file.xml)
    return any(isinstance(part, dict) and {"tracks", "tags"} <= part.keys() for part in _parts(file.json))


def read(file: AnnotationFile) -> Videos:
    """Reads tracks, and as one action each run of frames with the same tag."""
    return _read_json(file) if file.xml is None else _read_xml(file, file.xml)


def _read_xml(file: AnnotationFile, root: Element) -> Videos:
    if root.find("meta/project") is not None:
        raise file.error("this is of a whole project, whose videos share one count of frames; export task by task")
    source = next((name for name in (root.findtext("meta/source"), root.findtext("meta/task/source")) if name), None)
    video_id, videos = file.video_id(source, "meta") if source else file.own_video_id, Videos()
    videos.add_video(video_id)
    for number, track in enumerate(root.iter("track")):
        place = f"track {number}"
        label = file.label(track.get("label"), place)
        shapes = [(_frame(file, shape.get("frame"), place), shape.get("outside") == "1") for shape in track]
        _add_runs(file, videos, video_id, label, _visible(shapes), place)
    frames = defaultdict(list)
    for number, image in enumerate(root.iter("image")):
        for tag in image.iter("tag"):
            label = file.label(tag.get("label"), f"image {number}")
            frames[label].append(_frame(file, image.get("id"), f"image {number}"))
    _add_tags(file, videos, video_id, frames)
    return videos


def _read_json(file: AnnotationFile) -> Videos:
    video_id, videos, frames = file.own_video_id, Videos(), defaultdict(list)
    videos.add_video(video_id)
    for part in _parts(file.json):
        for number, track in enumerate(file.get(part, "tracks", list, "file")):
            place = f"tracks[{number}]"
            label = file.label(file.get(track, "label", str, place), place)
            shapes = [
                (_frame(file, file.get(shape, "frame", int, place), place), bool(shape.get("outside")))
                for shape in file.get(track, "shapes", list, place)
            ]
            _add_runs(file, videos, video_id, label, _visible(shapes), place)
        for number, tag in enumerate(file.get(part, "tags", list, "file")):
            place = f"tags[{number}]"
            label = file.label(file.get(tag, "label", str, place), place)
            frames[label].append(_frame(file, file.get(tag, "frame", int, place), place))
    _add_tags(file, videos, video_id, frames)
    return videos


def _parts(content: Any) -> list[Any]:
    """The annotations of the jobs of a task."""
    return content if isinstance(content, list) else [content]


def _frame(file: AnnotationFile, value: Any, place: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise file.error(f"{text[:50]!r} is no number of a frame", place)
    return int(text)


def _visible(shapes: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    """Frames from which and up to which, without it, a track is seen; of the last shape the frame itself counts."""
    runs: list[tuple[int, int]] = []
    start = None
    for frame, outside in sorted(shapes):
        if not outside:
            start = frame if start is None else start
        elif start is not None:
            runs.append((start, frame))
            start = None
    if start is not None:
        runs.append((start, max(shapes)[0] + 1))
    return runs


def _add_tags(file: AnnotationFile, videos: Videos, video_id: str, frames: dict[str, list[int]]) -> None:
    for label, tagged in frames.items():
        runs: list[tuple[int, int]] = []
        for frame in sorted(set(tagged)):
            if runs and runs[-1][1] == frame:
                runs[-1] = (runs[-1][0], frame + 1)
            else:
                runs.append((frame, frame + 1))
        _add_runs(file, videos, video_id, label, runs, f"tag {label[:50]!r}")


def _add_runs(
    file: AnnotationFile, videos: Videos, video_id: str, label: str, runs: Iterable[tuple[int, int]], place: str
) -> None:
    for start, end in runs:
        videos.add(video_id, file.seconds(start, place, "frames"), file.seconds(end, place, "frames"), label)


def text(videos: Sequence[VideoToWrite]) -> str:
    """CVAT for video 1.1 of one video: an action is a track of boxes as large as the frame."""
    [video] = videos
    assert video.size and video.duration and video.frame_rate
    width, height = video.size
    frames = max(1, round(video.duration * video.frame_rate))
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    meta = SubElement(root, "meta")
    task = SubElement(meta, "task")
    for name, value in {"name": video.name, "size": frames, "mode": "interpolation", "source": video.name}.items():
        SubElement(task, name).text = str(value)
    labels = SubElement(task, "labels")
    for name in video.labels:
        SubElement(SubElement(labels, "label"), "name").text = name
    size = SubElement(task, "original_size")
    SubElement(size, "width").text, SubElement(size, "height").text = str(width), str(height)
    box = {"keyframe": "1", "occluded": "0", "xtl": "0", "ytl": "0", "xbr": str(width), "ybr": str(height)}
    for number, (start, end, label) in enumerate(video.actions):
        track = SubElement(root, "track", id=str(number), label=label, source="auto" if video.scores else "manual")
        first, after = video.frames(start, end)
        SubElement(track, "box", {"frame": str(first), "outside": "0", **box})
        # There is no frame behind the last one on which it could be outside.
        last = {"frame": str(after), "outside": "1"} if after < frames else {"frame": str(after - 1), "outside": "0"}
        if last["frame"] != str(first):
            SubElement(track, "box", {**last, **box})
    indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tostring(root, encoding="unicode")}\n'


def _hint(labels: Sequence[str]) -> str:
    return f"make a task of each video with the labels {', '.join(labels)}, then upload as CVAT 1.1"


_WRITER = Writer(".xml", text, together=False, needs=("size", "duration", "frame_rate"), hint=_hint)
FORMAT = Format("cvat", "annotations of CVAT", recognises, read, _WRITER)
