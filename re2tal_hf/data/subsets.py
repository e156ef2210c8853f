"""Whether a training and a validation subset make a sound pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ..value_checks import shown
from .annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet
from .hub_video import HubVideo
from .json_files import read_json, read_text


def check_actions(annotations: AnnotationSet, subset: str) -> None:
    """Refuses a subset in whose videos nothing happens, which can be neither learned nor measured.

    Args:
        annotations: Of the subset.
        subset: What the message calls it.

    Raises:
        AnnotationError: No video has an action that ends after its start.
    """
    if not actions_by_class(annotations).total():
        raise AnnotationError(
            f"none of the {len(annotations.videos)} videos of the subset {subset[:200]} has an action in the"
            " annotations; choose a subset with actions, or annotate it"
        )


def read_video_ids(path: str | Path) -> set[str]:
    """Reads a list of videos: JSON, as ActivityNet's `blocked.json`, or text with one id a line.

    Raises:
        AnnotationError: It is neither, or empty.
        OSError: It cannot be read.
    """
    path, form = Path(path), '["id", ...], or one id a line'
    lines = read_text(path).splitlines()
    ids = read_json(path, form) if lines and lines[0].lstrip().startswith(("[", "{")) else list(filter(None, lines))
    if not (isinstance(ids, list) and ids and all(isinstance(video_id, str) for video_id in ids)):
        raise AnnotationError(f"{path}: no list of videos; give {form}")
    return {video_id.strip() for video_id in ids}


def without_videos(annotations: AnnotationSet, ids: Collection[str], source: str | Path) -> AnnotationSet:
    """The annotations without some videos.

    Args:
        annotations: Of a subset.
        ids: Of the videos; those of other subsets say nothing.
        source: What the message calls them.

    Raises:
        AnnotationError: None of them is in the subset, or all are.
    """
    left = [video for video in annotations.videos if video.video_id not in ids]
    if len(left) in (0, len(annotations.videos)):
        which = "all" if not left else "none"
        raise AnnotationError(
            f"{source}: {which} of the {len(annotations.videos)} videos of the subset (first:"
            f" {shown(annotations.videos[0].video_id)}) are in it; name videos as the annotations do"
        )
    return replace(annotations, videos=left)


def check_shared(training: AnnotationSet, validation: AnnotationSet, allowed: bool) -> str:
    """Refuses to measure by videos that are trained on, unless that is `allowed`.

    Videos are the same if their files are.

    Returns:
        What is to be warned of: videos that are shared on purpose, and ids that are in both subsets with different
        files, since the splits of a folder may number their videos alike. Empty where there are none.

    Raises:
        AnnotationError: The subsets share videos.
    """
    trained = {_file(video) for video in training.videos if video.path is not None}
    shared = [video.video_id for video in validation.videos if video.path is not None and _file(video) in trained]
    if shared:
        count = f"{len(shared)} of {len(validation.videos)} validation videos"
        message = f"{count} are trained on too (first: {shown(shared[0])})"
        if allowed:
            return f"{message}: what is measured says nothing about other videos"
        raise AnnotationError(
            f"{message}; choose another data.validation_subset, or set data.allow_shared_videos=true to train and"
            " measure on the same videos on purpose"
        )
    ids = {video.video_id for video in training.videos} & {video.video_id for video in validation.videos}
    if ids:
        return (
            f"{len(ids)} video ids are in the training and in the validation subset, with different files (first:"
            f" {shown(min(ids))}); are these the same videos?"
        )
    return ""


def compare_classes(training: AnnotationSet, validation: AnnotationSet) -> dict[str, list[str]]:
    """Classes with the number of their actions, by what is wrong with them; what is not is left out."""
    names, trained, measured = training.label_names, actions_by_class(training), actions_by_class(validation)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(repr(name))
    found = {
        "only validation videos show, and so nothing learns": _only(measured, trained, names),
        "only training videos show, and so nothing measures": _only(trained, measured, names),
        "neither subset shows": [name for i, name in enumerate(names) if not trained[i] and not measured[i]],
        "differ in case or spaces only": [" and ".join(group) for group in alike.values() if len(group) > 1],
    }
    return {fault: classes for fault, classes in found.items() if classes}


def _only(found: Counter[int], other: Counter[int], names: Sequence[str]) -> list[str]:
    return [f"{names[label]} ({count})" for label, count in sorted(found.items()) if not other[label]]


def actions_by_class(annotations: AnnotationSet) -> Counter[int]:
    """How many actions of each class id end after their start, or are points."""
    return Counter(
        label
        for video in annotations.videos
        for (start, end), label in zip(video.segments.tolist(), video.labels, strict=True)
        if start < end or (video.points and start == end)
    )


def _file(video: AnnotatedVideo) -> object:
    """What is the same for two names of one file."""
    assert video.path is not None
    if isinstance(video.path, HubVideo) or not video.path.exists():
        return video.path
    status = video.path.stat()
    # Some file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else video.path.resolve()
