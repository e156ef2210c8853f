"""Annotations and videos of a recipe: what is wrong with times, classes and files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet, RuleLog, repair_segments
from ..data.annotations import read_annotations
from ..data.durations import known_durations
from ..data.label_spelling import labels_alike
from ..data.subsets import actions_by_class, check_actions, check_shared
from ..data.time_units import check_times
from ..training.arguments import Recipe
from ..value_checks import one_line
from ..video_reader import VideoReadError
from ..video_shard import locate, open_file
from .finding import Finding

# Shares of actions or videos; public data sets have fewer such mistakes.
FEW = 0.05
SOME = 0.25
# Times this many times the length of a video are of another unit, not of another file.
_ANOTHER_UNIT = 8.0
# Where all actions end before this share of their videos although so many had the chance to end later.
_EARLY, _CHANCE = 0.75, 1e-4
_TINY_SHARE, _LEAST_VIDEOS = 0.05, 3
_SAME_RATIO, _OTHER_LENGTH = 0.02, 0.04
_HASHED_BYTES = 2**20


def read_subsets(recipe: Recipe) -> tuple[list[AnnotationSet], list[Finding]]:
    """Reads both subsets of a recipe as they stand, with the durations of the files.

    Returns:
        Training and validation, or nothing where one of them cannot be read; and what is wrong with them.
    """
    found: list[Finding] = []
    subsets = []
    for field, name in (
        ("training_subset", recipe.data.training_subset),
        ("validation_subset", recipe.data.validation_subset),
    ):
        try:
            subset = _read(recipe, name)
            if not any(video.labels for video in subset.videos):
                check_actions(subset, f"data.{field}={name}")
            subsets.append(subset)
        except (ValueError, OSError) as error:
            found.append(_unreadable(one_line(error), recipe, field))
    if len(subsets) < 2:
        return [], list(dict.fromkeys(found))
    for subset, name in zip(subsets, ("training", "validation"), strict=True):
        found += _of_files(subset, name, recipe.data.features is not None)
        found += _of_times(subset, name)
    training, validation = subsets
    found += _of_classes(training, validation)
    found += _of_shared(training, validation, recipe.data.allow_shared_videos)
    return subsets, found


def _read(recipe: Recipe, subset: str) -> AnnotationSet:
    data = recipe.data
    if not data.annotations:
        raise ValueError("data.annotations is empty: name the annotation file.")
    found = read_annotations(
        data.annotations,
        subset=subset or "",
        video_folder=data.videos,
        feature_folder=data.features,
        repair=False,
        point_width=data.point_width,
        points=data.points,
        streaming=data.streaming,
    )
    if all(video.path is None for video in found.videos):
        raise ValueError(f"{data.annotations} names no video files: set data.videos to their folder.")
    return found.class_agnostic() if data.class_agnostic else found


def _unreadable(message: str, recipe: Recipe, field: str) -> Finding:
    """What keeps a subset, named by a field of the data, from being read at all."""
    name = getattr(recipe.data, field)
    # Of the readers' messages what only these say.
    if any(sign in message for sign in ("no videos in subset", "name of the subset", "videos of the subset")):
        cause = f"the annotations call their subsets otherwise than data.{field}={name}, or nothing in it is annotated"
        return Finding("subset", message, cause, f"set data.{field} to a subset of the file that has actions")
    if any(sign in message for sign in ("differ only in case", "has label_id", "some are ids")):
        fix = "give each class one name and one number, as `re2tal annotations check` lists them"
        return Finding("labels", message, "one class under several names or numbers", fix)
    if "annotated ones" in message or "names no video files" in message:
        fix = "set data.videos to the folder of the files, called as in the annotations"
        return Finding("missing_videos", message, "another folder, or files that are called otherwise", fix)
    if "not exist" in message or not recipe.data.annotations:
        cause = "no file is named, a path of another folder than this one, or a file that was moved"
        return Finding(
            "annotations", message, cause, "data.annotations=FILE data.videos=FOLDER after the run or recipe"
        )
    cause = "the file is not what training reads"
    if recipe.model.get("head_config") is None:
        cause += "; a recipe that has no head is for clips (re2tal finetune), of which nothing is known here"
    return Finding("annotations", message, cause, "mend data.annotations as it says")


def _of_files(subset: AnnotationSet, name: str, features: bool) -> list[Finding]:
    """Files that are not there, cannot be read, or are of another length; sets the durations of the others."""
    found = []
    here = [video for video in subset.videos if video.path is not None]
    absent, total = len(subset.videos) - len(here), len(subset.videos)
    if absent > FEW * total:
        found.append(
            Finding(
                "missing_videos",
                f"{absent} of {total} {name} videos have no file",
                "the folder lacks them, or they are called otherwise; their actions count as missed",
                "complete data.videos, or call the files as the annotations call the videos",
            )
        )
    if features:
        return found  # how long they are the processor says
    durations = known_durations(here, progress=False)
    broken = [error for error in durations if isinstance(error, VideoReadError)]
    if len(broken) > FEW * total:
        seen = f"{len(broken)} of {total} {name} videos cannot be read; first: {one_line(broken[0])}"
        fix = "download or encode them again; `re2tal prepare` names each"
        found.append(Finding("unreadable_videos", seen, "damaged or half-written files", fix))
    ratios = []
    for video, duration in zip(here, durations, strict=True):
        if isinstance(duration, VideoReadError):
            continue
        if video.duration:
            ratios.append(duration / video.duration)
        video.duration = duration
    return found + _of_durations(ratios, name)


def _of_durations(ratios: Sequence[float], name: str) -> list[Finding]:
    if len(ratios) < _LEAST_VIDEOS:
        return []
    usual = float(np.median(ratios))
    off = np.abs(np.array(ratios) - 1) > _OTHER_LENGTH
    alike = np.abs(np.array(ratios) / usual - 1) < _SAME_RATIO
    if off.mean() <= SOME:
        return []
    seen = f"{int(off.sum())} of {len(ratios)} {name} files have another length than annotated, by {usual:.3g} times"
    if alike.mean() > 1 - SOME:
        return [
            Finding(
                "time_rate",
                f"{seen}, all alike",
                "the files were encoded at another frame rate than they were annotated at, or durations and times "
                "count something else than seconds",
                f"multiply all annotated times by {usual:.4g}, or annotate these files",
            )
        ]
    cause = "other videos, or other cuts of them, than were annotated"
    return [Finding("wrong_durations", seen, cause, "take the videos that the annotations were made of")]


def _of_times(subset: AnnotationSet, name: str) -> list[Finding]:
    """Times against the durations of the files."""
    rules, total = RuleLog(), sum(len(video.labels) for video in subset.videos)
    for video in subset.videos:
        repair_segments(video, video.duration, rules, tolerance=0.5)
    counts = rules.counts
    ends = [v.segments.max() / v.duration for v in subset.videos if v.duration and len(v.labels)]
    found = []
    if counts["empty_segment"] > FEW * total:
        found.append(
            Finding(
                "start_length",
                f"{counts['empty_segment']} of {total} {name} actions end before they start "
                f"(first: {rules.first['empty_segment']})",
                "times are [start, length], or start and end are exchanged",
                "write [start, end] in seconds into data.annotations",
            )
        )
    if counts["point"] > FEW * total:
        seen = f"{counts['point']} of {total} {name} actions start where they end (first: {rules.first['point']})"
        fix = "data.point_width=1, the seconds that an action shall have"
        found.append(Finding("points", seen, "points in time, which nothing learns and nothing measures", fix))
    outside = counts["outside_video"] + counts["past_video_edge"]
    if outside > FEW * total:
        reach = float(np.quantile(ends, 0.9)) if ends else 0.0
        kind = "time_units" if reach >= _ANOTHER_UNIT else "outside_videos"
        first = rules.first.get("outside_video") or rules.first["past_video_edge"]
        seen = f"{outside} of {total} {name} actions leave their video, whose length they reach {reach:.3g} times"
        cause, fix = _guess(subset.videos)
        found.append(Finding(kind, f"{seen} (first: {first})", cause, fix))
    elif len(ends) >= _LEAST_VIDEOS and max(ends) < _TINY_SHARE:
        seen = f"all actions of {len(ends)} {name} videos lie in the first {100 * max(ends):.2g}% of them"
        cause = "times are minutes, or shares of the video"
        found.append(Finding("time_units", seen, cause, "write times in seconds into data.annotations"))
    elif len(ends) >= _LEAST_VIDEOS and max(ends) < _EARLY and max(ends) ** total < _CHANCE:
        seen = f"no {name} action ends after {100 * max(ends):.2g}% of its video, of {total} in {len(ends)} videos"
        cause = "frames were divided by a higher frame rate than that of the videos"
        fix = f"multiply all annotated times by the right factor, about {0.97 / max(ends):.3g}"
        found.append(Finding("time_rate", seen, cause, fix))
    return found


def _guess(videos: Sequence[AnnotatedVideo]) -> tuple[str, str]:
    """What else than seconds the times may be, and what is to be done."""
    cause = "the times are of another frame rate or of longer cuts of these videos, or the files are other ones"
    fix = "write times in seconds of these files into data.annotations"
    try:
        check_times(videos, "", max_lost=FEW)
    except AnnotationError as error:
        _, _, guess = str(error).partition("durations: ")
        if guess:
            cause, _, way = guess.partition("; ")
            division = way.partition(",")[0]
            fix = f"{division}, in data.annotations" if division.startswith("divide") else fix
    return cause, fix


def _of_classes(training: AnnotationSet, validation: AnnotationSet) -> list[Finding]:
    found = []
    names = training.label_names
    trained, measured = actions_by_class(training), actions_by_class(validation)
    every = {names[label]: count for label, count in (trained + measured).items()}
    for rarer, other, what in labels_alike(every):
        found.append(
            Finding(
                "labels",
                f"classes {rarer!r} ({every[rarer]} actions) and {other!r} ({every[other]}) differ by {what}",
                "one class under two names: each is learned from a part of its actions only",
                f"write {other!r} for {rarer!r} in data.annotations",
            )
        )
    lacking = {names[label]: count for label, count in measured.items() if not trained[label]}
    if sum(lacking.values()) > FEW * measured.total():
        shown = ", ".join(f"{label} ({count})" for label, count in Counter(lacking).most_common(5))
        found.append(
            Finding(
                "untrained_classes",
                f"{sum(lacking.values())} of {measured.total()} validation actions are of {len(lacking)} classes "
                f"that no training video shows: {shown}",
                "the subsets name their classes otherwise, or their split leaves classes out: their AP is 0",
                "give both subsets the same names, or split anew: `re2tal annotations split`",
            )
        )
    return found


def _of_shared(training: AnnotationSet, validation: AnnotationSet, allowed: bool) -> list[Finding]:
    fix = "choose another data.validation_subset, or split anew: `re2tal annotations split`"
    cause = "what is measured says nothing about other videos"
    try:
        check_shared(training, validation, allowed)
    except AnnotationError as error:
        return [Finding("shared_videos", one_line(error).partition(";")[0], cause, fix)]
    if allowed:
        return []
    copies = list(_copies(training.videos, validation.videos))
    if not copies:
        return []
    one, other = copies[0]
    seen = f"{len(copies)} of {len(validation.videos)} validation files are copies of training files"
    return [Finding("shared_videos", f"{seen} (first: {other} of {one})", cause, fix)]


def _copies(training: Sequence[AnnotatedVideo], validation: Sequence[AnnotatedVideo]) -> Iterator[tuple[str, str]]:
    """Pairs of a training and a validation video whose files hold the same."""
    sizes = defaultdict(list)
    for video in training:
        if isinstance(video.path, Path) and (location := locate(video.path)):
            sizes[location.size].append(video)
    for video in validation:
        location = locate(video.path) if isinstance(video.path, Path) else None
        for other in sizes.get(location.size, []) if location else []:
            if _digest(other.local_path()) == _digest(video.local_path()):
                yield other.video_id, video.video_id
                break


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.sha256(file.read(_HASHED_BYTES)).digest()
