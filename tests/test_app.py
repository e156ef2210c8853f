"""The demo page without a browser: its files, its models, its limits and its API."""

import contextlib
import itertools
import json
import re
import runpy
import shutil
import sys
import threading
import time
import types
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from app_factory import APP, EXAMPLES, HOME, served_page
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hostile_names import HOSTILE_LABELS
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.commands import demo
from re2tal_hf.data.video_limits import VideoError, VideoLimits
from re2tal_hf.demo import localization
from re2tal_hf.demo.annotated_video import draw_captions, write_annotated_video
from re2tal_hf.demo.localization import Localizer, Stopped
from re2tal_hf.demo.settings import Settings, read_settings
from re2tal_hf.demo.timeline import timeline_value
from re2tal_hf.demo.videos import is_playable, write_copy
from re2tal_hf.video_reader import VideoReader, VideoReadError

BOUNCE = {"label": "Bounce", "score": 0.75, "start": 1.5, "end": 3.25}
SWAY = {"label": "Sway <b>&\n-->", "score": 0.5, "start": 0.25, "end": 3661.0}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with served_page(tmp_path_factory.mktemp("uploads"), max_seconds=30, max_megabytes=1) as address:
        yield address


@pytest.fixture(scope="module")
def client(page: str) -> Client:
    return Client(page, verbose=False)


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def localize(client: Client, path: Any, **arguments: Any) -> list[dict[str, Any]]:
    return client.predict(handle_file(path), **{"threshold": 0.05, **arguments}, api_name="/localize")


# Settings


def test_command_line_goes_before_the_environment() -> None:
    environment = {"RE2TAL_MAX_SECONDS": "90", "RE2TAL_TRUST_REMOTE_CODE": "1", "GRADIO_SERVER_NAME": "0.0.0.0"}
    assert read_settings([], {}, APP) == Settings(**HOME)
    changed = Settings(**HOME, max_seconds=90.0, trust_remote_code=True, host="0.0.0.0")
    assert read_settings([], environment, APP) == changed
    assert read_settings(["--max-seconds", "5", "--port", "80"], environment, APP).max_seconds == 5.0
    assert read_settings(["--model", "mine"], {}) == Settings("mine")
    assert read_settings([], {"RE2TAL_MODEL": "mine"}) == Settings("mine")
    with pytest.raises(SystemExit):
        read_settings([], {})


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "ten"])
def test_limits_are_positive_numbers(value: str) -> None:
    with pytest.raises(SystemExit):
        read_settings([], {"RE2TAL_MAX_SECONDS": value}, APP)


