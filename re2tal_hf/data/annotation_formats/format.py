"""What a format of annotations is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .annotation_file import AnnotationFile, Videos


@dataclass(frozen=True)
class Format:
    """A kind of annotation file.

    Attributes:
        name: As options give it.
        title: What messages call it.
        recognises: Whether the content of a file is certainly of this kind; None where no content makes it certain.
        read: Reads a file of this kind; an `AnnotationError` names the file and the place.
    """

    name: str
    title: str
    recognises: Callable[[AnnotationFile], bool] | None
    read: Callable[[AnnotationFile], Videos]
