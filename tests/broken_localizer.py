"""Stands for a model in another process, which does what the name of the video says."""

import contextlib
import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from re2tal_hf.data.video_limits import VideoError
from re2tal_hf.serving.batches import Batches
from re2tal_hf.serving.localizer import VideoWindow
from re2tal_hf.serving.tasks import Stopped, Work, one_at_a_time


def make() -> Work:
    return one_at_a_time(localize)


def make_batches() -> Work:
    return Batches(BrokenLocalizer(4))  # type: ignore[arg-type]


def make_none() -> Any:
    raise ValueError("there is no such model")


def localize(path: Path, name: str, settings: dict, progress: Any) -> list[dict[str, Any]]:
    with contextlib.suppress(Stopped if name == "deaf" else ()):
        progress(1, 2)
    if name == "crash":
        os._exit(3)
    if name == "refused":
        raise VideoError("refused is no video")
    if name == "fault":
        raise RuntimeError("of a library")
    if name == "deaf":
        time.sleep(3600)
    while name == "long":
        time.sleep(0.01)
        progress(1, 2)
    return [{"label": name, "score": 0.1 + 0.2, "start": 0.0, "end": float(os.getpid()), **settings}]


class BrokenLocalizer:
    """Stands for the localizer of batches; the names of videos end with their number of windows, as in `crash:2`.

    Attributes:
        batches: Those that went through the model, of the names of the windows.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.batches: list[list[str]] = []

    def windows(self, path: Path, name: str) -> Generator[VideoWindow, None, None]:
        kind, _, count = name.partition(":")
        for number in range(1, int(count) + 1):
            if kind == "refused" and number == int(count):
                raise VideoError("refused is no video")
            if kind == "crash" and number == int(count):
                os._exit(3)
            if kind == "deaf":
                time.sleep(3600)
            yield VideoWindow({"name": kind}, number, int(count))

    def forward(self, windows: Sequence[VideoWindow]) -> list[dict[str, Any]]:
        names = [window.inputs["name"] for window in windows]
        self.batches.append([f"{window.inputs['name']}{window.number}" for window in windows])
        if "fault" in names:
            raise RuntimeError("of a library")
        return [{"name": name} for name in names]

    def detections(self, outputs: list[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
        names = {output["name"] for output in outputs}
        return [{"label": name, "score": 0.5, "start": 0.0, "end": float(os.getpid())} for name in names]
