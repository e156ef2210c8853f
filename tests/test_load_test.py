"""`scripts/load_test.py`: it counts what a service does with many clients, and finds what one loses."""

import json
import os
import runpy
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
import uvicorn  # noqa: E402

from re2tal_hf.annotate.server import listen  # noqa: E402
from re2tal_hf.data.video_limits import VideoError  # noqa: E402
from re2tal_hf.serving.keys import Keys  # noqa: E402
from re2tal_hf.serving.server import Server, ServerOptions  # noqa: E402
from re2tal_hf.serving.tasks import one_at_a_time  # noqa: E402

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "load_test.py"
VIDEO = b"a video" * 1000


@pytest.mark.training
@pytest.mark.parametrize("refuses", [False, True])
def test_a_service_that_refuses_good_videos_is_found(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def localize(path: Path, name: str, settings: dict, progress: Any) -> list[dict[str, Any]]:
        if refuses or path.read_bytes() != VIDEO:
            raise VideoError("this is no video")
        return [{"label": "jump", "score": 0.5, "start": 0.0, "end": 1.0}]

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a.mp4").write_bytes(VIDEO)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(main.__globals__, "SAMPLE_SECONDS", 0.2)
    monkeypatch.setitem(main.__globals__, "memory", lambda pid: 100.0)
    app = Server(one_at_a_time(localize), Keys([]), ServerOptions(max_jobs=1)).app
    with listen(0) as opened:
        address = f"http://127.0.0.1:{opened.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        asked = ["--clients=3", "--minutes=0.05", f"--address={address}", f"--pid={os.getpid()}"]
        monkeypatch.setattr(sys, "argv", ["load_test.py", *asked, str(tmp_path / "a.mp4")])
        try:
            code = main()
        finally:
            server.should_exit = True
            thread.join()
    report = json.loads(capsys.readouterr().out)
    assert report["files_left"] == [] and report["memory_mib_peak"] == 100
    if refuses:
        assert code == 1 and "good: lost: failed, this is no video" in report["lost"]
    else:
        assert code == 0 and report["lost"] == [] and report["jobs"]["good: done"] > 0


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([("run", 0.5, 1.0)], False),
        ([("run", 0.5009, 1.0005), ("jump", 0.4, 3.0)], True),
        ([("run", 0.502, 1.0), ("jump", 0.4, 3.0)], False),
        ([("run", 0.5, 1.002), ("jump", 0.4, 3.0)], False),
        ([("run", 0.5, 1.0), ("run", 0.4, 3.0)], False),
        ([("run", 0.5, 1.0), ("jump", 0.4, 3.0), ("jump", 0.3005, 7.0)], True),  # there by rounding alone
        ([("run", 0.5, 1.0), ("jump", 0.4, 3.0), ("jump", 0.302, 7.0)], False),
    ],
)
def test_answers_are_alike_up_to_rounding(other: list[tuple[str, float, float]], same: bool):
    def answer(rows: list[tuple[str, float, float]]) -> str:
        return json.dumps(
            [{"label": label, "score": score, "start": start, "end": 9.0} for label, score, start in rows]
        )

    alike = runpy.run_path(str(SCRIPT))["alike"]
    one = answer([("run", 0.5, 1.0), ("jump", 0.4, 3.0)])
    assert alike(one, answer(other), 0.001) is alike(answer(other), one, 0.001) is same
