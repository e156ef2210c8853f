"""Videos of many containers with something wrong in their bytes, and what is no video, opened and read."""

from __future__ import annotations

import functools
import io
import math
import random
import struct
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutations import Case
from PIL import Image
from video_factory import numbered_frames, write_video

from re2tal_hf.video_reader import VideoReader
from re2tal_hf.video_source import open_video

COUNT, HEIGHT, WIDTH = 8, 32, 48
# Ending -> how it is written.
FORMS: dict[str, dict[str, Any]] = {
    ".mp4": {},
    ".m4v": {"container": "mp4", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ".mov": {"codec": "mjpeg", "pixel_format": "yuvj420p", "b_frames": 0},
    ".qt": {"codec": "png", "pixel_format": "rgb24", "b_frames": 0, "container": "mov"},
    ".mkv": {},
    ".webm": {"codec": "libvpx", "b_frames": 0},
    ".avi": {"codec": "mpeg4", "b_frames": 0},
    ".divx": {"codec": "rawvideo", "b_frames": 0, "container": "avi"},
    ".ts": {"container": "mpegts"},
    ".mpg": {"codec": "mpeg1video", "container": "mpeg"},
    ".flv": {"codec": "flv1", "b_frames": 0},
    ".wmv": {"codec": "wmv2", "b_frames": 0, "container": "asf"},
    ".gif": {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0},
    ".mxf": {"codec": "mpeg2video"},
    ".nut": {"container": "nut"},
    ".ivf": {"codec": "libvpx", "b_frames": 0, "container": "ivf"},
    ".h264": {"container": "h264"},
    ".mj2": {"codec": "mpeg4", "container": "mp4", "display_matrix": (0.0, 1.0, -1.0, 0.0)},
}
PLAYLISTS = [
    b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\nhttp://127.0.0.1:1/x.ts\n",
    b"ffconcat version 1.0\nfile 'other.mp4'\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    b"[playlist]\nFile1=other.mp4\n",
    b"RTSPtext\nrtsp://127.0.0.1:1/x",
]
NUMBERS = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 60_000, 80_000_000, 2**31 - 1, 2**31, 2**32 - 1]


def mutate(draw: random.Random, folder: Path) -> Case:
    """Draws a file and how it is handed over."""
    ending = draw.choice(sorted(FORMS))
    content, note = _content(draw, ending)
    name = f"clip{ending if draw.random() < 0.8 else draw.choice(sorted(FORMS))}"
    (folder / name).write_bytes(content)
    (folder / "other.mp4").write_bytes(encoded(".mp4"))
    source, handed = draw.choice(_ways(folder / name, content))
    size = draw.choice([None, (24, 24)])
    by_path = isinstance(source, str | Path) and draw.random() < 0.5

    def run() -> Any:
        if by_path:
            with VideoReader(source, size=size) as reader:
                return _read(reader, draw.random()), size or (reader.height, reader.width), reader.timeline.seconds
        with open_video(source() if callable(source) else source) as video:
            return _read(video, draw.random()), None, getattr(getattr(video, "timeline", None), "seconds", np.zeros(1))

    names = (name, f"video of {len(content)} bytes", "open file")
    return Case(f"{ending} as {name}, {handed}: {note}", run, names, _check)


def _ways(path: Path, content: bytes) -> list[tuple[Any, str]]:
    return [
        (path, "path"),
        (path, "path"),
        (str(path), "text"),
        (content, "bytes"),
        (lambda: io.BytesIO(content), "open file"),
        ({"path": str(path), "bytes": None}, "mapping"),
        ({"video": {"bytes": content, "path": None}}, "mapping"),
    ]


def _read(video: Any, where: float) -> tuple[float, torch.Tensor]:
    times = [0.0, where * video.duration, video.duration]
    return video.duration, video.frames_at(times)


def _check(result: Any) -> None:
    (duration, frames), size, seconds = result
    assert math.isfinite(duration) and 0 < duration < 86400, f"{duration} s"
    assert frames.dtype == torch.uint8 and frames.shape[:2] == (3, 3), f"{frames.dtype} {list(frames.shape)}"
    assert size is None or frames.shape[2:] == torch.Size(size), f"{list(frames.shape)} and not {size}"
    assert np.isfinite(seconds).all() and (np.diff(seconds) >= 0).all() and seconds[0] >= 0, f"times {seconds[:9]}"
    assert seconds[-1] < duration, f"times to {seconds[-1]} in {duration} s"


