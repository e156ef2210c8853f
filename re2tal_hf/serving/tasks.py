"""Tasks: videos that are worked on, as those see them who work on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]
"""Takes the number of windows done and of all; what it raises ends the work on the video."""

Localize = Callable[[Path, str, dict[str, Any], Progress], list[dict[str, Any]]]
"""Maps a file, what messages call it, settings of the pipeline and what takes the progress to detections."""


class Stopped(Exception):
    """The result of a task is not wanted any more."""


@dataclass(frozen=True, eq=False)
class Task:
    """A video whose actions are wanted; `end` or `fail` is called once.

    Attributes:
        id: Names it among those that are under way.
        path: Of the file.
        name: What messages call it.
        settings: Of the pipeline.
        report: Takes the progress.
        end: Takes the detections.
        fail: Takes why there are none, and whether that is surely of this video, not of another under way with it.
    """

    id: str
    path: Path
    name: str
    settings: dict[str, Any]
    report: Progress
    end: Callable[[list[dict[str, Any]]], None]
    fail: Callable[[Exception, bool], None]


Take = Callable[[], Task | None]
"""Returns the task whose turn it is; None where there is none now."""

Work = Callable[[Take], None]
"""Takes tasks and works on them, one after another or several together, until there is none."""


def one_at_a_time(localize: Localize) -> Work:
    """Returns what works on one task after another."""

    def work(take: Take) -> None:
        while (task := take()) is not None:
            try:
                found = localize(task.path, task.name, task.settings, task.report)
            except Exception as error:
                task.fail(error, True)
            else:
                task.end(found)

    return work
