"""What a stream may come from, and how each is opened.

Only here are playlists and addresses opened by FFmpeg itself: who names one on his own command line means it. Files of
strangers go through `video_container`, which opens neither.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import av
from av.format import formats_available
from av.stream import Disposition

from ..value_checks import NOT_NEGATIVE, POSITIVE, Range, check_values, fields_of, shown
from ..video_container import CONTAINERS, MAX_PIXELS, RAW_STREAMS, VideoReadError, bytes_of, open_stream

Kind = Literal["file", "growing", "pipe", "playlist", "address", "live", "camera"]

# Protocols that FFmpeg may open for an address, those which it asks for itself included; none of them is "file".
PROTOCOLS = {
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
    "rtsp": "rtsp,rtp,srtp,udp,tcp,tls",
    "rtsps": "rtsp,rtp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tcp,tls",
    "udp": "udp",
}
LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp")
CAMERA = "camera:"
# By the start of the name of a platform.
CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win": "dshow"}
# Demuxers for a source of the user's own, besides those for anyone's file.
OWN_FORMATS = ("hls", "webvtt", "rtsp", "rtp", "sdp")
SECONDS_TO_LOOK = 0.05


@dataclass(frozen=True)
class Losses:
    """What is done about a source that stops.

    Attributes:
        retries: how often in a row a lost connection is tried anew; 0 for never.
        wait: seconds before each try.
        timeout: seconds without data after which a connection counts as lost.
        follow: seconds without growth after which a file that is being written has ended; None if it is complete.

    Raises:
        ValueError: if one is out of range.
    """

    retries: Annotated[int, Range(0, 10**9)] = 10
    wait: Annotated[float, NOT_NEGATIVE] = 2.0
    timeout: Annotated[float, POSITIVE] = 30.0
    follow: Annotated[float | None, POSITIVE] = None

    def __post_init__(self) -> None:
        check_values("", vars(self), fields_of(Losses))


class Source:
    """A stream that can be opened, again and again if it is an address.

    Args:
        text: path of a file or of a playlist (.m3u8), `-` for standard input, an address (http, https, rtsp, rtsps,
            rtmp, rtmps, udp) or `camera:NAME`.
        losses: what is done when it stops.

    Attributes:
        name: what messages call it: without the password in its address.
        kind: what it is.

    Raises:
        ValueError: if it is none of these, or `losses.follow` is not for it.
        VideoReadError: if there is no such file.
    """

    def __init__(self, text: str, losses: Losses):
        self._text = text
        self._losses = losses
        self._stopped = threading.Event()
        self._opened = contextlib.ExitStack()
        self.name = without_password(text)
        self.kind: Kind = _kind(text, losses)

    @property
    def is_repeatable(self) -> bool:
        """Whether opening it anew goes on with what is shown now, and not from its start."""
        return self.kind in ("live", "camera")

    def connect(self, again: bool = False) -> tuple[Any, Any]:
        """Opens it; returns the container and its video stream.

        Args:
            again: after it was lost.

        Raises:
            VideoReadError: if it holds no video.
            av.error.FFmpegError: if it cannot be opened.
        """
        if self.kind == "file":
            return open_stream(self._text, self.name)
        file: Any = self._text
        options, form = {"protocol_whitelist": "none"}, None
        options["format_whitelist"] = ",".join(CONTAINERS + RAW_STREAMS + OWN_FORMATS)
        timeout = (self._losses.timeout, self._losses.timeout)
        if self.kind in ("pipe", "growing"):
            # Not through Python's buffer, whose lock would be held by a thread that waits when the process ends.
            raw = io.FileIO(self._text) if self.kind == "growing" else io.FileIO(sys.stdin.fileno(), closefd=False)
            file = self._opened.enter_context(raw)
            container = av.open(_Incoming(file, self._losses.follow, self._stopped), options=options)
            return container, _video_of(container, self.name)
        if self.kind == "camera":
            form, file = _camera_format(), self._text.removeprefix(CAMERA)
            options = {}
        elif self.kind == "playlist":
            options |= {"protocol_whitelist": "file,crypto", "live_start_index": "0"}
            file = str(Path(self._text).absolute())
        else:
            scheme = urlsplit(self._text).scheme.lower()
            options["protocol_whitelist"] = PROTOCOLS[scheme]
            if scheme in ("rtsp", "rtsps"):
                options["rtsp_transport"] = "tcp"
            if scheme in ("http", "https"):
                # Of a file FFmpeg goes on at the byte where it was cut off.
                options |= {"reconnect": "1", "reconnect_max_retries": str(self._losses.retries)}
                options |= {"live_start_index": "-1"} if again else {}
        container = av.open(file, format=form, options=options, timeout=timeout, metadata_errors="ignore")
        if self.kind == "address" and container.format.name != "hls" and container.size <= 0:
            self.kind = "live"  # nobody knows where it ends
        return container, _video_of(container, self.name)

    def close(self) -> None:
        """Lets go of a file."""
        self._opened.close()

    def stop(self) -> None:
        """Ends waiting for a file to grow."""
        self._stopped.set()

    def wait(self, seconds: float) -> bool:
        """Waits; returns whether it was stopped meanwhile."""
        return self._stopped.wait(seconds)


class _Incoming(io.RawIOBase):
    """A file that is read from its start on and once only, while it may still be written.

    It cannot seek, so that FFmpeg does not look at an end which is none yet.
    """

    def __init__(self, file: io.FileIO, follow: float | None, stopped: threading.Event):
        self._file, self._follow, self._stopped = file, follow, stopped

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        last = time.monotonic()
        while not self._stopped.is_set():
            content = self._file.read(size)
            if content or self._follow is None or time.monotonic() - last > self._follow:
                return content
            self._stopped.wait(SECONDS_TO_LOOK)
        return b""


def without_password(text: str) -> str:
    """An address as it is shown: what stands for a user and a password in it is left out."""
    before, mark, after = text.partition("://")
    host, slash, path = after.partition("/")
    return f"{before}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else text


def _kind(text: str, losses: Losses) -> Kind:
    kind = _kind_of_text(text)
    if losses.follow is not None and kind != "file":
        raise ValueError(f"follow is for a file that is being written; {without_password(text)} is none: leave it out.")
    return "growing" if losses.follow is not None else kind


def _kind_of_text(text: str) -> Kind:
    if text == "-":
        return "pipe"
    if text.startswith(CAMERA):
        _camera_format()
        return "camera"
    scheme, mark, _ = text.partition("://")
    if mark:
        if scheme.lower() not in PROTOCOLS:
            raise ValueError(
                f"{shown(without_password(text))}: no stream is opened by {shown(scheme)}; give a file, or an address "
                f"of {', '.join(PROTOCOLS)}."
            )
        return "live" if scheme.lower() in LIVE else "address"
    if not Path(text).is_file():
        raise VideoReadError(f"{text}: there is no such file; check the path, or give an address with its http:// etc.")
    return "playlist" if bytes_of(text, 7) == b"#EXTM3U" else "file"


def _camera_format() -> str:
    form = next((form for start, form in CAMERA_FORMATS.items() if sys.platform.startswith(start)), "")
    if form not in formats_available:
        raise ValueError(
            "The installed PyAV has no input for cameras. Let ffmpeg read it: "
            "ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | re2tal stream - ..."
        )
    return form


def _video_of(container: Any, name: str) -> Any:
    stream = container.streams.best("video")
    reason = None
    if stream is None or stream.disposition & Disposition.attached_pic or stream.codec_context is None:
        reason = "no video in it that can be decoded"
    elif stream.width * stream.height > MAX_PIXELS:
        reason = f"its frames of {stream.width}x{stream.height} are larger than any camera's"
    if reason:
        container.close()
        raise VideoReadError(f"{name}: {reason}; give another source.")
    return stream
