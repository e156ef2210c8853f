"""Actions in streams: the same as in the whole file, said once, through losses and gaps."""

import contextlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from typing import Any

import av
import numpy as np
import pytest
import torch
from app_factory import APP, EXAMPLES
from rtsp_camera import rtsp_camera
from run_factory import small_pipeline
from video_factory import numbered_frames, write_video

from re2tal_hf import Re2TALVideoProcessor
from re2tal_hf.commands.__main__ import main
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.streaming.address import Losses, Source, without_password
from re2tal_hf.streaming.connection import Connection, Picture
from re2tal_hf.streaming.localization import DROPPED, Summary, _Localizer, _Reader, stream
from re2tal_hf.streaming.merging import Merger, ends_of_groups, no_candidates
from re2tal_hf.streaming.sampling import PartEnd, PartStart, WindowGrid, sampled
from re2tal_hf.video_detections import merge_candidates
from re2tal_hf.video_reader import VideoReader, VideoReadError

RATE = 10.0
QUICK = Losses(retries=2, wait=0.05, timeout=5.0)


@pytest.fixture(scope="module")
def processor() -> Re2TALVideoProcessor:
    return Re2TALVideoProcessor(size={"height": 24, "width": 32}, num_frames=16, frame_rate=RATE)


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("streams") / "numbers.ts", numbered_frames(150), keyframe_interval=5)


def items_of(source: str, processor: Re2TALVideoProcessor, losses: Losses = QUICK) -> list[Any]:
    opened = Source(source, losses)
    return list(sampled(Connection(opened, losses.retries, losses.wait), processor))


def assert_those_of_the_file(items: list[Any], path: Path, processor: Re2TALVideoProcessor) -> None:
    """One part, with the frames to the bit and the duration that a reader of the file gives."""
    with VideoReader(path) as reader:
        whole = processor.whole_video("video", reader.duration)
        expected = processor.read_frames(reader, whole)
    assert items[0] == PartStart(0.0) and items[-1] == PartEnd(whole.duration)
    assert torch.equal(torch.stack(items[1:-1]), expected)


class Answers(BaseHTTPRequestHandler):
    """Answers with what the server has for a path: bytes, or what writes the answer itself."""

    def do_GET(self) -> None:
        content = self.server.contents.get(self.path)
        if content is None:
            self.send_error(404)
        elif callable(content):
            content(self)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def served(contents: dict[str, bytes | Callable]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.contents = contents
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_frames_and_duration_are_those_of_the_file(ending: str, tmp_path: Path, processor: Re2TALVideoProcessor):
    steps = np.random.default_rng(0).uniform(0.02, 0.3, 40)
    times = [0.0, *np.cumsum(steps).tolist()]
    for name, timestamps in (("even", None), ("uneven", times)):
        path = write_video(tmp_path / f"{name}.{ending}", numbered_frames(41), timestamps=timestamps)
        assert_those_of_the_file(items_of(str(path), processor), path, processor)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_windows_are_those_that_are_planned_for_a_file(processor: Re2TALVideoProcessor, overlap: float):
    step = max(1, round(16 * (1 - overlap)))
    for count in range(1, 60):
        grid = WindowGrid(16, step)
        found = [grid.add(torch.tensor([number])) for number in range(count)] + [grid.finish()]
        got = [(first, frames.flatten().tolist()) for first, frames in filter(None, found)]
        planned = processor.windows("video", count / RATE, overlap=overlap)
        starts = [(round(window.start * RATE), window.num_frames) for window in planned]
        assert got == [(first, list(range(first, first + length))) for first, length in starts]


def drawn_candidates(generator: np.random.Generator, start: float, count: int = 30) -> tuple:
    """Segments of a window of 8 seconds, none of them before it."""
    begins = torch.from_numpy(start + generator.uniform(0, 6, count))
    lengths = torch.from_numpy(generator.uniform(0.05, 1.2, count))
    scores = torch.from_numpy(generator.uniform(0, 1, count) ** 3)
    order = scores.argsort(descending=True, stable=True)
    segments = torch.stack([begins, begins + lengths], dim=1)[order]
    return segments, scores[order], torch.from_numpy(generator.integers(0, 3, count))


SETTINGS = {
    "nms_method": "soft",
    "nms_sigma": 0.5,
    "nms_iou_threshold": 0.4,
    "nms_min_score": 0.001,
    "nms_per_class": True,
    "point_window": None,
    "voting_threshold": None,
    "max_detections": 10_000,
}


@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"nms_method": "hard"}, {"nms_method": "none"}, {"nms_per_class": False}, {"voting_threshold": 0.7}),
        *(
            {"point_window": 0.8},
            {"point_window": 0.8, "nms_method": "hard"},
            {"point_window": 0.8, "voting_threshold": 0.7},
        ),
    ],
    ids=lambda changed: "-".join(f"{name}={value}" for name, value in changed.items()) or "soft",
)
def test_what_is_said_is_what_the_whole_video_gives(changed: dict[str, Any]):
    settings = SETTINGS | changed
    generator = np.random.default_rng(3)
    windows = [drawn_candidates(generator, 4.0 * number) for number in range(40)]
    merger = Merger(settings, threshold=0.3, delay=40.0)
    said, waited = [], []
    for number, window in enumerate(windows[:-1]):
        start = 4.0 * number
        found = merger.add(window, horizon=start, now=start + 8)
        said.append(found)
        waited += (start + 8 - found[0][:, 1]).tolist()
    said.append(merger.finish(windows[-1], 40 * 4 + 4.0))
    assert merger.num_cut == merger.num_late == 0
    segments, scores, labels = merge_candidates(windows, settings)
    whole = sorted(zip(labels.tolist(), scores.tolist(), segments.tolist(), strict=True))
    whole = [row for row in whole if row[1] >= 0.3]
    parts = [torch.cat(columns) for columns in zip(*said, strict=True)]
    got = sorted(zip(parts[2].tolist(), parts[1].tolist(), parts[0].tolist(), strict=True))
    assert len(got) == len(whole) > 100
    assert [row[:2] for row in got] == [row[:2] for row in whole]
    if settings["voting_threshold"] is None:
        assert got == whole
    else:  # a mean over fewer candidates adds up in another order
        assert np.abs(np.array([row[2] for row in got]) - [row[2] for row in whole]).max() < 1e-12
    assert 0 < max(waited) < 40


