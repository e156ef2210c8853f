"""The model of the service in a process of its own: what ends it does not end the service."""

import threading
from pathlib import Path
from typing import Any

import broken_localizer
import pytest

from re2tal_hf.data.video_limits import VideoError
from re2tal_hf.serving import worker
from re2tal_hf.serving.worker import LocalizerProcess, WorkerError

pytestmark = pytest.mark.training


class Unwanted(Exception):
    pass


def never(done: int, windows: int) -> None:
    pass


def stop_at_first_window(done: int, windows: int) -> None:
    if done:
        raise Unwanted


def test_the_process_begins_anew_only_where_it_had_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    localizer = LocalizerProcess(broken_localizer.make)

    def found(name: str, progress: Any = never) -> dict[str, Any]:
        [row] = localizer(tmp_path, name, {"top_k": 3}, progress)
        return row

    first = found("a")
    process = first["end"]
    assert first == {"label": "a", "score": 0.1 + 0.2, "start": 0.0, "end": process, "top_k": 3}
    with pytest.raises(VideoError, match="refused is no video"):
        found("refused")
    with pytest.raises(WorkerError, match=r"Traceback[^$]*RuntimeError: of a library"):
        found("fault")
    with pytest.raises(Unwanted):
        found("long", stop_at_first_window)
    assert found("b")["end"] == process and localizer.restarts == 0
    with pytest.raises(VideoError, match="The process that worked on crash ended"):
        found("crash")
    second = found("c")["end"]
    assert second != process and localizer.restarts == 1
    monkeypatch.setattr(worker, "GRACE", 0.1)
    with pytest.raises(Unwanted):
        found("deaf", stop_at_first_window)
    assert found("d")["end"] not in (process, second) and localizer.restarts == 2
    localizer.close()


def test_what_keeps_a_model_from_loading_is_said():
    before = threading.enumerate()
    with pytest.raises(ValueError, match="^there is no such model$"):
        LocalizerProcess(broken_localizer.make_none)
    assert set(threading.enumerate()) <= set(before)