def _content(draw: random.Random, ending: str) -> tuple[bytes, str]:
    """The bytes of a file, mostly a damaged video, and what was done to it."""
    if draw.random() < 0.12:
        kind = draw.choice(["playlist", "image", "sound", "short", "noise", "text"])
        return _no_video(draw, kind), kind
    content, notes = encoded(ending), []
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3, 6])):
        change = draw.choice(CHANGES)
        content, note = change(draw, content)
        notes.append(f"{change.__name__} {note}")
    return content, "; ".join(notes)


def _no_video(draw: random.Random, kind: str) -> bytes:
    if kind == "playlist":
        return draw.choice(PLAYLISTS) + draw.choice([b"", encoded(".mp4")])
    if kind == "image":
        file = io.BytesIO()
        Image.new("RGB", draw.choice([(8, 8), (1, 1), (3000, 2)])).save(
            file, draw.choice(["PNG", "JPEG", "BMP", "TIFF"])
        )
        return file.getvalue()
    if kind == "sound":
        return sound()
    if kind == "short":
        return encoded(".mp4")[: draw.randint(0, 40)]
    if kind == "noise":
        return draw.randbytes(draw.randint(1, 5000))
    return draw.choice(
        [b"not a video\n", b"<!doctype html><html/>", b"\0" * 3000, b"G" * 3000, b"version https://git-lfs"]
    )


@functools.cache
def encoded(ending: str) -> bytes:
    """A right video of a form."""
    with tempfile.TemporaryDirectory() as folder:
        return write_video(
            Path(folder) / f"clip{ending}", numbered_frames(COUNT, HEIGHT, WIDTH), **FORMS[ending]
        ).read_bytes()


@functools.cache
def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 8000, 0, "NONE", ""))
        written.writeframes(bytes(4000))
    return file.getvalue()


def flip(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    changed, places = bytearray(content), []
    for _ in range(draw.choice([1, 1, 3, 20])):
        places.append(_place(draw, content))
        changed[places[-1] : places[-1] + 1] = bytes([draw.randrange(256)])
    return bytes(changed), str(places[:3])


def number(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """Writes a number where one may be."""
    form = draw.choice([">I", "<I", ">H", "<H", ">Q"])
    value = min(draw.choice(NUMBERS), 2 ** (8 * struct.calcsize(form)) - 1)
    place = _place(draw, content)
    written = struct.pack(form, value)
    return content[:place] + written + content[place + len(written) :], f"{value} {form} at {place}"


def grow(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """Larger frames, wherever their size stands."""
    form = draw.choice(["<HH", ">HH", "<II", ">II"])
    for sides in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
        size = draw.choice([(60_000, 60_000), (0, 0), (16_000, 16_000), (1, 1), (65_535, 1), (50, 30)])
        content = content.replace(struct.pack(form, *sides), struct.pack(form, *size))
    return content, form


def index_of_mp4(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """A number in a table of MP4, or another name of a box."""
    names = [
        b"stsz",
        b"stts",
        b"stsc",
        b"stco",
        b"ctts",
        b"mvhd",
        b"mdhd",
        b"tkhd",
        b"elst",
        b"trun",
        b"stsd",
        b"moov",
        b"mdat",
    ]
    name = draw.choice([name for name in names if name in content] or [b"\0"])
    place = content.find(name)
    if draw.random() < 0.2:
        return content.replace(name, draw.choice([b"free", b"skip", b"moov"])), str(name)
    place += draw.choice([-4, 8, 12, 16, 20, 24])
    value = draw.choice(NUMBERS)
    return content[: max(place, 0)] + struct.pack(">I", value) + content[max(place, 0) + 4 :], f"{value} in {name!r}"


def cut(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    place = draw.randrange(len(content) + 1)
    return content[:place], f"at {place} of {len(content)}"


def move(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """Leaves a part out, doubles it, or puts it elsewhere."""
    first, last = sorted((_place(draw, content), _place(draw, content)))
    rest, part = content[:first] + content[last:], content[first:last]
    place = _place(draw, rest)
    return draw.choice([rest, content + part, rest[:place] + part + rest[place:]]), f"{first} to {last}"


def join(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    other = draw.choice(sorted(FORMS))
    pieces = draw.choice([(content, encoded(other)), (encoded(other)[:200], content), (draw.randbytes(100), content)])
    return b"".join(pieces), other


CHANGES: list[Callable[[random.Random, bytes], tuple[bytes, str]]] = [
    flip,
    number,
    number,
    grow,
    index_of_mp4,
    cut,
    move,
    join,
]


def _place(draw: random.Random, content: bytes) -> int:
    """A place, half of the time in the header."""
    return draw.randrange(max(1, min(len(content), draw.choice([64, 700, 10**9]))))