def test_a_group_that_does_not_end_is_cut_and_memory_is_bounded():
    merger = Merger(SETTINGS, threshold=0.3, delay=16.0)
    sizes, said = [], []
    for number in range(100):
        start = 4.0 * number
        segments = torch.tensor([[start, start + 8.5], [start + 1, start + 3]], dtype=torch.float64)
        window = segments, torch.tensor([0.9, 0.6], dtype=torch.float64), torch.zeros(2).long()
        found = merger.add(window, horizon=start, now=start + 8)
        said.append(found[0])
        assert (found[0][:, 1] <= start + 8 - 16.0).all()
        sizes.append(len(merger._open[1]) + len(merger._said[1]))
    assert merger.num_cut == sum(map(len, said)) > 60
    assert max(sizes) < 40 and len(merger._voters[1]) == 0


def test_what_comes_late_is_lowered_by_what_was_said():
    merger = Merger(SETTINGS, threshold=0.3, delay=8.0)
    first = torch.tensor([[1.0, 3.0]], dtype=torch.float64), torch.tensor([0.5]).double(), torch.zeros(1).long()
    assert len(merger.add(first, horizon=0.0, now=8.0)[1]) == 0
    assert merger.add(no_candidates(), horizon=4.0, now=12.0)[0].tolist() == [[1.0, 3.0]]
    late = torch.tensor([[1.0, 3.0]], dtype=torch.float64), torch.tensor([0.9]).double(), torch.zeros(1).long()
    assert len(merger.add(late, horizon=8.0, now=16.0)[1]) == 0  # 0.9 * exp(-1 / 0.5) = 0.12
    assert merger.num_late == 1 and merger.num_cut == 0


def test_touching_segments_are_groups_of_their_own():
    segments = torch.tensor([[0.0, 1.0], [1.0, 2.0], [1.5, 3.0], [0.5, 9.0]], dtype=torch.float64)
    assert ends_of_groups(segments, torch.tensor([0, 0, 0, 1])).tolist() == [1.0, 3.0, 3.0, 9.0]


@pytest.mark.training
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_actions_are_to_the_bit_those_of_the_file(path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["stream", "--model", str(APP / "model"), "--threshold", "0.2", "--exact", str(path)]) == 0
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    expected = load_pipeline(str(APP / "model"))(str(path), threshold=0.2, exact=True)
    assert len(expected) >= 3 and sorted(found, key=lambda row: -row["score"]) == expected
    assert "re2tal predict finds the same in the file." in printed.err


