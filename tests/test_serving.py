"""The service: what it takes and answers, who may ask, what it tells of its machine and leaves there."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_factory import small_pipeline
from video_factory import numbered_frames, write_video

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from re2tal_hf.commands.serve import main  # noqa: E402
from re2tal_hf.data.detection_files import to_json  # noqa: E402
from re2tal_hf.data.video_limits import VideoLimits  # noqa: E402
from re2tal_hf.serving.batches import Batches  # noqa: E402
from re2tal_hf.serving.keys import Keys, read_keys  # noqa: E402
from re2tal_hf.serving.localizer import Localizer  # noqa: E402
from re2tal_hf.serving.server import Server, ServerOptions  # noqa: E402
from re2tal_hf.serving.tasks import one_at_a_time  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
KEYS = ["first-key-of-the-service", "second-key-of-the-service"]
ACTION = {"label": "jump", "score": 0.1 + 0.2, "start": 0.5, "end": 1.0 / 3 + 1}
LIMITS = VideoLimits(max_seconds=60, max_megabytes=1, max_frames=1000, max_gigapixels=1)
MINUTE = 60.0


class Gate:
    """Stands for a model: holds every video until it is opened, a window at a time."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun: list[str] = []

    def __call__(self, path: Path, name: str, settings: dict, progress: Any) -> list[dict[str, Any]]:
        self.begun.append(name)
        assert path.is_file()
        while not self.opened.wait(0.01):
            progress(1, 2)
        return [ACTION]


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def client_of(localize: Any, keys: Keys | None = None, **options: Any) -> TestClient:
    work = Batches(localize) if isinstance(localize, Localizer) else one_at_a_time(localize)
    server = Server(work, keys or Keys([]), ServerOptions(**options))
    return TestClient(server.app, base_url="http://127.0.0.1")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def until_begun(gate: Gate, name: str) -> None:
    for _ in range(6000):
        if name in gate.begun:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{name} was not begun")


def test_a_video_is_answered_with_what_predict_finds(tmp_path: Path, uploads: Path):
    path = write_video(tmp_path / "clip.mp4", numbered_frames(40), 10)
    pipe = small_pipeline()
    expected = pipe(path, threshold=0.1, top_k=5, exact=True)
    assert 0 < len(expected) <= 5
    with client_of(Localizer(pipe, LIMITS, batch_size=2, exact=True), folders=(tmp_path.resolve(),)) as client:
        settings = {"wait": MINUTE, "threshold": 0.1, "top_k": 5, "name": "../../match.mp4"}
        sent = client.post("/v1/jobs", content=path.read_bytes(), params=settings)
        named = client.post("/v1/jobs", json={"path": "clip.mp4"}, params=settings)
        for answer, name in ((sent, "match.mp4"), (named, "clip.mp4")):
            assert answer.status_code == 200, answer.text
            state = answer.json()
            assert state["actions"] == expected and state["error"] is None
            assert (state["video"], state["status"], state["windows"]) == (name, "done", state["windows_done"])
            result = client.get(f"{answer.headers['location']}/result")
            assert result.text == to_json(expected)
        assert files_in(uploads) == [] and path.is_file()
        assert 'outcome="done"} 2' in client.get("/metrics").text
    assert list(uploads.iterdir()) == []


def test_jobs_wait_in_line_and_no_more_than_may(gate: Gate, uploads: Path):
    with client_of(gate, max_jobs=3) as client:
        jobs = [client.post("/v1/jobs", content=b"video", params={"name": name}) for name in "abc"]
        assert [job.status_code for job in jobs] == [202] * 3
        until_begun(gate, "a")
        refused = client.post("/v1/jobs", content=b"video")
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        states = [client.get(job.headers["location"]).json() for job in jobs]
        assert [state["status"] for state in states] == ["running", "waiting", "waiting"]
        assert [state["position"] for state in states] == [0, 0, 1]
        assert client.get(f"{jobs[1].headers['location']}/result").status_code == 409
        assert len(files_in(uploads)) == 3
        cancelled = client.delete(jobs[1].headers["location"]).json()
        assert cancelled["status"] == "cancelled" and len(files_in(uploads)) == 2
        again = client.post("/v1/jobs", content=b"video", params={"name": "d"})
        assert again.status_code == 202
        gate.opened.set()
        for job in (jobs[0], jobs[2], again):
            assert client.get(job.headers["location"], params={"wait": MINUTE}).json()["actions"] == [ACTION]
        assert gate.begun == ["a", "c", "d"] and files_in(uploads) == []
        metrics = client.get("/metrics").text
        assert 'outcome="done"} 3' in metrics and 'outcome="refused"} 1' in metrics and 'status="waiting"} 0' in metrics


