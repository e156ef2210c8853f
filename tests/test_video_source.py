import contextlib
import io
import tempfile
import threading
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.video_reader import VideoReader, VideoReadError
from re2tal_hf.video_source import FramesInMemory, download, is_video, open_video

RATE = 25.0


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return numbered_frames(60)


@pytest.fixture(scope="module")
def video(tmp_path_factory, frames) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "numbers.mp4", frames, RATE)


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch) -> Path:
    """Where temporary files are made, so that what is left behind shows."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def server(video) -> Iterator[str]:
    content = video.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self):
            if self.path == "/missing.mp4":
                self.send_error(404)
                return
            if self.path == "/moved.mp4":
                self.send_response(302)
                self.send_header("Location", "/video.mp4")
                self.end_headers()
                return
            self.send_response(200)
            if self.path != "/unannounced.mp4":
                length = 2**40 if self.path == "/huge.mp4" else len(content)
                self.send_header("Content-Length", str(length))
            self.end_headers()
            playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n" + bytes(video) + b"\n#EXT-X-ENDLIST\n"
            bodies = {
                "/cut.mp4": content[:1000],
                "/text.mp4": b"x" * len(content),
                "/list.mp4": playlist + b"#" * (len(content) - len(playlist)),
            }
            body = bodies.get(self.path, content)
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_frames_in_memory_are_those_of_the_file(video):
    with VideoReader(video) as reader:
        decoded = reader.frames_at(np.arange(60) / RATE)
        source = FramesInMemory(decoded, reader.frame_rate)
        assert source.duration == pytest.approx(reader.duration)
        for times in (np.arange(0, 2.4, 1 / 15), [-1.0, 0.0, 0.0399, 0.04, 2.39, 99.0], [1.5, 0.2, 1.5]):
            assert torch.equal(source.frames_at(times), reader.frames_at(times))


@pytest.mark.parametrize("rate", [23.976, 29.97, Fraction(30000, 1001), 59.94, 12.5])
def test_the_time_of_a_frame_shows_that_frame(rate):
    count = 250
    source = FramesInMemory(numbered_frames(count, 16, 16), rate)
    assert frame_numbers(source.frames_at([k / float(rate) for k in range(count)])) == list(range(count))
    assert frame_numbers(source.frames_at([(k + 0.9) / float(rate) for k in range(count)])) == list(range(count))


def test_all_forms_of_frames_are_the_same(frames):
    forms = {
        "array": frames,
        "array, channels first": frames.transpose(0, 3, 1, 2),
        "tensor": torch.from_numpy(frames),
        "tensor, channels first": torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(),
        "arrays": list(frames),
        "tensors": tuple(torch.from_numpy(frames)),
        "pictures": [Image.fromarray(frame) for frame in frames],
        "reversed twice": np.ascontiguousarray(frames[::-1])[::-1],
    }
    times = [0.5, 0.1, 2.0]
    for name, form in forms.items():
        assert is_video(form), name
        with open_video(form, RATE) as source:
            shown = source.frames_at(times, resize=lambda batch: batch[..., ::2, ::2])
        assert torch.equal(shown, torch.from_numpy(frames[[12, 2, 50]][:, ::2, ::2]).permute(0, 3, 1, 2)), name


def test_pictures_of_other_modes_become_rgb():
    grey = [Image.fromarray(np.full((8, 6), 7, dtype=np.uint8))] * 2
    shown = FramesInMemory(grey, 1).frames_at([0.0])
    assert shown.shape == (1, 3, 8, 6)
    assert (shown == 7).all()


def test_large_frames_are_resized_a_few_at_a_time():
    source = FramesInMemory([np.zeros((2000, 2000, 3), dtype=np.uint8)] * 4, 1)
    lengths = []
    source.frames_at(range(4), resize=lambda batch: (lengths.append(len(batch)), batch[..., :1, :1])[1])
    assert lengths == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("frames", "rate", "message"),
    [
        (np.zeros((5, 8, 8, 3), np.uint8), None, "video of 5 frames: frame_rate is None"),
        (np.zeros((5, 8, 8, 3), np.uint8), 0, "frame_rate is 0"),
        (np.zeros((5, 8, 8, 3), np.uint8), float("nan"), "frame_rate is nan"),
        (np.zeros((5, 8, 8, 3), np.float32), RATE, "float32; give uint8"),
        (torch.zeros(5, 3, 8, 8), RATE, "float32; give uint8"),
        (np.zeros((5, 8, 8), np.uint8), RATE, r"\(8, 8\); give \[H, W, 3\]"),
        (np.zeros((5, 8, 8, 4), np.uint8), RATE, r"\(8, 8, 4\)"),
        (np.zeros((2, 5, 8, 8, 3), np.uint8), RATE, r"\(5, 8, 8, 3\)"),
        (np.zeros((5, 0, 8, 3), np.uint8), RATE, r"\(0, 8, 3\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), RATE, "at least one frame"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], RATE, r"differ .*\(8, 9, 3\)"),
        ([np.zeros((8, 8, 3), np.uint8), "x"], RATE, "differ .*str"),
        ([np.zeros((8, 8), np.uint8)], RATE, r"\(8, 8\)"),
    ],
)
def test_wrong_frames_are_one_clear_error(frames, rate, message):
    with pytest.raises(ValueError, match=message), open_video(frames, rate):
        pass


def test_mappings(video, frames):
    content = video.read_bytes()
    for form, duration in (
        ({"frames": frames, "frame_rate": 50}, 1.2),
        ({"path": str(video), "bytes": None}, 2.4),
        ({"path": "elsewhere.mp4", "bytes": content}, 2.4),
        ({"path": video}, 2.4),
    ):
        with open_video(form) as source:
            assert source.duration == pytest.approx(duration)
    with pytest.raises(ValueError, match="'frame'"), open_video({"frame": frames}):
        pass
    with pytest.raises(TypeError, match="'frames' of a video are 'x'"), open_video({"frames": "x"}):
        pass


class Decoder:
    """What `torchcodec.decoders.VideoDecoder` has, of a video that starts at a time of its own."""

    def __init__(self, frames: np.ndarray, rate: float, start: float = 0.5):
        self._frames = torch.from_numpy(frames)
        self._rate, self._start = rate, start
        self.metadata = SimpleNamespace(begin_stream_seconds=start, end_stream_seconds=start + len(frames) / rate)

    def get_frames_played_at(self, seconds: list[float]) -> SimpleNamespace:
        if not all(self._start <= second < self.metadata.end_stream_seconds for second in seconds):
            raise RuntimeError("a time is outside of the stream")
        return SimpleNamespace(data=self._frames[[int((second - self._start) * self._rate) for second in seconds]])


@pytest.mark.parametrize("channels_first", [True, False])
def test_decoders(frames, channels_first):
    times = [0.0, 0.05, 0.1, len(frames) / RATE - 0.01, 100.0]
    decoder = Decoder(frames.transpose(0, 3, 1, 2).copy() if channels_first else frames, RATE)
    assert is_video(decoder)
    with open_video(decoder) as source, open_video(frames, RATE) as expected:
        assert source.duration == pytest.approx(expected.duration)
        assert torch.equal(source.frames_at(times), expected.frames_at(times))
        half = source.frames_at(times, resize=lambda batch: batch[..., ::2, ::2])
        assert torch.equal(half, expected.frames_at(times)[..., ::2, ::2])
    with pytest.raises(ValueError, match="frame_rate belongs"), open_video(decoder, RATE):
        pass
    decoder.metadata.end_stream_seconds = 1e3
    with pytest.raises(VideoReadError, match="video of a decoder: cannot be decoded"), open_video(decoder) as source:
        decoder.get_frames_played_at = lambda seconds: (_ for _ in ()).throw(RuntimeError("broken"))
        source.frames_at(times)


def test_open_files(video, tmp_path):
    content = video.read_bytes()
    in_memory = io.BytesIO(content)
    in_memory.seek(7)
    stream = io.BufferedReader(Unseekable(content))
    with open_video(video) as expected, video.open("rb") as file, io.BytesIO() as written:
        written.write(content)
        for form in (file, in_memory, written, stream, bytearray(content), memoryview(content)):
            assert is_video(form)
            with open_video(form) as source:
                assert torch.equal(source.frames_at([0.0, 1.0]), expected.frames_at([0.0, 1.0]))
        assert in_memory.tell() == 7 and not file.closed
    text = (tmp_path / "notes.txt").open("w+")
    with text, pytest.raises(TypeError, match="notes.txt.*'rb'"), open_video(text):
        pass
    with pytest.raises(VideoReadError, match="open file"), open_video(io.BytesIO(b"nothing")):
        pass


class Unseekable(io.RawIOBase):
    """A stream, such as the answer of a server."""

    def __init__(self, content: bytes):
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._content.readinto(buffer)


@pytest.mark.parametrize("embedded", [True, False])
def test_rows_of_a_video_column(video, frames, embedded):
    row = {"path": "elsewhere.mp4", "bytes": video.read_bytes()} if embedded else {"path": str(video), "bytes": None}
    rows = datasets.Dataset.from_dict({"video": [row], "label": [1]}, datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.Value("int64")}
    ))  # fmt: skip
    decoded = Decoder(frames[:1], RATE)  # of datasets, whose own frames are not asked for
    decoded._hf_encoded = rows[0]["video"]
    with open_video(video) as expected:
        for form in (rows["video"][0], rows[0]["video"], rows[0], decoded):
            assert is_video(form)
            with open_video(form) as source:
                assert torch.equal(source.frames_at([0.0, 1.0]), expected.frames_at([0.0, 1.0]))


def test_what_is_no_video(video):
    for thing in (3, None, ["a.mp4"], [np.zeros((4, 8, 8, 3), np.uint8)], []):
        assert not is_video(thing)
        with pytest.raises(TypeError, match="is no video"), open_video(thing):
            pass
    with pytest.raises(ValueError, match="frame_rate belongs to frames"), open_video(video, RATE):
        pass


@pytest.mark.parametrize("name", ["video.mp4", "moved.mp4", "unannounced.mp4"])
def test_urls_are_read_and_nothing_is_left(server, video, temporary_folder, name):
    url = f"{server}/{name}"
    with VideoReader(video) as reader, open_video(url) as source:
        assert source.name == url
        assert source.duration == reader.duration
        assert torch.equal(source.frames_at([0.0, 1.0]), reader.frames_at([0.0, 1.0]))
        assert len(list(temporary_folder.iterdir())) == 1
    assert not list(temporary_folder.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "404 Not Found"),
        ("cut.mp4", "cannot be downloaded"),
        ("text.mp4", "not a video"),
        ("list.mp4", r"a playlist \(HLS\)"),
        ("huge.mp4", "larger than 4096 MiB"),
    ],
)
def test_urls_that_fail_are_named_and_leave_nothing(server, temporary_folder, name, message):
    with pytest.raises(VideoReadError, match=rf"^{server}/{name}: .*{message}"), open_video(f"{server}/{name}"):
        pass
    assert not list(temporary_folder.iterdir())


def test_the_file_of_a_url_is_removed_when_its_reader_fails(server, temporary_folder):
    with contextlib.suppress(KeyboardInterrupt), open_video(f"{server}/video.mp4"):
        raise KeyboardInterrupt
    assert not list(temporary_folder.iterdir())


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x.mp4", "http://", "https://[x/y.mp4", "http://nowhere.invalid/x.mp4", "hf://x"]
)
def test_addresses_that_lead_nowhere_are_named(url, temporary_folder):
    with pytest.raises(VideoReadError) as caught, open_video(url):
        pass
    assert str(caught.value).startswith(f"{url}: cannot be downloaded (")
    assert not list(temporary_folder.iterdir())


@pytest.mark.parametrize("name", ["video.mp4", "unannounced.mp4"])
def test_downloads_are_limited_in_size(server, video, tmp_path, name):
    size = video.stat().st_size
    download(f"{server}/{name}", tmp_path / "whole", max_bytes=size)
    assert (tmp_path / "whole").read_bytes() == video.read_bytes()
    with pytest.raises(VideoReadError, match=f"{name}: larger than 0 MiB"):
        download(f"{server}/{name}", tmp_path / "part", max_bytes=size - 1)
