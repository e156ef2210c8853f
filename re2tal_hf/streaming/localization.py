"""`stream`: actions in a source that has no end yet, each said once, a known time after its end."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor

from ..pipeline_re2tal import TemporalActionLocalizationPipeline, one_thread
from ..value_checks import POSITIVE, SHARE, check_value
from ..video_detections import Candidates, window_candidates
from ..video_settings import DETECTION_SETTINGS
from ..video_windows import Window
from .address import Losses, Source
from .connection import Connection, Picture
from .merging import Merger, no_candidates
from .sampling import PartEnd, PartStart, Sampled, WindowGrid, sampled

logger = logging.getLogger(__name__)

THRESHOLD = 0.3
# After which an action is said whatever overlaps it.
WINDOWS_OF_DELAY = 2
# Frames that wait for the model, in windows; a camera that is ahead by more loses frames.
WINDOWS_WAITING = 2
# Of a video whose end nobody knows yet, seconds.
ENDLESS = 1e12
SECONDS_TO_LOOK = 0.2
DROPPED = "frames were dropped, since the model is slower than the stream"


@dataclass
class Summary:
    """What came of a stream.

    Attributes:
        seconds: of the video.
        windows: that went through the model.
        actions: that were said.
        parts: pieces between gaps, each of which is a video of its own.
        cut: actions that were said before all that overlaps them was known.
        late: candidates that overlapped what had been said.
        max_detections: that the processor allows a video; there is no such limit here.
    """

    seconds: float = 0.0
    windows: int = 0
    actions: int = 0
    parts: int = 0
    cut: int = 0
    late: int = 0
    max_detections: int = 0

    @property
    def is_that_of_the_file(self) -> bool:
        """Whether the pipeline finds the same in a file of this stream."""
        return self.parts == 1 and self.cut == self.late == 0 and self.actions <= self.max_detections


def longest_wait(processor: Any, delay: float | None = None) -> float:
    """Seconds of the stream after its end at which an action is said at the latest.

    Args:
        processor: of the model.
        delay: as for `stream`.
    """
    delay = WINDOWS_OF_DELAY * processor.num_frames / processor.frame_rate if delay is None else delay
    # What is cut has ended with the segment about the point.
    return delay + (processor.point_window or 0) / 2 + _step(processor) / processor.frame_rate


def _step(processor: Any) -> int:
    return max(1, round(processor.num_frames * (1 - processor.window_overlap)))


def stream(
    pipe: TemporalActionLocalizationPipeline,
    source: str,
    *,
    threshold: float = THRESHOLD,
    delay: float | None = None,
    exact: bool = False,
    losses: Losses | None = None,
    summary: Summary | None = None,
) -> Iterator[dict[str, Any]]:
    """Localizes actions while a video is coming in.

    Args:
        pipe: with a processor that samples sliding windows.
        source: path of a file, of a playlist (.m3u8) or of a file that grows (`losses.follow`), `-` for standard input,
            an address (http, https, rtsp, rtsps, rtmp, rtmps, udp) or `camera:NAME`.
        threshold: lowest score reported.
        delay: seconds after its end at which an action is said, whatever overlaps it; two windows by default, and never
            less than one. It is said earlier where nothing that comes can change it. As windows are looked at when
            they are full, a step from one to the next may be added.
        exact: whether the detections are the same to the bit for any number of threads.
        losses: what is done when the source stops.
        summary: is kept up to date, if given.

    Yields:
        `label`, `score`, `start` and `end` of each action, seconds from the start of the stream; of a point in time
        both are the same.

    Raises:
        ValueError: if a setting is out of range, or the model does not take sliding windows of videos.
        VideoReadError: if the source cannot be opened, or does not come back after it was lost.
        NotFiniteError: if the model puts out NaN or infinity.
    """
    localizer = _Localizer(pipe, threshold, delay, Summary() if summary is None else summary)
    losses = losses or Losses()
    opened = Source(source, losses)
    connection = Connection(opened, losses.retries, losses.wait)
    return _detections(localizer, opened, connection, exact)


def _detections(localizer: _Localizer, source: Source, connection: Connection, exact: bool) -> Iterator[dict[str, Any]]:
    with one_thread() if exact else contextlib.nullcontext(), _Reader(source, connection, localizer) as frames:
        for item in frames:
            yield from localizer.take(item, source.name)


class _Localizer:
    """Frames in, actions out."""

    def __init__(
        self, pipe: TemporalActionLocalizationPipeline, threshold: float, delay: float | None, summary: Summary
    ):
        processor = pipe.video_processor
        if processor.sampling != "sliding" or pipe.model.config.backbone_config.get("model_type") == "features":
            raise ValueError(
                f"{pipe.model.name_or_path}: a stream is looked at in sliding windows, and this model takes "
                f"{'features' if processor.sampling == 'sliding' else 'the whole video at once'}."
            )
        self.processor, self._pipe, self._summary = processor, pipe, summary
        self._threshold = check_value("threshold", threshold, Annotated[float, SHARE])
        self._length = processor.num_frames / processor.frame_rate
        usual = WINDOWS_OF_DELAY * self._length
        delay = check_value("delay", usual if delay is None else delay, Annotated[float, POSITIVE])
        if delay < self._length:
            raise ValueError(f"delay is {delay:g} s; it must be {self._length:g} s, the length of a window, or more.")
        self._delay = delay
        self._settings = {name: getattr(processor, name) for name in DETECTION_SETTINGS}
        summary.max_detections = processor.max_detections
        self._start(PartStart(0.0))

    def _start(self, part: PartStart) -> None:
        self._offset = part.offset
        self._grid = WindowGrid(self.processor.num_frames, _step(self.processor))
        self._merger = Merger(self._settings, self._threshold, self._delay)
        self._counted = 0, 0

    def take(self, item: Sampled, name: str) -> Iterator[dict[str, Any]]:
        """What is settled by a frame, or by the end of a part."""
        if isinstance(item, PartStart):
            self._summary.parts += 1
            self._start(item)
            return
        window = self._grid.add(item) if isinstance(item, Tensor) else self._grid.finish()
        if isinstance(item, Tensor) and window is None:
            return
        duration = ENDLESS if isinstance(item, Tensor) else item.duration
        candidates = self._candidates(window, name, duration) if window else no_candidates()
        if isinstance(item, PartEnd):
            found = self._merger.finish(candidates, duration)
            self._summary.seconds = self._offset + duration
        else:
            assert window is not None
            start = window[0] / self.processor.frame_rate
            # The window that ends with the video may begin right after this one.
            found = self._merger.add(candidates, horizon=start, now=start + self._length)
            self._summary.seconds = self._offset + start + self._length
        self._count(found)
        yield from self._rows(found)

    def _candidates(self, window: tuple[int, Tensor], name: str, duration: float) -> Candidates:
        first, frames = window
        rate = self.processor.frame_rate
        planned = Window(name, first / rate, rate, len(frames), duration)
        output = self._pipe.forward(
            {"frames": [frames], "windows": [planned], "counts": (1, 1), "is_last": True}, progress=None
        )
        self._summary.windows += 1
        logits, segments, mask = (output[key][0] for key in ("logits", "pred_segments", "point_mask"))
        return window_candidates(logits, segments, mask, planned, self._settings)

    def _count(self, found: Candidates) -> None:
        counts = self._merger.num_cut, self._merger.num_late
        self._summary.actions += len(found[1])
        self._summary.cut += counts[0] - self._counted[0]
        self._summary.late += counts[1] - self._counted[1]
        self._counted = counts

    def _rows(self, found: Candidates) -> Iterator[dict[str, Any]]:
        names = self._pipe.model.config.id2label
        segments, scores, labels = (column.tolist() for column in found)
        for (start, end), score, label in zip(segments, scores, labels, strict=True):
            yield {"label": names[label], "score": score, "start": self._offset + start, "end": self._offset + end}


@dataclass
class _Reader:
    """Reads ahead in a thread of its own, no further than a few windows."""

    source: Source
    connection: Connection
    localizer: _Localizer
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        room = WINDOWS_WAITING * self.localizer.processor.num_frames
        self._items: queue.Queue[Sampled | Exception | None] = queue.Queue(room)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Iterator[Sampled]:
        self._thread.start()
        return self._read()

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self.source.stop()
        # A source that says nothing is left to its timeout.
        self._thread.join(SECONDS_TO_LOOK)

    def _read(self) -> Iterator[Sampled]:
        while (item := self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _run(self) -> None:
        last: Exception | None = None
        pictures = self._kept_up(self.connection)
        try:
            for item in sampled(pictures, self.localizer.processor):
                if not self._put(item):
                    return
        except Exception as error:  # is raised where the items are read
            last = error
        finally:
            self.connection.close()
        self._put(last)

    def _kept_up(self, pictures: Iterable[Picture | None]) -> Iterator[Picture | None]:
        """The pictures, of a live source without those for which there is no room.

        A source that is faster than time, as one that sends what it has kept, is made to wait instead.
        """
        lost: float | None = None
        ahead = -math.inf
        for picture in pictures:
            if picture is None:
                yield None
                continue
            waiting = self._items.qsize() / self._items.maxsize
            now = picture.start - time.monotonic()
            # By how much it is ahead of time is counted from when the model had nothing to do.
            ahead = now if waiting < 0.1 else ahead
            crowded = waiting > (0.9 if lost is None else 0.5)
            if self.source.is_repeatable and crowded and (lost is not None or now < ahead):
                lost = picture.start if lost is None else lost
                continue
            if lost is not None:
                self._tell_dropped(lost, picture.start)
                picture, lost = picture.beginning(DROPPED), None
            yield picture
        if lost is not None:
            self._tell_dropped(lost, math.inf)

    def _tell_dropped(self, start: float, end: float) -> None:
        logger.warning("%s: at %.2f s %s; goes on at %.2f s.", self.source.name, start, DROPPED, end)

    def _put(self, item: Sampled | Exception | None) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=SECONDS_TO_LOOK)
                return True
        return False
