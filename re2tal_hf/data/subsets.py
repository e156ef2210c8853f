"""Whether a training and a validation subset make a sound pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..value_checks import shown
from .annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet
from .hub_video import HubVideo


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
    """How many actions of each class id end after their start."""
    return Counter(
        label
        for video in annotations.videos
        for (start, end), label in zip(video.segments.tolist(), video.labels, strict=True)
        if start < end
    )


def _file(video: AnnotatedVideo) -> object:
    """What is the same for two names of one file."""
    assert video.path is not None
    if isinstance(video.path, HubVideo) or not video.path.exists():
        return video.path
    status = video.path.stat()
    # Some file systems number no files.
    return (status.st_dev, status.st_ino) if status.st_ino else video.path.resolve()
