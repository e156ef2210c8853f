"""What a format of annotations is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .annotation_file import AnnotationFile, Videos


@dataclass(frozen=True)
class VideoToWrite:
    """A video and its actions, to be written in a format of another tool.

    Attributes:
        name: Of its file, or its address, as the tool opens it.
        actions: Start, end in seconds and label of each, in order; each ends after its start.
        duration: Seconds.
        frame_rate: Frames a second.
        size: Width and height of a frame.
        scores: Of every action, where a model found them.
    """

    name: str
    actions: Sequence[tuple[float, float, str]]
    duration: float | None = None
    frame_rate: float | None = None
    size: tuple[int, int] | None = None
    scores: Sequence[float] | None = None

    @property
    def labels(self) -> list[str]:
        """The classes, sorted."""
        return sorted({label for *_, label in self.actions})

    def frames(self, start: float, end: float) -> tuple[int, int]:
        """Returns the first frame of an action, counted from 0, and the one after its last; at least one is inside."""
        assert self.frame_rate is not None
        first = round(start * self.frame_rate)
        return first, max(first + 1, round(end * self.frame_rate))


@dataclass(frozen=True)
class Writer:
    """How a format is written.

    Attributes:
        ending: Of the files.
        text: Of a file with these videos.
        together: Whether a file holds several videos.
        needs: Attributes of a `VideoToWrite` that must be known.
        hint: What is to be done in the tool, by the labels.
    """

    ending: str
    text: Callable[[Sequence[VideoToWrite]], str]
    together: bool
    needs: tuple[str, ...] = ()
    hint: Callable[[Sequence[str]], str] | None = None


@dataclass(frozen=True)
class Format:
    """A kind of annotation file.

    Attributes:
        name: As options give it.
        title: What messages call it.
        recognises: Whether the content of a file is certainly of this kind; None where no content makes it certain.
        read: Reads a file of this kind; an `AnnotationError` names the file and the place.
        writer: Writes it; what it writes is read to the same actions.
        of_class: Whether a file holds one class, so that a video is in several files.
        of_ids: Whether it has ids of classes, which `ReadingSettings.classes` may name.
    """

    name: str
    title: str
    recognises: Callable[[AnnotationFile], bool] | None
    read: Callable[[AnnotationFile], Videos]
    writer: Writer | None = None
    of_class: bool = False
    of_ids: bool = False


def lanes(actions: Sequence[tuple[float, float, str]]) -> list[int]:
    """Returns for each action the first lane in which none overlaps it; actions in order of their start."""
    ends: list[float] = []
    chosen = []
    for start, end, _ in actions:
        lane = next((number for number, reached in enumerate(ends) if reached <= start), len(ends))
        ends[lane : lane + 1] = [end]
        chosen.append(lane)
    return chosen