@pytest.mark.parametrize("head", ["actionformer", "spotting"])
def test_an_untrained_model_says_everything_by_the_end(transport_stream: Path, head: str):
    summary = Summary()
    pipe = small_pipeline(head_config={"model_type": head, "hidden_size": 16, "num_levels": 3})
    found = list(stream(pipe, str(transport_stream), threshold=0.5, delay=1e6, summary=summary))
    expected = pipe(str(transport_stream), threshold=0.5)
    assert sorted(found, key=lambda row: -row["score"]) == expected and len(expected) > 20
    assert summary.is_that_of_the_file and summary.actions == len(found)
    pipe.video_processor.max_detections = 10
    list(stream(pipe, str(transport_stream), threshold=0.5, delay=1e6, summary=summary))
    assert not summary.is_that_of_the_file  # of more than it allows for a video the whole file keeps the best


def test_a_file_that_grows(transport_stream: Path, tmp_path: Path, processor: Re2TALVideoProcessor):
    content, path = transport_stream.read_bytes(), tmp_path / "growing.ts"
    path.write_bytes(content[:1000])

    def grow() -> None:
        for start in range(1000, len(content), 20_000):
            time.sleep(0.02)
            with path.open("ab") as file:
                file.write(content[start : start + 20_000])

    thread = threading.Thread(target=grow)
    thread.start()
    items = items_of(str(path), processor, Losses(follow=0.3))
    thread.join()
    assert_those_of_the_file(items, transport_stream, processor)


