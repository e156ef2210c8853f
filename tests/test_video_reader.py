import csv
import dataclasses
import io
import logging
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms
from video_factory import Pipe, frame_numbers, numbered_frames, write_video

from re2tal_hf import video_reader
from re2tal_hf.video_reader import VideoReader, VideoReadError

av.logging.set_level(av.logging.PANIC)

TORCHCODEC = not isinstance(video_reader._torchcodec_class(), Exception)
needs_torchcodec = pytest.mark.skipif(not TORCHCODEC, reason="torchcodec does not load here")
BACKENDS = ["pyav", pytest.param("torchcodec", marks=needs_torchcodec)]
COUNT, RATE = 60, 25

# What each kind of file asks of a reader, and how it is written.
KINDS = {
    "h264.mp4": {},
    "h264_open_gop.mp4": {"options": {"x264-params": "open-gop=1"}, "b_frames": 4},
    "h264_intra_refresh.mkv": {"options": {"x264-params": "intra-refresh=1"}},
    "h264.mkv": {},
    "h264.avi": {},
    "h264.ts": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "hevc_open_gop.ts": {"codec": "libx265", "options": {"x265-params": "open-gop=1:log-level=none"}, "b_frames": 4},
    "hevc_open_gop.mkv": {"codec": "libx265", "options": {"x265-params": "open-gop=1:log-level=none"}, "b_frames": 4},
    "hevc_10bit.mp4": {
        "codec": "libx265",
        "pixel_format": "yuv420p10le",
        "options": {"x265-params": "log-level=none"},
    },
    "av1.mkv": {"codec": "libsvtav1", "b_frames": 0, "options": {"preset": "8"}, "size": (64, 64)},
    "vp9.webm": {"codec": "libvpx-vp9", "b_frames": 0, "options": {"deadline": "realtime"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_no_b_frames.avi": {"codec": "mpeg4", "b_frames": 0},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "b_frames": 0},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "raw.h264": {},
    "late_start.mp4": {"timestamps": [5 + k / RATE for k in range(COUNT)]},
    "odd_size.mkv": {"codec": "ffv1", "pixel_format": "yuv444p", "b_frames": 0, "size": (47, 75)},
    "piped.mkv": {"container": "matroska"},
}


@pytest.fixture(scope="session")
def make(tmp_path_factory):
    """Writes each kind of file once."""
    folder = tmp_path_factory.mktemp("videos")
    made = {}

    def make_video(kind):
        if kind not in made:
            options = dict(KINDS[kind])
            codec = options.get("codec", "libx264")
            if codec not in av.codecs_available:
                pytest.skip(f"this PyAV has no {codec}")
            if codec == "libx264":
                options["options"] = {"preset": "fast", **options.get("options", {})}
            frames = numbered_frames(COUNT, *options.pop("size", (48, 64)))
            path = folder / kind
            if "container" in options:
                pipe = Pipe(path)
                write_video(pipe, frames, RATE, **options)
                pipe.close()
            else:
                write_video(path, frames, RATE, **options)
            if codec == "libsvtav1" and sys.platform == "linux":
                # For root it makes this process, and all that it starts later, one of real time.
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            made[kind] = path
        return made[kind]

    return make_video


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["pyav", "auto"])
def test_frame_on_screen(make, kind, backend):
    with VideoReader(make(kind), backend=backend) as reader:
        assert reader.duration == pytest.approx(COUNT / RATE, abs=2e-3)
        assert reader.frame_rate == pytest.approx(RATE, rel=1e-3)
        assert (reader.height, reader.width) == KINDS[kind].get("size", (48, 64))
        starts = [k / RATE for k in range(COUNT)]
        assert frame_numbers(reader.frames_at(starts)) == list(range(COUNT))
    with VideoReader(make(kind), backend=backend) as reader:
        just_before = reader.frames_at([k / RATE - 0.002 for k in range(1, COUNT, 3)])
        assert frame_numbers(just_before) == list(range(0, COUNT - 1, 3))
        # Beyond both ends, out of order, twice, and going back.
        assert frame_numbers(reader.frames_at([99.0, -1.0, 1.01, 1.01])) == [59, 0, 25, 25]
        for first in (40, 7, 23, 50, 0, 31):
            times = [(first + k) / RATE + 0.01 for k in range(0, 9, 4)]
            assert frame_numbers(reader.frames_at(times)) == [first, first + 4, first + 8]


@needs_torchcodec
@pytest.mark.parametrize("kind", KINDS)
def test_backends_give_the_same_pixels(make, kind):
    times = [k / RATE for k in range(0, COUNT, 2)]
    expected = VideoReader(make(kind), backend="pyav").frames_at(times)
    assert torch.equal(VideoReader(make(kind), backend="auto").frames_at(times), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["pyav", "auto"])
def test_frames_do_not_depend_on_the_order_of_reads(make, kind, backend):
    times = [(k + 0.5) / RATE for k in range(COUNT)]
    expected = VideoReader(make(kind), backend=backend).frames_at(times)
    order = np.random.default_rng(0).integers(COUNT, size=15).tolist()
    reader = VideoReader(make(kind), backend=backend)
    for index in order:
        assert torch.equal(reader.frames_at([times[index]])[0], expected[index])


@needs_torchcodec
def test_torchcodec_is_used_where_it_can_be(make):
    for kind, backend in [
        ("h264.mp4", "torchcodec"),
        ("piped.mkv", "torchcodec"),
        ("h264.avi", "pyav"),
        ("h264.ts", "pyav"),
    ]:
        reader = VideoReader(make(kind))
        reader.frames_at([0.0, 1.0])
        assert reader.backend == backend
    with pytest.raises(VideoReadError, match="h264.avi.*backend='pyav'"):
        VideoReader(make("h264.avi"), backend="torchcodec")


def test_torchcodec_that_does_not_load(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    video_reader._torchcodec_class.cache_clear()
    try:
        assert VideoReader(make("h264.mp4")).backend == "pyav"
        with pytest.raises(ImportError, match="FFmpeg's shared libraries"):
            VideoReader(make("h264.mp4"), backend="torchcodec")
    finally:
        video_reader._torchcodec_class.cache_clear()


@pytest.mark.parametrize("backend", BACKENDS)
def test_variable_frame_rate(tmp_path, backend):
    timestamps = [0.0, 0.04, 0.08, 1.0, 1.02, 1.5, 2.5]
    path = write_video(tmp_path / "vfr.mp4", numbered_frames(7), timestamps=timestamps)
    with VideoReader(path, backend=backend) as reader:
        assert reader.duration >= 2.5
        assert reader.frame_rate == pytest.approx(7 / reader.duration)
        times = np.arange(0, 2.6, 0.1)
        expected = np.searchsorted(timestamps, times + 1e-6, side="right") - 1
        assert frame_numbers(reader.frames_at(times)) == expected.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_timestamps_rounded_by_the_container(tmp_path, backend):
    """Matroska has whole milliseconds: frame 2 of 30 Hz is stamped 67 ms, after 2 / 30 s."""
    path = write_video(tmp_path / "ms.mkv", numbered_frames(COUNT), 30)
    with VideoReader(path, backend=backend) as reader:
        frames = reader.frames_at([k / 30 for k in range(COUNT)])
    assert frame_numbers(frames) == list(range(COUNT))


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_matrix"), reason="this PyAV cannot write the matrix")
@pytest.mark.parametrize("backend", ["pyav", "auto"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(
    "matrix", [(x, 0, 0, y) for x in (1, -1) for y in (1, -1)] + [(0, x, y, 0) for x in (1, -1) for y in (1, -1)]
)
def test_display_matrix(tmp_path, backend, pixel_format, matrix):
    """A stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    frames = numbered_frames(5)
    plain = write_video(tmp_path / "plain.mp4", frames, pixel_format=pixel_format)
    turned = write_video(tmp_path / "turned.mp4", frames, pixel_format=pixel_format, display_matrix=matrix)
    stored = VideoReader(plain, backend="pyav").frames_at([0.0, 0.1])
    a, b, c, d = matrix
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    expected = torch.empty(2, 3, row.max() + 1, column.max() + 1, dtype=torch.uint8)
    expected[:, :, row, column] = stored
    with VideoReader(turned, backend=backend) as reader:
        assert (reader.height, reader.width) == expected.shape[2:]
        assert torch.equal(reader.frames_at([0.0, 0.1]), expected)
        assert reader.backend == ("torchcodec" if TORCHCODEC and backend == "auto" and a * d - b * c > 0 else "pyav")


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_matrix"), reason="this PyAV cannot write the matrix")
def test_a_turn_that_is_no_quarter_is_said(tmp_path, caplog):
    matrix = (math.cos(0.3), math.sin(0.3), -math.sin(0.3), math.cos(0.3))
    path = write_video(tmp_path / "skewed.mp4", numbered_frames(5), display_matrix=matrix)
    assert frame_numbers(VideoReader(path).frames_at([0.0])) == [0]
    assert "skewed.mp4: its frames are to be turned by no quarter turn" in caplog.text


@pytest.mark.parametrize(
    ("name", "bright"), [("m_hflip.mp4", (0, 1)), ("m_vflip.mp4", (1, 0)), ("m_transpose.mp4", (0, 0))]
)
def test_real_mirrors(odd_videos, name, bright):
    with VideoReader(odd_videos / name) as reader:
        frame = reader.frames_at([0.5])[0].float().mean(dim=0)
    quarters = frame.unflatten(1, (2, -1)).unflatten(0, (2, -1)).mean(dim=(1, 3))
    assert divmod(int(quarters.argmax()), 2) == bright
    assert frame.shape == ((128, 64) if name == "m_transpose.mp4" else (64, 128))


@pytest.mark.parametrize("backend", BACKENDS)
def test_size(make, backend):
    times = [k / RATE for k in range(COUNT)]
    full = VideoReader(make("h264.mp4"), backend=backend).frames_at(times)
    small = VideoReader(make("h264.mp4"), backend=backend, size=(20, 30)).frames_at(times)
    assert torch.equal(small, transforms.resize(full, [20, 30], antialias=True))
    with VideoReader(make("h264.mp4"), backend=backend, size=(20, 30)) as reader:
        cropped = reader.frames_at(times[:4], resize=lambda frames: frames[..., :8, :8])
        assert torch.equal(cropped, full[:4, :, :8, :8])
        assert torch.equal(reader.frames_at(times[:4]), small[:4])


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_decode_each_frame_once_and_little_at_a_time(make, backend, monkeypatch):
    monkeypatch.setattr(video_reader, "BATCH_BYTES", 5 * 3 * 48 * 64)
    reader = VideoReader(make("h264.mp4"), backend=backend, size=(24, 32))
    batches = []
    read = reader._decoder.read
    reader._decoder.read = lambda indices: batches.append(indices) or read(indices)
    for first in range(0, COUNT - 16 + 1, 8):
        window = reader.frames_at([(first + k) / RATE for k in range(16)])
        assert frame_numbers(window) == list(range(first, first + 16))
        window.zero_()  # what the caller does with it must not reach the next window
    assert sum(batches, []) == list(range(first + 16))
    assert max(map(len, batches)) == 5


def test_goes_back_to_a_keyframe_and_not_to_the_start(make, monkeypatch):
    reader = VideoReader(make("h264.mp4"), backend="pyav")
    reader.frames_at([2.2])
    decoded = []
    keep = reader._decoder._keep
    reader._decoder._keep = lambda frame, index: decoded.append(frame.pts) or keep(frame, index)
    monkeypatch.setattr(reader._decoder, "_restart", lambda: pytest.fail("read from the start"))
    assert frame_numbers(reader.frames_at([1.08])) == [27]
    assert len(decoded) <= 12


def test_a_container_that_seeks_too_far(make):
    reader = VideoReader(make("h264.ts"), backend="pyav")
    gop = int(reader.timeline.keyframes[1] - reader.timeline.keyframes[0])

    class Late:
        """The container, with an index that is one keyframe off."""

        def __init__(self, container):
            self._container = container

        def seek(self, timestamp, stream):
            self._container.seek(timestamp + gop, stream=stream)

        def __getattr__(self, name):
            return getattr(self._container, name)

    reader._decoder._container = Late(reader._decoder._container)
    for first in (50, 20, 35, 3):
        assert frame_numbers(reader.frames_at([first / RATE])) == [first]


def test_a_frame_that_the_decoder_leaves_out(make):
    reader = VideoReader(make("h264.mp4"), backend="pyav")
    timeline = reader.timeline
    between = np.sort(np.append(timeline.timestamps, timeline.timestamps[20] + 1))
    reader.timeline = reader._decoder.timeline = dataclasses.replace(timeline, timestamps=between, starts=between)
    assert frame_numbers(reader.frames_at([0.799, 0.84])) == [19, 21]
    with pytest.raises(VideoReadError, match=r"h264.mp4: the frame at 0\.800 s.*leaves it out"):
        reader.frames_at([0.801])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trimmed_video(tmp_path, backend):
    """What lies before the start of the edit list is in the file, but not in the video."""
    timestamps = [(k - 5) / RATE for k in range(30)]
    path = write_video(tmp_path / "trimmed.mp4", numbered_frames(30), timestamps=timestamps)
    with VideoReader(path, backend=backend) as reader:
        assert reader.duration == pytest.approx(1.0)
        assert frame_numbers(reader.frames_at([k / RATE for k in range(25)])) == list(range(5, 30))


def test_bytes(make):
    data = make("h264.mp4").read_bytes()
    reader = VideoReader(data)
    assert reader.name == f"video of {len(data)} bytes"
    assert torch.equal(reader.frames_at([1.0]), VideoReader(make("h264.mp4")).frames_at([1.0]))
    with pytest.raises(VideoReadError, match="video of 5 bytes"):
        VideoReader(b"hello")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "hevc.mp4"])
def test_threads_share_a_reader(make, kind, backend):
    times = [(k + 0.5) / RATE for k in range(COUNT)]
    expected = VideoReader(make(kind), backend="pyav").frames_at(times)
    reader = VideoReader(make(kind), backend=backend)

    def read(seed):
        for index in np.random.default_rng(seed).integers(COUNT, size=12).tolist():
            assert torch.equal(reader.frames_at([times[index]])[0], expected[index])

    with ThreadPoolExecutor(max_workers=6) as pool:
        list(pool.map(read, range(12)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_while_another_thread_reads(make, backend):
    reader = VideoReader(make("h264.mp4"), backend=backend)

    def read(seed):
        for index in np.random.default_rng(seed).integers(COUNT, size=40).tolist():
            reader.frames_at([index / RATE])

    with ThreadPoolExecutor(max_workers=4) as pool:
        reads = [pool.submit(read, seed) for seed in range(4)]
        time.sleep(0.05)
        reader.close()
    errors = [str(read.exception()) for read in reads if read.exception()]
    assert all("the reader is closed; open the video again" in error for error in errors)
    with pytest.raises(ValueError, match="h264.mp4: the reader is closed"):
        reader.frames_at([0.0])
    reader.close()


def test_threads(make):
    times = [k / RATE for k in range(COUNT)]
    one = VideoReader(make("h264.mp4")).frames_at(times)
    assert torch.equal(VideoReader(make("h264.mp4"), num_threads=3).frames_at(times), one)


@pytest.mark.parametrize("times", [[], [0.0, float("nan")], [float("inf")]])
def test_bad_times(make, times):
    with pytest.raises(ValueError, match="h264.mp4: times"):
        VideoReader(make("h264.mp4")).frames_at(times)


def test_bad_backend(make):
    with pytest.raises(ValueError, match="choose 'auto', 'torchcodec' or 'pyav'"):
        VideoReader(make("h264.mp4"), backend="opencv")


def sound(cover: bool) -> bytes:
    """A sound file, with or without a picture of its cover."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        audio = output.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        if cover:
            picture = output.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = 48, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")
            output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
        output.mux(audio.encode(silence))
        output.mux(audio.encode(None))
    return file.getvalue()


def picture() -> bytes:
    file = io.BytesIO()
    av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24").to_image().save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", lambda: b"", "the file is empty"),
        ("noise.mp4", lambda: np.random.default_rng(0).bytes(10_000), "not a video"),
        ("text.mp4", lambda: b"label,start,end\n" * 500, "not a video"),
        ("notes.txt", lambda: b"a note\n" * 500, "not a video"),
        ("picture.png", picture, "not a video"),
        ("picture.mp4", picture, "not a video"),
        ("sound.m4a", lambda: sound(cover=False), "no video in it"),
        ("sound_with_cover.m4a", lambda: sound(cover=True), "no video in it"),
    ],
)
def test_what_is_not_a_video(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content())
    with pytest.raises(VideoReadError, match=f"{name}: .*{reason}"):
        VideoReader(path)


def test_a_folder_is_not_a_video(tmp_path):
    with pytest.raises(VideoReadError, match="this is a folder"):
        VideoReader(tmp_path)


def overwrite(path, target, first, last, data):
    """Copies a video with `data` over its packets `first` to `last`."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[first : last + 1]:
        content[packet.pos : packet.pos + packet.size] = (data * packet.size)[: packet.size]
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("backend", ["pyav", "auto"])
def test_damage_in_the_middle(make, tmp_path, backend):
    path = overwrite(make("h264.mp4"), tmp_path / "damaged.mp4", 28, 30, b"\0")
    reader = VideoReader(path, backend=backend)
    assert frame_numbers(reader.frames_at([k / RATE for k in range(24)])) == list(range(24))
    for _ in range(2):  # an error does not turn into garbage when asked again
        with pytest.raises(VideoReadError, match=r"damaged.mp4: the frame at 1\.\d\d\d s.*encode"):
            reader.frames_at([k / RATE for k in range(24, 36)])
    assert frame_numbers(reader.frames_at([k / RATE for k in range(48, 60)])) == list(range(48, 60))


@pytest.mark.parametrize("seed", range(5))
def test_frames_patched_up_by_the_decoder_are_refused(make, tmp_path, seed):
    content = bytearray(make("h264.mp4").read_bytes())
    with av.open(str(make("h264.mp4"))) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][25]
    noise = np.random.default_rng(seed).bytes(packet.size // 2)
    content[packet.pos + packet.size - len(noise) : packet.pos + packet.size] = noise
    path = tmp_path / "bits.mp4"
    path.write_bytes(content)
    reader = VideoReader(path, backend="pyav")
    with pytest.raises(VideoReadError, match="bits.mp4"):
        reader.frames_at([k / RATE for k in range(COUNT)])
    # The frames that are built on it look sound to the decoder, and are not.
    with pytest.raises(VideoReadError, match="bits.mp4"):
        reader.frames_at([30 / RATE])


def test_a_file_that_was_cut_off(tmp_path, caplog):
    path = tmp_path / "cut.mp4"
    write_video(path, numbered_frames(COUNT), b_frames=0, container_options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        end = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    path.write_bytes(path.read_bytes()[:end])
    with VideoReader(path) as reader:
        assert "cut.mp4: holds 1.2 s of the 2.4 s that its header announces" in caplog.text
        assert reader.duration == pytest.approx(30 / RATE)
        assert frame_numbers(reader.frames_at([0.0, 1.0, 2.0])) == [0, 25, 29]


@pytest.mark.training
def test_real_files(real_videos):
    paths = sorted(real_videos.iterdir())
    assert len(paths) == 26
    refused = []
    for path in paths:
        try:
            with VideoReader(path, backend="pyav") as reader:
                count = len(reader.timeline.seconds)
                times = np.linspace(0, reader.duration, min(count, 40), endpoint=False)
                frames = reader.frames_at(times)
                assert frames.shape == (len(times), 3, reader.height, reader.width)
                later = reader.frames_at(times[len(times) // 2 :])
                assert torch.equal(later, frames[len(times) // 2 :])
            with VideoReader(path) as reader:
                assert torch.equal(reader.frames_at(times), frames), path.name
        except VideoReadError as error:
            refused.append(path.name)
            assert str(path) in str(error)
    assert refused == ["corrupted.mp4"]


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("video_0.mov", 320, 568), ("video_90.mov", 568, 320), ("video_270.mov", 568, 320)],
)
def test_real_rotation(real_videos, name, height, width):
    with VideoReader(real_videos / name) as reader:
        assert (reader.height, reader.width) == (height, width)
        assert reader.frames_at([0.0]).shape == (1, 3, height, width)


def test_logging_names_the_fallback(make, caplog):
    with caplog.at_level(logging.INFO, logger="re2tal_hf.video_reader"):
        reader = VideoReader(make("raw.h264"))
    assert reader.backend == "pyav"
    assert "raw.h264: read with PyAV" in caplog.text


@pytest.mark.training
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_let_go_of_a_reader(tmp_path):
    """As data loader workers do with readers of the process that started them."""
    path = write_video(tmp_path / "video.mp4", numbered_frames(10), 10.0)
    code = f"""
import gc, os
from re2tal_hf.video_reader import VideoReader
reader = VideoReader({str(path)!r}, backend="pyav")
reader.frames_at([0.0, 0.5])
child = os.fork()
if child == 0:
    del reader
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_placeholders_of_frames_held_back_are_no_frames(ut_interaction_clips):
    with (ut_interaction_clips / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::10]
    for row in rows:
        with VideoReader(ut_interaction_clips / row["file"], backend="pyav") as reader:
            assert abs(reader.duration * reader.frame_rate - int(row["frames"])) <= 1.01
            assert len(reader.frames_at([0.0, reader.duration])) == 2


def test_frames_that_grow_beyond_any_camera_do_not_decode(tmp_path, monkeypatch):
    parts = [write_video(tmp_path / f"{side}.h264", numbered_frames(20, side, side)) for side in (64, 256)]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(joined, backend="pyav") as reader:
        assert reader.frames_at([1.4]).shape[-2:] == (64, 64)
    monkeypatch.setattr(video_reader, "MAX_GROWN_PIXELS", 128 * 128)
    with VideoReader(joined, backend="pyav") as reader:
        reader.frames_at([0.5])
        with pytest.raises(VideoReadError, match="does not decode"):
            reader.frames_at([1.4])
    with VideoReader(parts[1], backend="pyav") as reader:
        assert reader.frames_at([0.5]).shape[-2:] == (256, 256)


@pytest.mark.parametrize(
    ("options", "times", "message"),
    [
        ({"source": 5}, [0.0], "source is 5; it must be the path"),
        ({"source": "x" * 5000}, [0.0], "there is no such file"),
        ({"source": "a\0b"}, [0.0], "there is no such file"),
        ({"size": (0, 16)}, [0.0], r"size\[0\] is 0"),
        ({"size": (10**7, 10**7)}, [0.0], r"size\[0\] is 10000000"),
        ({"size": 16}, [0.0], "size is 16"),
        ({"num_threads": -1}, [0.0], "num_threads is -1"),
        ({"sizes": (8, 8)}, [0.0], "no argument 'sizes'; did you mean 'size'"),
        ({}, "abc", "times is 'abc'"),
        ({}, [], r"times is \[\]"),
        ({}, [[0.0]], r"times is \[\[0.0\]\]"),
        ({}, ["0"], r"times is \['0'\]"),
    ],
)
def test_wrong_arguments_are_named(options, times, message):
    content = io.BytesIO()
    write_video(content, numbered_frames(5), 10, container="mp4", container_options={"movflags": "empty_moov"})
    given = {"source": content.getvalue(), **options}
    with pytest.raises((TypeError, ValueError), match=message) as error, VideoReader(**given) as reader:
        reader.frames_at(times)
    assert len(str(error.value)) < 300
