"""When the frames of a video are on screen, from the timestamps of its packets.

All packets are read once, to the end of the file; nothing is decoded for that.

Time 0 is where a player starts: at the first frame, or at the sound where that comes first. What all streams have in
common (MPEG-TS counts from anywhere) is no time before the start, nor is a tenth of a second by which the sound comes
first. In MPEG-TS and its kin the clock may start again or leap, where recordings were joined or after 26.5 hours;
what follows goes on where the frame before ended.
"""

from __future__ import annotations

import functools
import logging
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np

from .video_container import RAW_STREAMS, VideoReadError, bytes_of, open_container, until_flushed

logger = logging.getLogger(__name__)

# Containers round timestamps to their tick (1 ms in Matroska), by up to half of it. Where a tick is
# a whole frame (AVI) nothing is rounded: hence the limit.
MAX_TIME_TOLERANCE = 5e-4
# Containers whose clock may leap; elsewhere a gap is a gap. The bounds in seconds are those of the ffmpeg program
# (-dts_delta_threshold, and the tenth of a second in ts_discontinuity_detect of fftools/ffmpeg_demux.c).
WITHOUT_DECODING_TIMES = frozenset({"matroska", "nut", "ogg"})
LEAPING_CONTAINERS = frozenset({"mpegts", "mpeg", "ogg", "nsv", "pva"})
MAX_LEAP, MAX_STEP_BACK = 10.0, 0.1
# Containers in which the time that a packet is stamped with may be that of decoding.
LOOSELY_STAMPED = frozenset({"asf", "mxf", "wtv", "gxf", "nsv", "nuv", "rm"})
# Share of packets without a time where frames are stored as two fields, the second without.
SHARE_OF_FIELDS = (0.45, 0.55)
# Sound that starts by less than this before the picture primes its decoder, or was shifted to fit into the container.
MIN_SOUND_LEAD = 0.1
# Sound that starts longer before the picture than this belongs, there, to another programme with a clock of its own.
MAX_SOUND_LEAD = 60.0
# Containers, besides AVI and ASF, whose header says how long they are; that of others FFmpeg estimates from the data.
ANNOUNCING_CONTAINERS = frozenset({"mov", "matroska", "flv", "mxf", "wtv", "rm", "gxf"})
# How files of containers begin that FFmpeg reads to the end of the first where several are joined byte by byte.
BEGINNINGS = {
    "mov": rb"\0\0\0.ftyp[ -~]{4}",
    "flv": rb"FLV\x01[\0\1\4\5]\0\0\0\t",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
}
# Bytes that are searched for it, which follow the data; there MP4 also keeps its index.
TAIL_BYTES = 16 * 2**20
# A clock that is damaged makes days of a few frames.
MAX_SECONDS, MAX_SECONDS_PER_FRAME = 24 * 3600.0, 60.0
# Seconds by which what is there may fall short of the header: it may be rounded, or count a frame more.
MAX_SHORTFALL = 0.5


