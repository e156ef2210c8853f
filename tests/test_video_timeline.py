import itertools
import logging
import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf import video_reader, video_timeline
from re2tal_hf.video_reader import VideoReader

av.logging.set_level(av.logging.PANIC)

RATE = 25
TORCHCODEC = not isinstance(video_reader._torchcodec_class(), Exception)
BACKENDS = ["pyav", "auto"]
# Seconds after which the clock of MPEG-TS starts again.
WRAP = 2**33 / 90_000


@pytest.fixture(autouse=True)
def each_test_warns_anew():
    video_timeline.tell.cache_clear()


def recording(path: Path, first: int, count: int, start: float = 0.0, **options) -> Path:
    """A video of the frames numbered from `first`, its clock beginning at `start` seconds."""
    frames = numbered_frames(first + count)[first:]
    timestamps = [start + k / RATE for k in range(count)] if start else None
    return write_video(path, frames, RATE, timestamps=timestamps, **options)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def with_sound(path: Path, sound_start: float, picture_start: float, count: int = 25, **options) -> Path:
    """A video with a second of sound from `sound_start` on and `count` frames from `picture_start` on, in seconds."""
    with av.open(str(path), "w", **options) as output:
        picture = output.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = output.add_stream("mp2", rate=16000, layout="mono")
        packets = []
        for number, pixels in enumerate(numbered_frames(count)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, RATE), round(picture_start * RATE) + number
            packets += picture.encode(frame)
        for number in range(28):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 576), np.int16), "s16", "mono")
            silence.sample_rate, silence.time_base = 16000, Fraction(1, 16000)
            silence.pts = round(sound_start * 16000) + 576 * number
            packets += sound.encode(silence)
        packets += picture.encode(None) + sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def numbers_in(path: Path, backend: str, count: int = 12) -> list[int]:
    """Numbers of all frames read in order with PyAV, after checking that other reads have the same pixels."""
    with VideoReader(path, backend="pyav") as reader:
        times = reader.timeline.seconds + 1e-4
        frames = reader.frames_at(times.tolist())
    with VideoReader(path, backend=backend) as reader:
        assert torch.equal(reader.frames_at(times.tolist()), frames)
    with VideoReader(path, backend=backend) as reader:
        for index in random.Random(0).choices(range(len(times)), k=count):
            assert torch.equal(reader.frames_at([times[index]])[0], frames[index]), (path.name, index)
    return frame_numbers(frames)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "starts", "codec"),
    [
        ("again.ts", (0, 0), "libx264"),
        ("later.ts", (0, 500), "libx264"),
        ("earlier.ts", (500, 0), "libx264"),
        ("three.ts", (0, 0, 20), "libx264"),
        ("hevc.ts", (0, 0), "libx265"),
        ("again.mpg", (0, 0), "mpeg2video"),
        ("again.mkv", (0, 0), "libx264"),
        ("again.avi", (0, 0), "mpeg4"),
    ],
)
def test_joined_recordings_are_one_video(tmp_path, caplog, name, starts, codec, backend):
    options = {"options": {"x265-params": "log-level=none"}} if codec == "libx265" else {}
    suffix = Path(name).suffix
    parts = [
        recording(tmp_path / f"{k}{suffix}", 30 * k, 30, start, codec=codec, **options)
        for k, start in enumerate(starts)
    ]
    path = joined(tmp_path / name, *parts)
    numbers = numbers_in(path, backend)
    assert numbers == list(range(30 * len(parts)))
    if suffix != ".avi":  # which counts its frames
        assert f"clock leaps {len(parts) - 1} time" in caplog.text
    with VideoReader(path, backend=backend) as reader:
        assert reader.duration == pytest.approx(1.2 * len(parts), abs=2e-3)
        assert np.diff(reader.timeline.seconds) == pytest.approx(1 / RATE, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_recording_twice(tmp_path, backend):
    """The timestamps of all its frames stand in the file twice."""
    part = recording(tmp_path / "part.ts", 0, 40)
    numbers = numbers_in(joined(tmp_path / "twice.ts", part, part), backend)
    assert numbers == 2 * list(range(40))


def test_a_part_that_begins_between_keyframes(tmp_path):
    """What precedes its first keyframe is lost; until then the frame before stays on screen."""
    whole, part = recording(tmp_path / "whole.ts", 0, 30), recording(tmp_path / "part.ts", 30, 40)
    with av.open(str(part)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keyframe = next(packet for packet in packets[3:] if packet.is_keyframe)
    lost = sum(packet.pts < keyframe.pts for packet in packets)
    content = part.read_bytes()
    start = packets[3].pos - packets[3].pos % 188
    part.write_bytes(content[: 3 * 188] + content[start:])
    numbers = numbers_in(joined(tmp_path / "joined.ts", whole, part), "pyav")
    assert numbers == [*range(30), *range(30 + lost, 70)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clock_that_wraps_and_a_gap_are_no_leaps(tmp_path, caplog, backend):
    wrapping = recording(tmp_path / "wrapping.ts", 0, 60, WRAP - 1.0 - 1.4)
    assert numbers_in(wrapping, backend) == list(range(60))
    first, second = recording(tmp_path / "first.ts", 0, 30), recording(tmp_path / "second.ts", 30, 30, 5.0)
    with VideoReader(joined(tmp_path / "gap.ts", first, second), backend=backend) as reader:
        assert reader.duration == pytest.approx(6.2, abs=0.1)
        assert frame_numbers(reader.frames_at([1.1, 3.0, 5.5])) == pytest.approx([27, 29, 42], abs=2)
    assert "leaps" not in caplog.text


@pytest.mark.parametrize("name", ["joined.mp4", "joined.flv", "joined.wmv"])
def test_a_file_behind_the_first_is_said(tmp_path, caplog, name):
    suffix = Path(name).suffix
    codec = {".flv": "flv", ".wmv": "wmv2"}.get(suffix, "libx264")
    parts = [recording(tmp_path / f"{k}{suffix}", 20 * k, 20, codec=codec, b_frames=0) for k in range(2)]
    with VideoReader(joined(tmp_path / name, *parts)) as reader:
        assert frame_numbers(reader.frames_at([0.0, 9.0])) == [0, 19]
    assert f"{name}: another file begins behind" in caplog.text
    caplog.clear()
    with VideoReader(parts[0]):
        assert not caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["late.mp4", "late.mov", "late.mkv", "late.ts"])
def test_time_0_is_where_a_player_starts(tmp_path, name, backend):
    with VideoReader(with_sound(tmp_path / name, 0.0, 3.0), backend=backend) as reader:
        assert reader.duration == pytest.approx(4.0, abs=0.05)
        assert reader.frame_rate == pytest.approx(RATE, rel=1e-2)
        assert frame_numbers(reader.frames_at([0.0, 2.0, 3.0 + 5.9 / RATE, 3.0 + 20.9 / RATE])) == [0, 0, 5, 20]


def test_several_frames_to_a_timestamp(tmp_path):
    """An MPEG program stream stamps one frame of those that begin in a packet of it."""
    path = with_sound(tmp_path / "sparse.mpg", 0.0, 0.0)
    assert numbers_in(path, "auto") == list(range(25))
    with VideoReader(path) as reader:
        assert np.diff(reader.timeline.seconds) == pytest.approx(1 / RATE, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_that_appears_later(tmp_path, backend):
    """PyAV fails on it at the end of the file, when all that was there from the start is read."""
    silent, loud = recording(tmp_path / "silent.ts", 0, 30), with_sound(tmp_path / "loud.ts", 0.0, 0.0)
    numbers = numbers_in(joined(tmp_path / "joined.ts", silent, silent, loud), backend)
    assert numbers == [*range(30), *range(30), *range(25)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("sound", "picture"), [(0.0, 0.0), (2.0, 0.0), (7.0, 7.0)])
@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.ts"])
def test_a_common_offset_is_no_time_before_the_start(tmp_path, name, sound, picture, backend):
    with VideoReader(with_sound(tmp_path / name, sound, picture), backend=backend) as reader:
        assert reader.duration == pytest.approx(1.0, abs=0.05)
        assert frame_numbers(reader.frames_at([0.0, 10.5 / RATE])) == [0, 10]


def packets_end(path: Path, index: int) -> int:
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
    return packet.pos + packet.size


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("cut.mkv", "libx264", {}),
        ("cut.webm", "libvpx", {}),
        ("cut.mp4", "libx264", {"movflags": "faststart"}),
        ("cut.avi", "libx264", {}),
        ("cut.avi", "mpeg4", {}),
        ("cut.flv", "flv", {}),
        ("cut.wmv", "wmv2", {}),
        ("cut.mxf", "mpeg2video", {}),
    ],
)
def test_a_file_that_was_cut_off_is_said(tmp_path, caplog, name, codec, options):
    b_frames = 2 if codec in ("libx264", "mpeg4") else 0
    path = recording(tmp_path / name, 0, 100, codec=codec, b_frames=b_frames, container_options=options)
    with VideoReader(path):
        assert not caplog.text
    end = path.stat().st_size * 6 // 10 if name == "cut.wmv" else packets_end(path, 39)
    path.write_bytes(path.read_bytes()[:end])
    with VideoReader(path, backend="pyav") as reader:
        there = reader.duration
    assert there == pytest.approx((63 if name == "cut.wmv" else 40) / RATE, abs=0.2)
    assert f"{name}: holds {there:.1f} s of the 4.0 s that its header announces" in caplog.text


@pytest.mark.parametrize("name", ["sound.mkv", "sound.mp4", "sound.avi", "sound.wmv", "sound.ts", "sound.mpg"])
def test_sound_after_the_picture_is_no_sign_of_a_cut(tmp_path, caplog, name):
    """The header announces the longest stream, and the picture may end before it."""
    with VideoReader(with_sound(tmp_path / name, 4.0, 0.0)) as reader:
        assert reader.duration == pytest.approx(1.0, abs=0.05)
    assert not caplog.text


def test_no_real_file_is_warned_of(real_videos, ut_interaction_clips, caplog):
    for path in itertools.chain(sorted(real_videos.iterdir()), sorted(ut_interaction_clips.rglob("*.avi"))[::8]):
        if path.name != "corrupted.mp4":
            VideoReader(path, backend="pyav").close()
    assert not caplog.text


@pytest.mark.parametrize("backend", BACKENDS)
def test_odd_files(odd_videos, caplog, backend):
    joined_numbers = {}
    for path in sorted(odd_videos.glob("*.*")):
        if path.suffix != ".md":
            numbers_in(path, backend)
            with VideoReader(path, backend=backend) as reader:
                joined_numbers[path.name] = (len(reader.timeline.seconds), round(reader.duration, 3))
    assert joined_numbers["h264_bframes.avi"] == (161, 16.1)
    assert joined_numbers["joined.ts"] == (322, 32.2)
    assert joined_numbers["trunc.mkv"] == (24, 2.4)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "joined.ts: its clock leaps 1 time" in warnings[0]
    assert "trunc.mkv: holds 2.4 s of the 6.0 s" in warnings[1]