def test_a_job_that_runs_ends_when_it_is_cancelled_and_the_next_one_begins(gate: Gate, uploads: Path):
    with client_of(gate) as client:
        first = client.post("/v1/jobs", content=b"video", params={"name": "a"})
        until_begun(gate, "a")
        client.post("/v1/jobs", content=b"video", params={"name": "b"})
        assert client.delete(first.headers["location"]).json()["status"] == "cancelled"
        until_begun(gate, "b")
        assert len(files_in(uploads)) == 1
        assert client.get(f"{first.headers['location']}/result").status_code == 409
    # The service ends with a job that runs.
    assert list(uploads.iterdir()) == []


def test_a_job_has_its_time(gate: Gate, uploads: Path):
    with client_of(gate, max_run_seconds=0.05) as client:
        state = client.post("/v1/jobs", content=b"video", params={"wait": MINUTE}).json()
        assert state["status"] == "failed" and "took longer than" in state["error"]
        assert files_in(uploads) == []


def test_a_fault_of_the_server_is_told_without_its_words(uploads: Path, caplog: pytest.LogCaptureFixture):
    def broken(path: Path, *_: Any) -> list:
        raise RuntimeError(f"{path} is secret")

    with client_of(broken) as client:
        state = client.post("/v1/jobs", content=b"video", params={"wait": MINUTE}).json()
        assert state["status"] == "failed" and state["id"] in state["error"]
        assert "secret" not in state["error"] and "secret" in caplog.text
        assert str(uploads) not in state["error"] and files_in(uploads) == []
        assert client.post("/v1/jobs", content=b"video", params={"wait": MINUTE}).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#EXTM3U\n/etc/passwd\n", "match.mp4: a playlist (HLS), not a video; what it names is not opened"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "match.mp4: a list of files (concat), not a video"),
        (b"\x00" * 5000, "match.mp4: not a video"),
    ],
)
def test_what_is_no_video_is_refused_as_on_the_page(content: bytes, message: str, uploads: Path):
    with client_of(Localizer(small_pipeline(), LIMITS)) as client:
        state = client.post("/v1/jobs", content=content, params={"name": "match.mp4", "wait": MINUTE}).json()
        assert state["status"] == "failed" and state["error"].startswith(message)
        assert str(uploads) not in state["error"] and files_in(uploads) == []


def test_a_video_beyond_the_limits_is_refused_by_its_name(tmp_path: Path, uploads: Path):
    path = write_video(tmp_path / "long.mp4", numbered_frames(40), 10)
    limits = VideoLimits(max_seconds=3, max_megabytes=1, max_frames=1000, max_gigapixels=1)
    with client_of(Localizer(small_pipeline(), limits)) as client:
        state = client.post("/v1/jobs", content=path.read_bytes(), params={"name": "x.npz", "wait": MINUTE}).json()
        assert state["error"].startswith("x.npz lasts 0:04 minutes; taken here are up to 0:03 minutes")


def pieces(count: int) -> Iterator[bytes]:
    yield from (b"0" * 1000 for _ in range(count))


def test_uploads_that_cannot_be_taken(gate: Gate, uploads: Path):
    with client_of(gate, max_megabytes=0.01, max_jobs=1) as client:
        for content in (b"0" * 20_000, pieces(20)):  # of a length that is announced, and not
            answer = client.post("/v1/jobs", content=content, params={"name": "big.mp4"})
            assert answer.status_code == 413 and "big.mp4 is too large; up to 0.01 MB" in answer.json()["detail"]
        assert client.post("/v1/jobs", content=b"").status_code == 422
        assert client.post("/v1/jobs", files={"file": b"video"}).status_code == 415
        for settings in ({"threshold": 2}, {"threshold": "nan"}, {"top_k": 0}, {"wait": 1e9}):
            assert client.post("/v1/jobs", content=b"video", params=settings).status_code == 422
        # None of them has kept its place.
        assert client.post("/v1/jobs", content=pieces(5)).status_code == 202
        assert len(files_in(uploads)) == 1
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize("ending", ["http.disconnect", "silence"])
def test_an_upload_that_breaks_off_leaves_nothing(ending: str, gate: Gate, uploads: Path):
    client = client_of(gate, max_upload_seconds=0.2 if ending == "silence" else MINUTE)
    parts: list[dict[str, Any]] = [{"type": "http.request", "body": b"0" * 1000, "more_body": True}]
    sent: list[dict[str, Any]] = []

    async def upload() -> None:
        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            if ending == "silence":
                await asyncio.sleep(MINUTE)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "query_string": b"", "headers": headers}
        await client.app(scope | {"http_version": "1.1", "asgi": {"version": "3.0"}}, receive, send)

    with client:
        asyncio.run(upload())
        assert sent[0]["status"] == (408 if ending == "silence" else 400)
        assert files_in(uploads) == [] and gate.begun == []
        assert 'outcome="failed"} 1' in client.get("/metrics").text