def test_standard_input(transport_stream: Path, processor: Re2TALVideoProcessor, monkeypatch: pytest.MonkeyPatch):
    with transport_stream.open("rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert_those_of_the_file(items_of("-", processor), transport_stream, processor)


def write_playlist(folder: Path, source: Path) -> Path:
    """Segments of a second and a playlist of them; the frames are those of `source`."""
    options = {"hls_time": "1", "hls_list_size": "0"}
    path = folder / "live.m3u8"
    with av.open(str(source)) as video, av.open(str(path), "w", format="hls", options=options) as output:
        stream = output.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return path


def test_a_playlist_in_a_folder_and_at_an_address(transport_stream: Path, tmp_path: Path, processor):
    playlist = write_playlist(tmp_path, transport_stream)
    segments = {f"/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    assert len(segments) > 3
    assert_those_of_the_file(items_of(str(playlist), processor), transport_stream, processor)
    with served(segments) as address:
        assert_those_of_the_file(items_of(f"{address}/live.m3u8", processor), transport_stream, processor)


def test_playlists_stay_closed_to_everything_else(transport_stream: Path, tmp_path: Path):
    playlist = write_playlist(tmp_path, transport_stream)
    with pytest.raises(VideoReadError, match=r"a playlist \(HLS\).*not opened"):
        small_pipeline()(str(playlist))


def test_a_playlist_at_an_address_opens_no_file(transport_stream: Path, tmp_path: Path, processor):
    text = (
        write_playlist(tmp_path, transport_stream)
        .read_text(encoding="utf-8")
        .replace("live", f"file://{tmp_path}/live")
    )
    with served({"/live.m3u8": text.encode()}) as address, pytest.raises(VideoReadError, match="decoded|opened"):
        items_of(f"{address}/live.m3u8", processor)


def test_a_file_at_an_address(transport_stream: Path, processor: Re2TALVideoProcessor):
    with served({"/video.ts": transport_stream.read_bytes()}) as address:
        assert_those_of_the_file(items_of(f"{address}/video.ts", processor), transport_stream, processor)


def breaking(contents: list[bytes]) -> Callable:
    """Answers without a length, each time with the next of the contents; then not any more."""
    left = iter(contents)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = next(left, None)
        if content is None:
            handler.send_error(503)
            return
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def test_a_source_that_breaks_comes_back_as_another_part(
    transport_stream: Path, processor: Re2TALVideoProcessor, caplog: pytest.LogCaptureFixture
):
    content = transport_stream.read_bytes()
    with served({"/live": breaking([content, content])}) as address:
        source = Source(f"{address}/live", QUICK)
        items = sampled(Connection(source, QUICK.retries, QUICK.wait), processor)
        first = list(itertools.takewhile(lambda item: not isinstance(item, PartEnd), items))
        # It ends at once, and not when the source is back.
        assert "lost at 6.00 s" in caplog.text and "goes on" not in caplog.text
        second = list(itertools.takewhile(lambda item: not isinstance(item, PartEnd), items))
        with pytest.raises(VideoReadError, match="lost at 12.* s, and 2 tries did not bring it back"):
            next(items)
    assert first[0] == PartStart(0.0) and second[0].reason == "the connection was lost"
    assert 6.05 <= second[0].offset < 12 and f"goes on at {second[0].offset:.2f} s" in caplog.text
    assert torch.equal(torch.stack(first[1:]), torch.stack(second[1:])) and len(first) == 61


@pytest.mark.training
@pytest.mark.parametrize("ending", ["closed", "silence"])
def test_a_camera_over_rtsp_that_is_lost_and_comes_back(
    ending: str, tmp_path: Path, processor: Re2TALVideoProcessor, caplog: pytest.LogCaptureFixture
):
    path = write_video(tmp_path / "camera.ts", numbered_frames(150, 240, 320), keyframe_interval=5, b_frames=0)
    losses = Losses(retries=2, wait=0.05, timeout=3.0)
    with rtsp_camera([(path, ending), (path, ending)]) as (address, transports):
        source = Source(address.replace("//", "//me:secret@"), losses)
        items = sampled(Connection(source, losses.retries, losses.wait), processor)
        parts = [[next(items), *itertools.takewhile(lambda item: not isinstance(item, PartEnd), items)] for _ in "12"]
        with pytest.raises(VideoReadError, match="lost at .* s, and 2 tries did not bring it back") as raised:
            next(items)
    assert all("TCP" in transport for transport in transports) and len(transports) == 2
    assert_those_of_the_file([*parts[0], PartEnd(6.0)], path, processor)
    assert parts[1][0].reason == "the connection was lost" and len(parts[1]) == len(parts[0]) == 61
    assert torch.equal(torch.stack(parts[0][1:]), torch.stack(parts[1][1:]))
    assert "lost at 6.00 s" in caplog.text and f"goes on at {parts[1][0].offset:.2f} s" in caplog.text
    assert "secret" not in caplog.text + str(raised.value)


def test_actions_before_and_after_a_loss(transport_stream: Path):
    content = transport_stream.read_bytes()
    summary, found = Summary(), []
    with served({"/live": breaking([content, content])}) as address, pytest.raises(VideoReadError, match="tries"):
        for row in stream(small_pipeline(), f"{address}/live", threshold=0.5, losses=QUICK, summary=summary):
            found.append(row)
    assert summary.parts == 2 and summary.actions == len(found)
    offset = summary.seconds - 6.0
    assert offset > 6.0
    parts = [[row for row in found if row["end"] <= 6.0], [row for row in found if row["start"] >= offset]]
    assert len(parts[0]) == len(parts[1]) == len(found) / 2
    for first, second in zip(*parts, strict=True):
        assert first["score"] == second["score"] and second["start"] - offset == pytest.approx(first["start"])


def test_a_clock_that_leaps_starts_a_part(tmp_path: Path, processor: Re2TALVideoProcessor, caplog):
    frames = numbered_frames(50)
    parts = [
        write_video(tmp_path / f"{name}.ts", frames, timestamps=[start + number / 25 for number in range(50)])
        for name, start in (("first", 0.0), ("second", 5000.0))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    items = items_of(str(joined), processor)
    starts = [item for item in items if isinstance(item, PartStart)]
    assert len(starts) == 2 and starts[1].offset == pytest.approx(2.0) and "leaps by 49" in starts[1].reason
    assert "its clock leaps" in caplog.text
    assert [item.duration for item in items if isinstance(item, PartEnd)] == pytest.approx([2.0, 2.0])


def test_a_file_that_is_cut_off_on_its_way_is_an_error_after_what_came(transport_stream: Path, processor):
    content = transport_stream.read_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])

    items = []
    with served({"/cut.ts": answer}) as address:
        source = Source(f"{address}/cut.ts", Losses(retries=0, timeout=30.0))
        with pytest.raises(VideoReadError, match=r"cut.ts: broke off at [23]\.\d\d s .*what follows is missing"):
            for item in sampled(Connection(source, 0, 0.0), processor):
                items.append(item)
    assert isinstance(items[-1], PartEnd) and 2 < items[-1].duration < 4


def test_missing_frames_are_said_and_the_last_one_stays(tmp_path: Path, processor, caplog):
    times = [number / 25 for number in range(20)] + [4 + number / 25 for number in range(20)]
    path = write_video(tmp_path / "gap.mkv", numbered_frames(40), timestamps=times)
    assert_those_of_the_file(items_of(str(path), processor), path, processor)
    assert "no frames from 0.80 s to 4.00 s" in caplog.text


def test_damaged_frames_are_said_and_it_goes_on(transport_stream: Path, tmp_path: Path, processor, caplog):
    content = bytearray(transport_stream.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 188 * 20, 188):
        content[place + 20 : place + 188] = bytes(168)
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(content)
    items = items_of(str(damaged), processor)
    assert sum(isinstance(item, torch.Tensor) for item in items) >= 55
    assert "frames after 3." in caplog.text and "damaged or out of order" in caplog.text


@pytest.mark.parametrize("step", [0.001, 1.0], ids=["in time", "faster than time"])
def test_a_live_source_loses_what_the_model_is_too_slow_for(step: float, transport_stream: Path, caplog):
    source = Source(str(transport_stream), QUICK)
    source.kind = "live"
    reader = _Reader(source, Connection(source, 0, 0.0), _Localizer(small_pipeline(), 0.3, None, Summary()))
    pictures = (Picture(number * step, 0.0, 0.0, None, None, None, None) for number in itertools.count())
    slowly = ((picture, time.sleep(0.002))[0] for picture in pictures)
    kept = reader._kept_up(slowly)
    assert next(kept).start == 0.0
    for _ in range(31):  # of the 32 for which there is room
        reader._items.put(PartStart(0.0))
    timer = threading.Timer(0.05, lambda: [reader._items.get() for _ in range(20)])
    timer.start()
    following = next(kept)
    if step == 1.0:  # whoever puts it into the queue waits there
        assert following.start == 1.0 and following.starts_part is None
    else:
        assert following.start > 0.003 and following.starts_part == DROPPED
        assert "at 0.00 s frames were dropped" in caplog.text
    timer.join()
    assert next(kept).starts_part is None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.mp4", "there is no such file"),
        ("ftp://user:secret@host/a.ts", "ftp://host/a.ts.*no stream is opened by 'ftp'"),
        ("file:///etc/passwd", "no stream is opened by 'file'"),
        ("concat:a.ts|b.ts", "there is no such file"),
        ("http://127.0.0.1:1/a.ts", "cannot be opened as a video .Connection refused"),
    ],
)
def test_wrong_sources_are_one_clear_error(source: str, message: str):
    with pytest.raises(ValueError, match=message) as raised:
        list(stream(small_pipeline(), source, losses=QUICK))
    assert "secret" not in str(raised.value)


