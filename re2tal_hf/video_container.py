"""Opening a file as a video: only containers that hold everything themselves, whatever the file is called.

FFmpeg also reads playlists, lists of files, session descriptions and scripts of filters, by their content and not by
their name; these make it open other files of the machine, or addresses. A video may come from a stranger, so what a
container may be is a list of what is allowed, for everyone.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from .value_checks import shown
from .video_shard import ShardError, locate, open_file, open_member

SHOWN_PATH = 500
# FFmpeg's names of the demuxers that are allowed. None of them opens another file with its default options (MOV's
# references to tracks in other files stay closed: enable_drefs and use_absolute_path are off).
CONTAINERS = (
    # What cameras, phones, recorders and the web write.
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "ogg", "asf", "mxf", "dv", "gif", "apng"),
    # Less common, and of older programs.
    *("nut", "ivf", "rm", "wtv", "gxf", "nsv", "nuv", "swf", "pva", "ty", "yuv4mpegpipe", "dhav", "kux"),
    *("film_cpk", "flic", "roq", "smk", "bink"),
    # Sound: opened to say that there is no video in it.
    *("wav", "mp3", "aac", "flac", "aiff", "caf", "ac3"),
)
# Of codecs without a container: they store no times.
RAW_STREAMS = (
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "mpegvideo", "m4v", "mjpeg", "vc1", "vc1test", "dirac"),
    *("cavsvideo", "avs2", "avs3", "dnxhd"),
)
# Of a frame, as of cameras for all directions; one takes about 30 bytes a pixel while it is decoded.
MAX_PIXELS = 8192 * 8192
# MP4 has its index in one of its first boxes, or behind the data.
MAX_BOXES = 64
SAMPLE_SIZES = re.compile(rb"st(?:sz|z2).{8}(.{4})", re.DOTALL)
# How what names other files begins, for the message.
_PLAYLISTS = {
    b"#EXTM3U": "a playlist (HLS)",
    b"ffconcat": "a list of files (concat)",
    b"v=0": "a session description (SDP)",
    b"[playlist]": "a playlist (PLS)",
    b"RTSPtext": "a playlist (QuickTime)",
}
# And of other files that are taken for videos.
_NO_VIDEOS = {
    b"version https://git-lfs": "the pointer of Git LFS in place of the video; run `git lfs pull`",
    b"<!doctype html": "a web page, not a video; download the file itself",
    b"<html": "a web page, not a video; download the file itself",
    b"\x89png": "a picture, not a video",
    b"\xff\xd8\xff": "a picture, not a video",
    b"pk\x03\x04": "an archive, not a video; unpack it",
}
_XML_PLAYLISTS = {
    b"<MPD": "a playlist (DASH)",
    b"<CompositionPlaylist": "a playlist (IMF)",
}


class VideoReadError(ValueError):
    """A file that is not a readable video; the message names the file and what to do."""


def describe(source: str | Path | bytes) -> str:
    """What error messages call a video: of a path all of it, unless it is very long or breaks the line."""
    if isinstance(source, bytes):
        return f"video of {len(source)} bytes"
    text = str(source)
    return text if text.isprintable() and 0 < len(text) <= SHOWN_PATH else shown(text)


def open_container(source: str | Path | bytes, name: str) -> av.container.InputContainer:
    """Opens the container of a video.

    Args:
        source: path of a file or of a member of a shard, or the bytes of one.
        name: what error messages call it.

    Raises:
        VideoReadError: if the file is missing, empty, or not a container that holds a video by itself.
    """
    _check_file(source, name)
    file = _file_for_ffmpeg(source)
    # Nothing but this one file; bytes and members of shards need no protocol at all.
    protocols = "file" if isinstance(file, str) else "none"
    options = {"format_whitelist": ",".join(CONTAINERS + RAW_STREAMS), "protocol_whitelist": protocols}
    try:
        container = av.open(file, options=options, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        reason = _something_else(source) or (
            f"not a video that FFmpeg can open ({error.strerror})"
            if error.errno != errno.EINVAL
            else "not a video in one of the containers that are opened here"
        )
        raise VideoReadError(f"{name}: {reason}; replace it or leave it out.") from error
    assert isinstance(container, av.container.InputContainer)
    return container


def _file_for_ffmpeg(source: str | Path | bytes) -> str | io.RawIOBase | io.BytesIO:
    """The absolute path of a file; of bytes, and of a member of a shard, what reads them and nothing else."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_member(source) or str(Path(source).absolute())