@dataclass(frozen=True)
class Timeline:
    """When the frames of a stream are shown, in the order in which they are.

    Attributes:
        timestamps: int64 `[N]` in ticks, as decoded frames carry them.
        starts: int64 `[N]`, ticks from the start of the first frame to that of every frame, ascending.
        lead: ticks from the start of the presentation to the first frame.
        duration: seconds from the start of the presentation to the end of the last frame.
        time_base: seconds of a tick.
        keyframes: int64 `[K]` timestamps of the frames at which decoding can start, ascending.
        parts: int64 `[N]`, which of the recordings that were joined a frame is of; ascending.
        told_by: how a decoded frame is told: by its `timestamp`, which is its own; by `sequence`, its timestamp
            among those that follow the frame before, since a clock that leaps says the same twice; or by `count`,
            since timestamps are missing or do not say when frames are shown.
        remarks: what a user of the video is to be told, such as that it may be cut off.
    """

    timestamps: np.ndarray
    starts: np.ndarray
    lead: float
    duration: float
    time_base: Fraction
    keyframes: np.ndarray
    parts: np.ndarray
    told_by: Literal["timestamp", "sequence", "count"]
    remarks: tuple[str, ...] = ()

    @functools.cached_property
    def seconds(self) -> np.ndarray:
        """float64 `[N]`, the start of every frame, ascending."""
        return (self.starts + self.lead) * float(self.time_base)

    @property
    def frame_rate(self) -> float:
        """Mean number of frames per second, from the first on."""
        return len(self.seconds) / (self.duration - float(self.seconds[0]))

    def frames_at(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """Indices of the frames on screen at the given seconds; before the start, of the first."""
        tolerance = min(float(self.time_base) / 2, MAX_TIME_TOLERANCE) + 1e-9
        after = np.searchsorted(self.seconds, np.asarray(times) + tolerance, side="right")
        return np.maximum(after - 1, 0)

    def keyframes_before(self, index: int) -> np.ndarray:
        """The `keyframes` from which a frame can be reached, the nearest first."""
        after = np.searchsorted(self.keyframes, self.timestamps[index], side="right")
        return self.keyframes[:after][::-1]

    def index_after(self, position: int, timestamp: int) -> int | None:
        """The frame of a timestamp that follows the one at `position` (-1: follows none), in its part or the next."""
        following = position + 1
        if following < len(self.timestamps) and self.timestamps[following] == timestamp:
            return following
        part = self.parts[position] if position >= 0 else 0
        end = int(np.searchsorted(self.parts, part + 1, side="right"))
        found = np.flatnonzero(self.timestamps[following:end] == timestamp)
        return following + int(found[0]) if len(found) else None


class _Packet(NamedTuple):
    """What a packet says, in ticks."""

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_discard: bool


class _Shown(NamedTuple):
    """A frame to be shown: from `start` on, on a clock without leaps."""

    start: int
    timestamp: int
    part: int
    duration: int


def read_timeline(source: str | Path | bytes, container: Any, stream: Any, name: str) -> Timeline:
    """Reads the packets of a container to its end.

    Args:
        source: path or bytes of the file.
        container: of it, open, at its start.
        stream: the video stream of it.
        name: what messages call the video.

    Raises:
        VideoReadError: if there are no frames, or a few that last for days.
        av.error.FFmpegError: if the file is damaged.
    """
    packets, end, end_of_data = _read_packets(container, stream)
    container_name = container.format.name.split(",")[0]
    parts = list(_parts(packets, stream, container_name))
    frame_ticks = ticks_of_frame(stream)
    told_by, frames = _shown_frames(parts, stream, container_name, frame_ticks)
    if not frames:
        raise VideoReadError(f"{name}: its video stream holds no frames; replace the file.")
    remarks = (
        _shortfall(source, container, stream, end, name),
        _another_file(source, container_name, end_of_data),
        _leaps(len(parts) - 1),
    )
    starts = np.array([frame.start for frame in frames], dtype=np.int64)
    before = ticks_before_first(container, stream, int(starts[0]))
    end_of_last = starts[-1] + (frames[-1].duration or frame_ticks)
    # Rounded once, as the number of frames in memory over their rate is.
    ticks = float(end_of_last - starts[0] + before)
    duration = ticks * stream.time_base.numerator / stream.time_base.denominator
    if not duration < max(MAX_SECONDS, MAX_SECONDS_PER_FRAME * len(frames)):
        raise VideoReadError(
            f"{name}: by its timestamps {len(frames)} frames last {duration / 3600:.0f} hours; the file is damaged:"
            " write it anew with ffmpeg, or leave it out."
        )
    keyframes = {packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None}
    return Timeline(
        timestamps=np.array([frame.timestamp for frame in frames], dtype=np.int64),
        starts=starts - starts[0],
        lead=before,
        duration=duration,
        time_base=stream.time_base,
        keyframes=np.array(sorted(keyframes), dtype=np.int64),
        parts=np.array([frame.part for frame in frames], dtype=np.int64),
        told_by=told_by,
        remarks=tuple(filter(None, remarks)),
    )


def _read_packets(container: Any, stream: Any) -> tuple[list[_Packet], int, int]:
    """Packets of the video stream in the order of the file, the tick at which the last ends, and the byte after it."""
    packets: list[_Packet] = []
    end, end_of_data = 0, 0
    for packet in until_flushed(container.demux(stream)):
        said = packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard
        end = max(end, _end(*said[:3]))
        # Packets without data repeat the frame before (AVI) or mark the end of the file; those of one byte
        # keep the place of frames that the encoder was still holding back (AVI).
        if packet.size > 1:
            packets.append(_Packet._make(said))
            end_of_data = max(end_of_data, (packet.pos or 0) + packet.size)
    return packets, end, end_of_data


def _end(pts: int | None, dts: int | None, duration: int) -> int:
    """The tick at which a packet ends, 0 if it has no time."""
    clock = dts if pts is None else pts
    return 0 if clock is None else clock + duration


def _parts(packets: list[_Packet], stream: Any, container_name: str) -> Iterator[list[_Packet]]:
    """Runs of packets between leaps of the clock."""
    tick = float(stream.time_base)
    furthest = MAX_LEAP if container_name in LEAPING_CONTAINERS else np.inf
    by_display = container_name in WITHOUT_DECODING_TIMES
    part: list[_Packet] = []
    last, due = None, 0
    for packet in packets:
        clock = packet.pts if by_display else packet.dts
        if clock is not None:
            # No frame that precedes a keyframe in the file is shown after it.
            back = last is not None and (packet.is_keyframe or not by_display) and (last - clock) * tick > MAX_STEP_BACK
            if back or (last is not None and (clock - due) * tick > furthest):
                yield part
                part, last = [], None
            if last is None or clock > last:
                last, due = clock, clock + (packet.duration or ticks_of_frame(stream))
        part.append(packet)
    yield part


def _shown_frames(
    parts: list[list[_Packet]], stream: Any, container_name: str, frame_ticks: int
) -> tuple[Literal["timestamp", "sequence", "count"], list[_Shown]]:
    """How decoded frames are told, and the frames in the order in which they are shown."""
    packets = [packet for part in parts for packet in part]
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if not stamps or container_name in RAW_STREAMS:
        return "count", [_Shown(order * frame_ticks, 0, 0, frame_ticks) for order in range(len(packets))]
    # AVI stores no time of display and some others may not, nor MPEG program streams for every frame: FFmpeg
    # guesses, wrongly once frames are reordered or after a seek.
    unstamped = container_name == "avi" or (container_name in LOOSELY_STAMPED and stamps == sorted(stamps))
    if stream.codec_context.has_b_frames and unstamped and any(packet.dts is not None for packet in packets):
        return "count", _as_decoded(packets, stream.codec_context.reorder_depth, frame_ticks)
    without_time = 1 - len(stamps) / len(packets)
    if container_name == "mpeg" or without_time > SHARE_OF_FIELDS[1]:
        # Half of the packets without a time are the second fields of frames; any other share are frames.
        if not SHARE_OF_FIELDS[0] <= without_time <= SHARE_OF_FIELDS[1]:
            parts = [list(_stamped(part, frame_ticks)) for part in parts]
        return "count", _as_stamped(parts, frame_ticks, all_decode=True)
    return ("timestamp" if len(parts) == 1 else "sequence"), _as_stamped(parts, frame_ticks)


def _stamped(part: list[_Packet], frame_ticks: int) -> Iterator[_Packet]:
    """Packets with the time of decoding where that of display is missing, and without both after the one before."""
    known = (stamp for packet in part for stamp in (packet.pts, packet.dts) if stamp is not None)
    following = next(known, 0)
    for packet in part:
        stamp = packet.dts if packet.pts is None else packet.pts
        stamp = following if stamp is None else stamp
        following = stamp + (packet.duration or frame_ticks)
        yield packet._replace(pts=stamp)


def _as_stamped(parts: list[list[_Packet]], frame_ticks: int, *, all_decode: bool = False) -> list[_Shown]:
    """Frames at their timestamps; each part goes on where the one before ends.

    Unless `all_decode`, those that are not shown are left out: what is to be discarded lies before the start of a
    trimmed video, and what precedes the first keyframe of a broadcast cut in the middle is lost.
    """
    frames: list[_Shown] = []
    due: int | None = None
    for number, part in enumerate(parts):
        first = next((packet.pts for packet in part if packet.is_keyframe and packet.pts is not None), None)
        stamped = [(packet.pts, packet) for packet in part if packet.pts is not None]
        if not stamped:
            continue
        shift = 0 if due is None else due - min(stamp for stamp, _ in stamped)
        due = max(stamp + shift + (packet.duration or frame_ticks) for stamp, packet in stamped)
        shown = [
            _Shown(stamp + shift, stamp, number, packet.duration)
            for stamp, packet in stamped
            if all_decode or not (packet.is_discard or (first is not None and stamp < first))
        ]
        frames += sorted(shown if all_decode else {frame.timestamp: frame for frame in shown}.values())
    return frames


def _as_decoded(packets: list[_Packet], delay: int, frame_ticks: int) -> list[_Shown]:
    """Frames that are shown when they are decoded, each once `delay` more packets are."""
    clocks = sorted(packet.dts for packet in packets if packet.dts is not None)
    steps = np.diff(clocks)
    usual = int(np.median(steps)) if len(steps) else frame_ticks
    clocks += [clocks[-1] + usual * late for late in range(1, delay + 1 + len(packets) - len(clocks))]
    return [_Shown(clock - clocks[delay] + clocks[0], clock, 0, usual) for clock in clocks[delay:]]


def ticks_before_first(container: Any, stream: Any, first: int) -> float:
    """Ticks from the start of the presentation to the first frame, at `first`: where the sound starts before it."""
    tick = float(stream.time_base)
    sounds = [float(sound.start_time * sound.time_base) for sound in container.streams.audio if _starts(sound)]
    if not sounds:
        return 0.0
    # No player shows times before 0, unless the picture starts there.
    start = max(min(sounds), min(0.0, first * tick))
    lead = first * tick - start
    of_another = lead > MAX_SOUND_LEAD and container.format.name in LEAPING_CONTAINERS
    return 0.0 if lead < MIN_SOUND_LEAD or of_another else lead / tick


def _starts(stream: Any) -> bool:
    return stream.start_time is not None and stream.time_base is not None


def ticks_of_frame(stream: Any) -> int:
    """Ticks of a frame by the nominal frame rate, 25 Hz where the file names none."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def _leaps(count: int) -> str | None:
    """What is to be said of a clock that leaps."""
    if not count:
        return None
    return (
        f"its clock leaps {count} time(s), as where recordings were joined; read as one video without gaps, from its "
        "start whenever an earlier frame is wanted (ffmpeg writes it anew without leaps)."
    )


def _shortfall(source: str | Path | bytes, container: Any, stream: Any, end: int, name: str) -> str | None:
    """What is to be said of a file that holds less than its header announces."""
    container_name = container.format.name.split(",")[0]
    there = float(end * stream.time_base)
    of_any_stream = False
    if container_name == "avi":
        # FFmpeg corrects the duration by the size of the file, but not the number of frames.
        announced = float(stream.frames * stream.time_base)
    elif container_name == "asf":
        announced, of_any_stream = _announced_by_asf(bytes_of(source, 2**16)), True
    elif container_name in ANNOUNCING_CONTAINERS and stream.duration:
        announced = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    elif container_name in ANNOUNCING_CONTAINERS:
        announced, of_any_stream = (container.duration or 0) / av.time_base, True
    else:
        return None
    enough = announced - max(MAX_SHORTFALL, 2 * float(ticks_of_frame(stream) * stream.time_base))
    if there < enough and of_any_stream:
        there = _end_of_any(source, name)
    if there < enough:
        return f"holds {there:.1f} s of the {announced:.1f} s that its header announces; it may be cut off."
    return None


def _end_of_any(source: str | Path | bytes, name: str) -> float:
    """Seconds at which the last stream of a container ends, such as sound or subtitles that go on after the picture."""
    with open_container(source, name) as container:
        packets = (packet for packet in until_flushed(container.demux()) if packet.time_base)
        return max(float(_end(packet.pts, packet.dts, packet.duration or 0) * packet.time_base) for packet in packets)


def _announced_by_asf(head: bytes) -> float:
    """Seconds of the file properties of ASF, which FFmpeg leaves out where the size of the file is another."""
    at = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if at < 0 or len(head) < at + 88:
        return 0.0
    duration, _, preroll = struct.unpack_from("<QQQ", head, at + 64)
    return duration / 1e7 - preroll / 1e3


def _another_file(source: str | Path | bytes, container_name: str, end_of_data: int) -> str | None:
    """What is to be said of a second file behind the first: players, too, show the first alone."""
    beginning = BEGINNINGS.get(container_name)
    if beginning and re.search(beginning, bytes_of(source, TAIL_BYTES, end_of_data), re.DOTALL):
        return (
            f"another file begins behind its {end_of_data} bytes of data, and is not read; join videos with ffmpeg "
            "(its concat demuxer), not byte by byte."
        )
    return None


@functools.lru_cache(maxsize=1024)
def tell(name: str, remarks: tuple[str, ...]) -> None:
    """Warns of what there is to be said of a video, once for a file, however often it is opened for a window of it."""
    for remark in remarks:
        logger.warning("%s: %s", name, remark)
