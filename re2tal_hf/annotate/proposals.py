"""What a model proposes for the videos of a folder: found in the background, kept in memory, never saved."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.annotation_records import clean_label
from ..data.annotation_writing import with_length
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from .project import MOST_LETTERS, Project

# Of a video, the best; more than that nobody looks through.
MOST_PROPOSALS = 200
# Of a minute of video, the best, whose scores say how sure the model is of it.
LOOKED_AT = 10


def uncertainty(rows: Sequence[Mapping[str, Any]], duration: float) -> float:
    """Returns how little a model knows of a video by its own scores.

    It is the mean binary entropy of the scores of the best ten proposals of a minute; those that are missing have none.
    So a video in which the model finds nothing comes last, be there nothing or be it blind.

    Args:
        rows: With `score`, best first.
        duration: Of the video, seconds.

    Returns:
        From 0, where all scores are 0 or 1, to 1, where all are one half.

    Example:
        >>> uncertainty([{"score": 0.5}, {"score": 1.0}, {"score": 0.0}], duration=24)
        0.25
    """
    count = max(1, round(LOOKED_AT * duration / 60))
    shares = (min(1.0, max(0.0, row["score"])) for row in rows[:count])
    return sum(-x * math.log2(x) - (1 - x) * math.log2(1 - x) for x in shares if 0 < x < 1) / count


@dataclass
class VideoProposals:
    """Of one video.

    Attributes:
        progress: The share of its windows that the model has seen.
        ready: Whether the model has seen all of them.
        rows: `label`, `score`, `start` and `end` (seconds) of what was found, best first; a second about points.
        error: Why there are none.
    """

    progress: float = 0.0
    ready: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


class Proposals:
    """Finds actions in one video after the other, those that are asked for first, then those that are not finished.

    Args:
        project: With the videos.
        pipe: The model; without one it waits for `use`.
    """

    def __init__(self, project: Project, pipe: TemporalActionLocalizationPipeline | None = None):
        self._project, self._pipe = project, pipe
        self._found: dict[int, VideoProposals] = {}
        self._wanted: int | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="proposals", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str | None:
        """Name of the model; None without one."""
        return None if self._pipe is None else str(self._pipe.model.name_or_path)

    @property
    def labels(self) -> list[str]:
        """Labels that the model knows, spelled as the annotations spell them."""
        return list(self._spelling().values())

    def of(self, number: int) -> VideoProposals:
        """Returns what is known by now of a video by its place in the queue, which comes next from here on."""
        with self._changed:
            if number not in self._found:
                self._wanted = number
                self._changed.notify()
            return self._found.get(number, VideoProposals())

    def uncertainty(self, number: int) -> float | None:
        """Returns how little the model knows of a video; None before it has looked at it."""
        found = self._found.get(number)
        if found is None or not found.ready or found.error:
            return None
        return uncertainty(found.rows, self._project.duration(number))

    def spelled(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns rows of the model with labels as the annotations spell them."""
        spelling = self._spelling()
        return [{**row, "label": spelling.get(row["label"], row["label"])} for row in rows]

    def use(self, pipe: TemporalActionLocalizationPipeline) -> None:
        """Looks at all videos anew, by another model."""
        with self._changed:
            self._pipe, self._found = pipe, {}
            self._changed.notify()

    def close(self) -> None:
        """Ends after the windows that the model is looking at."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            pipe, number, proposals = taken

            def report(done: int, windows: int, taken: _Taken = taken) -> None:
                taken[2].progress = done / windows
                if self._ended or self._pipe is not taken[0]:
                    raise _EndedError

            try:
                path = str(self._project.paths[number])
                rows = pipe(path, top_k=MOST_PROPOSALS, progress=report)
                duration = self._project.duration(number)
                proposals.rows = [with_length(row, duration) for row in rows]
            except _EndedError:
                continue
            except Exception as error:  # the page shows it, and other videos may do
                proposals.error = f"The model fails on {self._project.ids[number]}: {error or type(error).__name__}"
            proposals.ready = True

    def _next(self) -> _Taken | None:
        """Waits for a video to look at, and a model; None at the end."""
        with self._changed:
            while not self._ended:
                number, self._wanted = self._wanted, None
                if number is None or number in self._found:
                    unfinished = (n for n in range(len(self._project.ids)) if not self._project.record(n).subset)
                    number = next((n for n in unfinished if n not in self._found), None)
                if self._pipe is not None and number is not None:
                    self._found[number] = VideoProposals()
                    return self._pipe, number, self._found[number]
                self._changed.wait()
            return None

    def _spelling(self) -> dict[str, str]:
        """By the model's labels, those to be shown: two that differ in case only are refused in one file."""
        known = {label.casefold(): label for label in self._project.labels()}
        labels = [] if self._pipe is None else self._pipe.model.config.id2label.values()
        cleaned = {label: clean_label(label)[:MOST_LETTERS] for label in labels}
        return {label: known.get(name.casefold(), name) for label, name in cleaned.items()}


_Taken = tuple[TemporalActionLocalizationPipeline, int, VideoProposals]


class _EndedError(Exception):
    """Leaves the model in the middle of a video."""
