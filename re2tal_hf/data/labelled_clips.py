"""Clips that show one action each, for the classification stage of a backbone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import VideoReader, VideoReadError
from .annotation_records import check_case, clean_label
from .annotation_set import AnnotatedVideo, AnnotationError, AnnotationSet
from .durations import Timelines, known_durations
from .video_files import is_hidden, is_video_file
from .windows import TrainingWindows

logger = logging.getLogger(__name__)

# Share of an action that a training window must show: any, since a clip is all action.
_ANY_SHARE = 1e-6


def read_clips(source: str | Path, split: str, timelines: Timelines | None = None) -> AnnotationSet:
    """Reads a split of labelled clips.

    Args:
        source: A folder `<source>/<split>/<class>/<clip>`, or a video data set on the Hub with a `label`.
        split: Name of the split.
        timelines: See `known_durations`.

    Returns:
        Each clip as a video with one action from its start to its end. Clips that cannot be read are left out
        and reported.

    Raises:
        AnnotationError: if there is no such split, or no readable clip in it.
    """
    if not split.strip():
        raise AnnotationError(f"{source}: the name of the split is empty; name one, such as train")
    found, names = _folder_clips(Path(source), split) if Path(source).is_dir() else _hub_clips(str(source), split)
    files = [AnnotatedVideo(str(path), split, path, None, np.zeros((0, 2)), []) for path, _ in found]
    clips = []
    for file, (_, label), duration in zip(files, found, known_durations(files, timelines), strict=True):
        if isinstance(duration, VideoReadError):
            logger.warning("unreadable clip: %s", duration)
            continue
        clips.append(replace(file, duration=duration, segments=np.array([[0.0, duration]]), labels=[label]))
    if not clips:
        raise AnnotationError(f"{source}: no readable clip in split {split!r}")
    return AnnotationSet(clips, names, {})


def _folder_clips(folder: Path, split: str) -> tuple[list[tuple[Path, int]], list[str]]:
    if not (folder / split).is_dir():
        splits = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        raise AnnotationError(f"{folder}: there is no split {split!r}; it holds {splits}")
    # The classes of all splits, so that a class that one of them lacks keeps its number.
    entries = [entry for entry in folder.glob("*/*") if not (is_hidden(entry.name) or is_hidden(entry.parent.name))]
    found = [clean_label(entry.name) for entry in entries if entry.is_dir()]
    check_case(found, folder)
    names = sorted(set(found))
    clips = [
        (path, names.index(clean_label(path.parent.name)))
        for path in sorted((folder / split).glob("*/*"))
        if is_video_file(path) and not is_hidden(path.parent.name)
    ]
    return clips, names


def _hub_clips(name: str, split: str) -> tuple[list[tuple[Path, int]], list[str]]:
    import datasets  # here, because it takes seconds to import and local folders do not need it

    try:
        rows = datasets.load_dataset(name, split=split)
    except (ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise AnnotationError(
            f"{name}: neither a folder nor a video data set with a split {split!r}: {error}"
        ) from error
    if not isinstance(rows.features.get("label"), datasets.ClassLabel):
        raise AnnotationError(f"{name}: its columns are {sorted(rows.features)}; a `label` with class names is needed")
    rows = rows.cast_column("video", datasets.Video(decode=False))
    return [(Path(row["video"]["path"]), row["label"]) for row in rows], rows.features["label"].names


class ClipWindows(TrainingWindows):
    """Random windows of labelled clips.

    An item is `frames`, uint8 `[T, C, H, W]`, and `labels`, a long tensor without dimensions. Arguments as for
    [`TrainingWindows`]; a clip longer than the processor's window gives a random part of it, a shorter one is padded
    and masked by `processor.prepare`.
    """

    def __init__(self, clips: Sequence[AnnotatedVideo], processor: Re2TALVideoProcessor, **settings: Any):
        super().__init__(clips, processor, truncation_threshold=_ANY_SHARE, crop_ratio=None, **settings)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return {**item, "labels": item["labels"]["class_labels"].squeeze(0)}


def views(clip: AnnotatedVideo, processor: Re2TALVideoProcessor, number: int) -> list[Tensor]:
    """Decodes windows spread evenly over a clip, for testing.

    Args:
        clip: From `read_clips`.
        processor: Says how long a window is and at which frame rate.
        number: Of views; a clip that fits into one window gives one.

    Returns:
        The frames of each view, uint8 `[T, C, H, W]`, for `processor.prepare`.

    Raises:
        VideoReadError: if the clip does not decode.
    """
    assert clip.duration is not None
    first = processor.windows(clip.video_id, clip.duration)[0]
    slack = clip.duration - first.num_frames / first.frame_rate
    number = number if slack * first.frame_rate >= 1 else 1
    starts = [slack / 2] if number == 1 else np.linspace(0.0, slack, number).tolist()
    with VideoReader(clip.local_path()) as reader:
        return [
            reader.frames_at(replace(first, start=max(start, 0.0)).times, resize=processor.resize_and_crop)
            for start in starts
        ]
