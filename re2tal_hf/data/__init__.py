"""Annotation files, training windows, augmentation and the generated demonstration data."""

from .annotations import (
    AnnotatedVideo,
    AnnotationError,
    AnnotationSet,
    read_annotations,
    read_label_names,
)
from .augmentation import Augmentation
from .labelled_clips import ClipWindows, read_clips
from .readable_videos import UnreadableVideosError
from .windows import TrainingWindows, collate

__all__ = [
    "AnnotatedVideo",
    "AnnotationError",
    "AnnotationSet",
    "Augmentation",
    "ClipWindows",
    "TrainingWindows",
    "UnreadableVideosError",
    "collate",
    "read_annotations",
    "read_clips",
    "read_label_names",
]