def _check_file(source: str | Path | bytes, name: str) -> None:
    try:
        # Path.is_file raises of paths that are no paths.
        if not isinstance(source, bytes) and os.path.isdir(source):
            raise VideoReadError(f"{name}: this is a folder; name the video files in it.")
        if isinstance(source, bytes):
            size = len(source)
        elif location := locate(source):
            size = location.size
        else:
            raise VideoReadError(f"{name}: there is no such file; check the path.")
        if not size:
            raise VideoReadError(f"{name}: the file is empty; replace it or leave it out.")
        # FFmpeg makes room for as many samples as the index of MP4 names.
        if (samples := _samples_of_index(source, size)) > size:
            raise VideoReadError(
                f"{name}: the file is damaged (its index names {samples} frames in {size} bytes); replace it or leave"
                " it out."
            )
    except ShardError as error:
        raise VideoReadError(str(error)) from error
    except OSError as error:
        raise VideoReadError(f"{name}: cannot be read ({error.strerror}); check the path and its rights.") from error


def _samples_of_index(source: str | Path | bytes, size: int) -> int:
    """The most samples that a video track of MP4 or its kin claims to have; 0 in other containers."""
    place = 0
    for _ in range(MAX_BOXES):
        box = bytes_of(source, 16, place)
        if len(box) < 16 or not box[4:8].isalnum():
            break
        length = int.from_bytes(box[:4], "big") or size
        if length == 1:
            length = int.from_bytes(box[8:16], "big")
        if box[4:8] == b"moov":
            tracks = bytes_of(source, min(length, size), place).split(b"trak")
            found = (match[1] for track in tracks if b"vide" in track for match in SAMPLE_SIZES.finditer(track))
            return max((int.from_bytes(count, "big") for count in found), default=0)
        place += max(length, 8)
    return 0


def until_flushed(items: Iterator[Any]) -> Iterator[Any]:
    """Packets or frames of a container, to the end.

    PyAV fails when it flushes a stream that was not there when the file was opened, as in recordings that were joined;
    by then all others are flushed.
    """
    with contextlib.suppress(IndexError):
        yield from items


def bytes_of(source: str | Path | bytes, count: int, start: int = 0) -> bytes:
    """Bytes of a file from a place on, up to `count` or its end."""
    if isinstance(source, bytes):
        return source[start : start + count]
    with open_file(source) as file:
        file.seek(start)
        return file.read(count)


def open_stream(source: str | Path | bytes, name: str) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Opens the container of a video, and finds its video stream.

    Raises:
        VideoReadError: as `open_container`, or if there is no video in it that can be decoded.
    """
    container = open_container(source, name)
    stream = container.streams.best("video")
    reason = None
    if stream is None or stream.disposition & Disposition.attached_pic:
        reason = "no video in it, only sound or other streams"
    elif stream.codec_context is None:
        reason = "its video codec is unknown to the installed PyAV"
    elif isinstance(stream, av.VideoStream) and stream.width * stream.height > MAX_PIXELS:
        reason = f"its frames of {stream.width}x{stream.height} are larger than any camera's, or the file is damaged"
    if reason:
        container.close()
        raise VideoReadError(f"{name}: {reason}; replace it or leave it out.")
    assert isinstance(stream, av.VideoStream)
    return container, stream


def _something_else(source: str | Path | bytes) -> str | None:
    """Why a file is refused that names others, or is known to be something else."""
    head = bytes_of(source, 4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    kinds = [kind for start, kind in _PLAYLISTS.items() if head.startswith(start)]
    if head.startswith(b"<"):
        kinds += [kind for tag, kind in _XML_PLAYLISTS.items() if tag in head]
    if kinds:
        return f"{kinds[0]}, not a video; what it names is not opened"
    return next((kind for start, kind in _NO_VIDEOS.items() if head[:40].lower().startswith(start)), None)
