"""The model of the service in a process of its own: what ends it does not end the service."""

import threading
from pathlib import Path
from typing import Any

import broken_localizer
import pytest

from re2tal_hf.data.video_limits import VideoError
from re2tal_hf.serving import worker
from re2tal_hf.serving.tasks import Progress, Task
from re2tal_hf.serving.worker import WorkerError, WorkerProcess

pytestmark = pytest.mark.training


class Unwanted(Exception):
    pass


def never(done: int, windows: int) -> None:
    pass


def stop_at_first_window(done: int, windows: int) -> None:
    if done:
        raise Unwanted


def test_the_process_begins_anew_only_where_it_had_to_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    process = WorkerProcess(broken_localizer.make)

    def found(name: str, progress: Progress = never) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        failures: list[tuple[Exception, bool]] = []
        end, fail = rows.extend, lambda *failure: failures.append(failure)
        tasks = iter([Task("id of " + name, tmp_path, name, {"top_k": 3}, progress, end, fail)])
        process(lambda: next(tasks, None))
        for error, surely in failures:
            assert surely
            raise error
        [row] = rows
        return row

    first = found("a")
    number = first["end"]
    assert first == {"label": "a", "score": 0.1 + 0.2, "start": 0.0, "end": number, "top_k": 3}
    with pytest.raises(VideoError, match="refused is no video"):
        found("refused")
    with pytest.raises(WorkerError, match=r"Traceback[^$]*RuntimeError: of a library"):
        found("fault")
    with pytest.raises(Unwanted):
        found("long", stop_at_first_window)
    assert found("b")["end"] == number and process.restarts == 0
    with pytest.raises(VideoError, match="The process that worked on crash ended"):
        found("crash")
    second = found("c")["end"]
    assert second != number and process.restarts == 1
    monkeypatch.setattr(worker, "GRACE", 0.1)
    with pytest.raises(Unwanted):
        found("deaf", stop_at_first_window)
    assert found("d")["end"] not in (number, second) and process.restarts == 2
    process.close()


def test_what_keeps_a_model_from_loading_is_said():
    before = threading.enumerate()
    with pytest.raises(ValueError, match="^there is no such model$"):
        WorkerProcess(broken_localizer.make_none)
    assert set(threading.enumerate()) <= set(before)