def test_wrong_settings_are_refused_at_once(transport_stream: Path):
    pipe, path = small_pipeline(), str(transport_stream)
    with pytest.raises(ValueError, match="delay is 1 s; it must be 1.6 s, the length of a window, or more"):
        stream(pipe, path, delay=1.0)
    with pytest.raises(ValueError, match="threshold is nan"):
        stream(pipe, path, threshold=math.nan)
    with pytest.raises(ValueError, match="follow is for a file"):
        stream(pipe, "http://127.0.0.1/a", losses=Losses(follow=1.0))
    with pytest.raises(ValueError, match="retries is -1"):
        Losses(retries=-1)
    pipe.video_processor.sampling = "resized"
    with pytest.raises(ValueError, match="takes the whole video at once"):
        stream(pipe, path)


def test_passwords_are_not_shown():
    assert without_password("rtsp://me:secret@camera:554/1?a=b@c") == "rtsp://camera:554/1?a=b@c"
    assert without_password("a@b.ts") == "a@b.ts"


@pytest.mark.training
def test_ctrl_c_ends_it_while_a_silent_source_is_waited_for():
    command = [sys.executable, "-m", "re2tal_hf.commands.stream", "--model", str(APP / "model"), "-"]
    environment = {**os.environ, "PYTHONPATH": str(APP.parent)}
    with subprocess.Popen(command, stdin=PIPE, stderr=PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while "An action is said at most 26.7 s after its end." not in (line := process.stderr.readline()):
            assert line, "it ended"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().splitlines()[-1] == "Stopped by Ctrl-C."


def test_a_stream_that_nobody_reads_on_lets_go_of_its_file(transport_stream: Path):
    found = stream(small_pipeline(), str(transport_stream), threshold=0.5)
    next(found)
    before = threading.active_count()
    found.close()
    deadline = time.monotonic() + 5
    while threading.active_count() >= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() < before