def test_the_space_is_deployable_as_it_is() -> None:
    card = yaml.safe_load((APP / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert f"gradio=={card['sdk_version']}" in (APP / "requirements.txt").read_text(encoding="utf-8")
    assert len(EXAMPLES) == 2 and all(path.stat().st_size < 2**20 for path in EXAMPLES)
    assert sum(path.stat().st_size for path in (APP / "model").iterdir()) < 5 * 2**20
    assert not list((APP / "model").glob("*.py"))


@pytest.mark.parametrize("space", ["app", "re2tal_hf/metrics/tal_map"])
def test_a_space_asks_for_the_versions_that_the_package_asks_for(space: str) -> None:
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', (APP.parent / "pyproject.toml").read_text(encoding="utf-8")))
    wanted = (APP.parent / space / "requirements.txt").read_text(encoding="utf-8")
    common = {name: low for name, low in re.findall(r"^([\w-]+)>=([\d.]+)$", wanted, re.M) if name in bounds}
    assert len(common) > 2 and common == {name: bounds[name] for name in common}


# Selection


def test_selection_is_by_score_and_class_in_order_of_time() -> None:
    assert localization.select([BOUNCE, SWAY], 0.75, ["Bounce", SWAY["label"]]) == [BOUNCE]
    assert localization.select([BOUNCE, SWAY], 0.1, [SWAY["label"]]) == [SWAY]
    assert localization.select([BOUNCE, SWAY], 0.1, [SWAY["label"], "Bounce"]) == [SWAY, BOUNCE]


# Videos


def test_of_many_classes_the_best_are_shown_at_first() -> None:
    rows = [{**BOUNCE, "label": f"class {index}", "score": 1 - index / 300} for index in range(200)]
    found = localization.Localization("a.mp4", "a.mp4", 10.0, rows)
    shown = timeline_value(found, 0.3)
    assert len(shown["labels"]) == 200 and shown["ticked"] == [f"class {index}" for index in range(24)]
    few = localization.Localization("a.mp4", "a.mp4", 10.0, rows[:3])
    assert timeline_value(few, 0.3)["ticked"] == few.labels


def test_mp4_with_8_bit_h264_is_played_as_it_is(tmp_path: Path) -> None:
    frames = numbered_frames(8)
    assert is_playable(write_video(tmp_path / "a.mp4", frames))
    assert not is_playable(write_video(tmp_path / "b.mp4", frames, codec="mpeg4"))
    assert not is_playable(write_video(tmp_path / "c.mkv", frames))
    assert not is_playable(write_video(tmp_path / "d.mp4", frames, pixel_format="yuv444p"))
    late = write_video(tmp_path / "e.mp4", frames, timestamps=[1 + number / 25 for number in range(8)])
    assert not is_playable(late)


def test_a_playlist_opens_no_file_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    private = write_video(tmp_path / "private" / "x.ts", numbered_frames(8))
    for name in ("list.m3u8", "list.mp4"):
        path = tmp_path / name
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{private}\n#EXT-X-ENDLIST\n")
        with pytest.raises(VideoError, match=rf"^{name}: a playlist .*not opened"):
            VideoLimits(60, 60, 1000, 1).check(path)
        with pytest.raises(VideoReadError, match="a playlist"):
            write_copy(path, tmp_path / "copy.mp4")
        assert not (tmp_path / "copy.mp4").exists()
    with pytest.raises(VideoReadError, match="a playlist"):
        is_playable(tmp_path / "list.mp4")


def test_copy_keeps_times_and_is_playable(tmp_path: Path) -> None:
    irregular = [0.5 + number * 0.1 + 0.03 * (number % 3) for number in range(40)]
    source = write_video(tmp_path / "source.mkv", numbered_frames(40, 96, 128), 10, timestamps=irregular)
    steps: list[tuple[int, int]] = []
    write_copy(source, tmp_path / "copy.mp4", progress=lambda done, count: steps.append((done, count)))
    assert is_playable(tmp_path / "copy.mp4")
    middles = [later - irregular[0] - 0.03 for later in irregular[1:]]
    with VideoReader(source) as before, VideoReader(tmp_path / "copy.mp4") as after:
        assert abs(before.duration - after.duration) < 0.1
        shown, expected = (frame_numbers(reader.frames_at(middles)) for reader in (after, before))
    assert np.abs(np.subtract(shown, expected)).max() <= 1
    assert steps[-1][0] == steps[-1][1] and len(steps) > 1


def test_copy_is_upright_and_bounded(tmp_path: Path) -> None:
    frames = np.zeros((4, 480, 1280, 3), dtype=np.uint8)
    frames[:, :240] = 200
    source = write_video(tmp_path / "source.mov", frames, display_matrix=(0, -1, 1, 0))
    write_copy(source, tmp_path / "copy.mp4")
    with VideoReader(source) as before, VideoReader(tmp_path / "copy.mp4") as after:
        assert (before.height, before.width) == (1280, 480)
        assert (after.height, after.width) == (854, 320)
        original, copied = (reader.frames_at([0.0])[0, 0].float() for reader in (before, after))
    halves = [(picture[:, : picture.shape[1] // 2].mean() > 100) for picture in (original, copied)]
    assert halves[0] == halves[1]


def limits(**values: float) -> VideoLimits:
    usual: dict[str, Any] = {"max_seconds": 60, "max_megabytes": 1, "max_frames": 1000, "max_gigapixels": 1}
    return VideoLimits(**usual | values)


def test_limits_name_the_file_and_what_is_allowed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", numbered_frames(50), 10)
    with VideoReader(path) as reader:
        gigapixels = 50 * reader.width * reader.height / 1e9
    assert limits(max_seconds=5.1, max_frames=50, max_gigapixels=gigapixels).check(path) == pytest.approx(5.0)
    for change, message in (
        ({"max_seconds": 4}, r"clip\.mp4 lasts 0:0\d minutes; .* up to 0:04 minutes"),
        ({"max_megabytes": 0.001}, r"clip\.mp4 has .* MB; up to 0\.001 MB are taken here"),
        ({"max_frames": 49}, r"clip\.mp4 has more than 49 frames; .* up to 1:00 minutes, 1 MB, 49 frames"),
        ({"max_gigapixels": 0.9 * gigapixels}, r"clip\.mp4 has 50 frames of \d+x\d+: .* gigapixels; taken here"),
    ):
        with pytest.raises(VideoError, match=message):
            limits(**change).check(path)
    with pytest.raises(VideoError, match=r"^gone\.mp4 is no longer here"):
        limits().check(tmp_path / "gone.mp4")


def large_frames(count: int, side: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (count, side, side, 3))


def test_what_costs_much_to_decode_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "re2tal_hf.data.video_limits.VideoReader", lambda path: pytest.fail("it was opened to be decoded")
    )
    many = write_video(tmp_path / "many.mkv", large_frames(1200, 16), 1000)
    pause = write_video(tmp_path / "pause.mkv", numbered_frames(2), timestamps=[0, 90_000])
    slow = write_video(tmp_path / "slow.mp4", numbered_frames(2), timestamps=[0, 61])
    wide = write_video(tmp_path / "wide.mp4", large_frames(2, 4352), options={"preset": "ultrafast"})
    for path, message in (
        (many, "has more than 1,000 frames"),
        (pause, "lasts 1500:00 minutes"),
        (slow, "lasts 1:01 minutes"),
        (wide, "has 2 frames of 4352x4352; taken here are up to .* 4096 pixels a side"),
    ):
        with pytest.raises(VideoError, match=message):
            limits().check(path)


def test_many_streams_are_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "streams.mkv"), "w") as container:
        size = {"width": 16, "height": 16, "pix_fmt": "yuv420p"}
        streams = [container.add_stream("mpeg4", rate=10, **size) for _ in range(40)]
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.raises(VideoError, match="too many streams"):
        limits().check(tmp_path / "streams.mkv")


def test_no_run_takes_longer_than_its_time(uploads: Path) -> None:
    def pipeline(path: str, *, progress: Any, **settings: Any) -> list:
        for window in range(100):
            time.sleep(0.05)
            progress(window, 100)
        return []

    video = shutil.copy(EXAMPLES[0], uploads)
    with pytest.raises(VideoError, match="longer than 0:00 minutes, the time that a video has here"):
        make_localizer(pipeline, max_seconds=0.2).detect(video, "", "me")
    other = write_video(uploads / "other.mkv", numbered_frames(64), 10)
    with pytest.raises(VideoError, match="longer than"):
        make_localizer(lambda path, **settings: [], max_seconds=1e-9).localize(other, "", "me")
    assert not list(uploads.rglob("other.mp4"))


def test_captions_show_how_far_an_action_has_come() -> None:
    frame = np.full((240, 320, 3), 255, dtype=np.uint8)
    early, late = (draw_captions(frame, [BOUNCE], time) for time in (1.6, 3.2))
    bar = [((picture == (255, 176, 0)).all(axis=-1)).sum() for picture in (early, late)]
    assert 0 < bar[0] < bar[1] / 5
    assert (early[:120] == 255).all() and (early[180:] < 128).any()
    for label in HOSTILE_LABELS:
        draw_captions(frame, [{**BOUNCE, "label": label}], 2.0)


def test_actions_are_burnt_in_while_they_last(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", np.full((40, 240, 320, 3), 200, dtype=np.uint8), 10)
    write_annotated_video(source, tmp_path / "out.mp4", [BOUNCE])
    with VideoReader(tmp_path / "out.mp4") as reader:
        darkest = reader.frames_at([1.0, 2.0, 3.0, 3.5]).flatten(1).amin(dim=1).tolist()
    assert darkest[0] > 180 and darkest[3] > 180
    assert max(darkest[1:3]) < 100


def test_a_point_in_time_is_burnt_in_for_a_second(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", np.full((40, 240, 320, 3), 200, dtype=np.uint8), 10)
    write_annotated_video(source, tmp_path / "out.mp4", [{**BOUNCE, "start": 1.5, "end": 1.5}])
    with VideoReader(tmp_path / "out.mp4") as reader:
        darkest = reader.frames_at([1.0, 1.6, 2.3, 3.0]).flatten(1).amin(dim=1).tolist()
    assert min(darkest[0], darkest[3]) > 180 and max(darkest[1:3]) < 100


# Runs


def make_localizer(pipeline: Any, max_seconds: float = 600) -> Localizer:
    shelf = types.SimpleNamespace(pipeline=lambda name: pipeline, own_name="model")
    return Localizer(shelf, limits(max_megabytes=10), max_seconds)  # type: ignore[arg-type]


def test_stop_ends_the_run_of_its_visitor_only(uploads: Path) -> None:
    video = shutil.copy(EXAMPLES[0], uploads)
    reached, stopped = threading.Event(), threading.Event()

    def pipeline(path: str, *, progress: Any, **settings: Any) -> list:
        progress(1, 3)
        reached.set()
        assert stopped.wait(10)
        progress(2, 3)
        return []

    localizer = make_localizer(pipeline)
    with ThreadPoolExecutor() as pool:
        run = pool.submit(localizer.detect, video, "", "me")
        assert reached.wait(10)
        localizer.stop("another")
        localizer.stop("me")
        stopped.set()
        with pytest.raises(Stopped):
            run.result(10)
        assert pool.submit(localizer.detect, video, "", "me").result(10)[0] == []


def test_visitors_wait_in_one_queue_of_a_bounded_length(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = shutil.copy(EXAMPLES[0], uploads)
    monkeypatch.setattr(localization, "MAX_JOBS", 2)
    monkeypatch.setattr(localization, "TICK", 0.01)
    begun: list[str] = []
    told: list[str] = []
    release = threading.Event()
    monkeypatch.setattr("gradio.Progress.__call__", lambda self, *_, desc="", **__: told.append(desc))

    def pipeline(path: str, *, progress: Any, **settings: Any) -> list:
        begun.append(path)
        assert release.wait(10)
        return [BOUNCE]

    localizer = make_localizer(pipeline)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(localizer.detect, video, "", "first")
        while not begun:
            time.sleep(0.01)
        second = pool.submit(localizer.playable, video, "second")
        while "Waiting: 1 before this one" not in told:
            time.sleep(0.01)
        with pytest.raises(VideoError, match="2 videos are here, as many as may wait"):
            localizer.detect(video, "", "third")
        localizer.stop("second")
        with pytest.raises(Stopped):
            second.result(10)
        last = pool.submit(localizer.detect, video, "", "second")
        release.set()
        assert first.result(10)[0] == last.result(10)[0] == [BOUNCE]
    assert localizer._queue.counts == {"done": 2, "failed": 0, "cancelled": 1, "refused": 1} and len(begun) == 2


def test_where_nothing_scores_enough_the_page_gets_the_best(uploads: Path) -> None:
    weak, weaker = ({**BOUNCE, "score": localization.LOWEST_SCORE * share} for share in (0.9, 0.8))
    video = shutil.copy(EXAMPLES[0], uploads)
    for found, shown in (([BOUNCE, weak], [BOUNCE]), ([weak, weaker], [weak]), ([], [])):
        localizer = make_localizer(lambda path, found=found, **settings: found)
        assert localizer.detect(video, "", "me")[0] == shown


def test_gpu_is_asked_for_where_spaces_is_present(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def gpu(duration: int) -> Any:
        assert duration == localization.GPU_SECONDS
        return lambda function: lambda *values: calls.append(json.dumps(values)) or function(*values)

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    localizer = make_localizer(lambda path, **settings: [BOUNCE])
    video = shutil.copy(EXAMPLES[0], uploads)
    assert localizer.detect(video, "", "me")[0] == [BOUNCE]
    assert len(calls) == 1 and json.loads(calls[0])[0] == video


def test_files_of_the_server_are_refused(uploads: Path) -> None:
    localizer = make_localizer(lambda *arguments, **settings: [BOUNCE])
    for path in ("/etc/passwd", str(uploads / ".." / "x.mp4"), str(APP / "app.py")):
        with pytest.raises(VideoError, match="not sent to the page"):
            localizer.detect(path, "", "me")
    with pytest.raises(VideoError, match="no video yet"):
        localizer.detect(None, "", "me")


# API


def test_api_finds_actions(client: Client) -> None:
    found = localize(client, EXAMPLES[0])
    assert found and found == sorted(found, key=lambda row: -row["score"])
    assert {"label", "score", "start", "end"} == set(found[0])
    assert 0 <= found[0]["start"] < found[0]["end"] <= 31
    strong = localize(client, EXAMPLES[0], threshold=found[0]["score"] - 1e-6)
    assert strong == found[:1]


def test_api_offers_one_endpoint(client: Client) -> None:
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/localize"]


def write_sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return path


def test_what_is_no_video_gets_a_message_and_the_page_goes_on(client: Client, tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", numbered_frames(200), 10)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    long = write_video(tmp_path / "long.mp4", numbered_frames(310), 10)
    expected = {
        cut: "cut.mp4: not a video",
        tmp_path / "text.mp4": "text.mp4: not a video",
        tmp_path / "empty.mp4": "empty",
        write_sound(tmp_path / "sound.wav"): "no video in it",
        long: "lasts 0:31 minutes; taken here are up to 0:30 minutes",
    }
    for path, message in expected.items():
        with pytest.raises(AppError, match=re.escape(message)) as error:
            localize(client, path)
        assert str(tmp_path) not in str(error.value) and "/gradio" not in str(error.value)
    with pytest.raises(AppError, match="is not a model's id"):
        localize(client, good, model="/etc")
    assert isinstance(localize(client, good), list)


def test_file_beyond_the_size_is_refused_on_its_way(client: Client, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2 * 2**20))
    with pytest.raises(Exception, match="(?i)size|large|413"):
        localize(client, large)


META = {"_type": "gradio.FileData"}
SECRET = str(APP / "model" / "config.json")
NO_UPLOADS = [
    "http://93.184.215.14/x.mp4",
    "https://example.com/x.mp4",
    SECRET,
    "/proc/self/environ",
    "file:///etc/passwd",
]


def outcome(page: str, endpoint: str, data: list[Any]) -> str:
    """What an endpoint answers, whichever way it is called."""
    import httpx

    if endpoint.startswith("call"):
        started = httpx.post(f"{page}/gradio_api/{endpoint}", json={"data": data})
        if started.status_code != 200:
            return started.text
        event = started.json()["event_id"]
        return httpx.get(f"{page}/gradio_api/call/{endpoint.split('/')[-1]}/{event}", timeout=600).text
    body = {"data": data, "session_hash": "visitor", "fn_index": int(endpoint)}
    joined = httpx.post(f"{page}/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    return httpx.get(f"{page}/gradio_api/queue/data", params={"session_hash": "visitor"}, timeout=600).text


def test_every_input_of_every_endpoint_takes_uploads_only(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    fetched: list[str] = []
    fetch = "gradio.processing_utils.async_ssrf_protected_download"
    monkeypatch.setattr(fetch, lambda url, cache_dir: fetched.append(url))
    config = httpx.get(f"{page}/config").json()
    endpoints = {str(each["id"]): len(each["inputs"]) for each in config["dependencies"] if each["backend_fn"]}
    assert len(endpoints) > 5
    calls = [("call/localize", 3, 0, path) for path in NO_UPLOADS]
    paths = itertools.cycle(NO_UPLOADS)
    calls += [(name, count, place, next(paths)) for name, count in endpoints.items() for place in range(count)]
    for name, count, place, path in calls:
        named = {"path": path, "url": path, "meta": META}
        data: list[Any] = [None] * count
        data[place] = [{"video": named}] if place % 2 else named
        answer = outcome(page, name, data)
        assert "uploads only" in answer and "event: complete" not in answer, (name, place, answer)
    assert fetched == []
    gone = {"path": f"{localization.get_upload_folder()}/gone.mp4", "meta": META}
    assert "no longer here" in outcome(page, "call/localize", [gone, "", 0.3])
    assert "event: error" in outcome(page, "call/localize", [{"path": SECRET}, "", 0.3])


def test_files_of_the_server_have_no_address(page: str) -> None:
    import httpx

    uploads = localization.get_upload_folder()
    for path in (
        SECRET,
        "/etc/passwd",
        uploads,
        f"{uploads}/x.mp4",
        "/proc/self/environ",
        "http://93.184.215.14/x.mp4",
    ):
        assert httpx.get(f"{page}/gradio_api/file={path}").status_code in (403, 404)


def test_requests_are_bounded(page: str) -> None:
    import httpx

    api = f"{page}/gradio_api"
    assert httpx.post(f"{api}/process_recording", files={"video": b"x"}).status_code == 404
    large = b" " * (5 * 2**20)
    assert httpx.post(f"{api}/call/localize", content=large).status_code == 413
    files = [("files", (f"{number}.mp4", bytes(2**19))) for number in range(4)]
    assert httpx.post(f"{api}/upload", files=files).status_code == 413
    assert httpx.post(f"{api}/upload", files=files[:1]).status_code == 200

    def pieces() -> Iterator[bytes]:
        yield from (b" " * 2**16 for _ in range(100))

    with contextlib.suppress(httpx.HTTPError):
        assert httpx.post(f"{api}/call/localize", content=pieces()).status_code >= 400
    assert httpx.get(f"{page}/config").status_code == 200


def resident_megabytes() -> float:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc here")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]


@pytest.mark.training
def test_eight_visitors_at_once_are_all_answered(page: str, client: Client) -> None:
    expected = [localize(client, path) for path in EXAMPLES]
    before = resident_megabytes()
    clients = [Client(page, verbose=False) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(localize, each, EXAMPLES[number % 2]) for number, each in enumerate(clients)]
        answers = [job.result(600) for job in jobs]
    assert answers == [expected[number % 2] for number in range(8)]
    assert resident_megabytes() - before < 400


@pytest.mark.training
def test_uploads_are_deleted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "mine.mp4", numbered_frames(150), 10)
    with served_page(tmp_path / "uploads", keep_seconds=2) as address:
        client = Client(address, verbose=False)
        assert isinstance(localize(client, video), list)
        assert list((tmp_path / "uploads").rglob("mine.mp4"))
        until = time.monotonic() + 120
        while time.monotonic() < until and list((tmp_path / "uploads").rglob("mine.mp4")):
            time.sleep(0.2)
        left = {path.name for path in (tmp_path / "uploads").rglob("*") if path.is_file()}
        assert left == {path.name for path in EXAMPLES}


def test_page_says_why_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--model", str(tmp_path)])
    # By its path: the metric's page is an app.py too.
    assert runpy.run_path(str(APP / "app.py"))["main"]() == 2
    assert "no config.json in it" in capsys.readouterr().err
    assert demo.main(["--model", str(tmp_path)]) == 1
    assert "no config.json in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "data",
    [
        [None, "", 0.3],
        [None, None, 0.3],
        ["UPLOAD", None, 0.3],
        ["UPLOAD", ["a"], 0.3],
        ["UPLOAD", "", "high"],
        ["UPLOAD", "", None],
        ["UPLOAD", "", 30],
        ["UPLOAD", "x" * 5000, 0.3],
        [5, "", 0.3],
        ["a.mp4", "", 0.3],
        [{"video": {}}, "", 0.3],
        [{"path": None}, "", 0.3],
        [],
        ["UPLOAD"],
        {"video": 1},
        None,
    ],
)
def test_errors_of_the_api_say_something(page: str, data: Any) -> None:
    import httpx

    if isinstance(data, list) and data[:1] == ["UPLOAD"]:
        with EXAMPLES[0].open("rb") as file:
            [path] = httpx.post(f"{page}/gradio_api/upload", files={"files": file}).json()
        data = [{"path": path, "meta": META}, *data[1:]]
    answer = outcome(page, "call/localize", data)
    assert not re.search(r'data: null|"(error|detail)": ?null|traceback', answer.lower())
    assert re.search(r"[a-z]{3,} [a-z]{2,}", answer.removeprefix("event: error")), answer


def test_an_error_that_nobody_expected_says_so(page: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyError("/a/path/of/the/server")

    monkeypatch.setattr(Localizer, "detect", fail)
    with pytest.raises(AppError, match="the page has a fault; its log says more. .KeyError.") as error:
        localize(client, EXAMPLES[0])
    assert "/a/path" not in str(error.value)