def test_paths_are_taken_from_allowed_folders_alone(gate: Gate, tmp_path: Path):
    allowed = tmp_path / "allowed"
    (allowed / "day").mkdir(parents=True)
    for path in (allowed / "day" / "a.mp4", allowed / "features.npz", tmp_path / "secret.mp4"):
        path.write_bytes(b"video")
    (allowed / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (allowed / "circle.mp4").symlink_to(allowed / "circle.mp4")
    os.mkfifo(allowed / "pipe.mp4")
    gate.opened.set()
    with client_of(gate, folders=(allowed.resolve(),)) as client:
        for text in ("day/a.mp4", str(allowed / "day" / "a.mp4"), "day/../day/a.mp4"):
            answer = client.post("/v1/jobs", json={"path": text}, params={"wait": MINUTE})
            assert answer.json()["status"] == "done" and answer.json()["video"] == "a.mp4"
        outside = ["../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "/etc/passwd", "https://host/a.mp4"]
        odd = ["none.mp4", "circle.mp4", "pipe.mp4", "day", "", "features.npz", "a\0b", "x" * 5000, "\ud800"]
        refused = {json.dumps(client.post("/v1/jobs", content=json.dumps({"path": text}),
                   headers={"content-type": "application/json"}).json()) for text in outside + odd}  # fmt: skip
        assert refused == {'{"detail": "There is no such video in an allowed folder."}'}
        for sent in ("{", "[]", '{"path": 3}', "[" * 100_000, '"' + "x" * 2_000_000 + '"'):
            answer = client.post("/v1/jobs", content=sent, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 413, 422)
        assert (allowed / "day" / "a.mp4").is_file()


def test_only_who_has_a_key_is_answered_and_sees_his_own_jobs_only(gate: Gate):
    with client_of(gate, Keys(KEYS)) as client:
        first, second = ({"Authorization": f"Bearer {key}"} for key in KEYS)
        basic = {"Authorization": f"Basic {base64.b64encode(b'anyone:' + KEYS[0].encode()).decode()}"}
        job = client.post("/v1/jobs", content=b"video", headers=first)
        place = job.headers["location"]
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"Authorization": KEYS[0]}):
            for method, path in (("POST", "/v1/jobs"), ("GET", place), ("DELETE", place), ("GET", "/metrics")):
                answer = client.request(method, path, headers=wrong)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").json() == {"status": "UP"}
        assert client.get(place, headers=second).status_code == client.delete(place, headers=second).status_code == 404
        assert client.get(place, headers=first).status_code == client.get(place, headers=basic).status_code == 200


def test_without_keys_other_names_of_the_machine_are_not_answered(gate: Gate):
    with client_of(gate) as client:
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
        schema = client.get("/openapi.json").json()
        assert "application/octet-stream" in schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
        assert client.get("/docs").status_code == 404


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path):
    file = tmp_path / "keys.txt"
    file.write_text(f"# of the lab\n{KEYS[0]}\n\n")
    keys = read_keys(str(file), {"RE2TAL_SERVE_KEYS": f"{KEYS[1]}\n"})
    owners = {keys.owner(f"Bearer {key}") for key in KEYS}
    assert len(owners) == 2 and None not in owners and not any(key in str(owners) for key in KEYS)
    assert keys.owner("Bearer # of the lab") is None and keys.owner("Bearer ") is None
    for content, message in (("", "no key in it"), ("short\n", "less than 16 letters")):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_keys(str(file), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "error: --host 0.0.0.0 lets other machines in: give --keys FILE"),
        (["--allow", "none"], "none: there is no such folder"),
        (["--keys", "none.txt"], "none.txt"),
        (["--port", "0"], "error: MODEL model: neither a folder nor a Hub id"),
    ],
)
def test_mistakes_end_the_command_before_it_listens(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    assert main(["model", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.count("\n") == 1


@pytest.mark.training
def test_the_command_serves_and_leaves_nothing_when_it_is_ended(tmp_path: Path):
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(ROOT)}
    environment["RE2TAL_SERVE_KEYS"] = KEYS[0]
    command = [sys.executable, "-m", "re2tal_hf.commands.serve", str(ROOT / "app/model"), "--port=0", "--exact"]
    video = ROOT / "app/examples/testing_001.mp4"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().partition(",")[0]
            asked = urllib.request.Request(f"{address}?wait=300", video.read_bytes())
            asked.add_header("Authorization", f"Bearer {KEYS[0]}")
            with urllib.request.urlopen(asked) as answer:
                state = json.load(answer)
            assert state["status"] == "done" and {row["label"] for row in state["actions"]} <= {
                "Bounce", "Circle", "Slant", "Sway"
            }  # fmt: skip
            assert len(list((tmp_path / "temporary").glob("re2tal-serve-*"))) == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 128 + signal.SIGTERM
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "Stopped by SIGTERM."
    assert list((tmp_path / "temporary").glob("re2tal-serve-*")) == []
