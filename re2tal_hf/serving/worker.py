"""The model in a process of its own: a video that crashes a decoder, or never ends, does not end the service."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..data.video_limits import VideoError
from .jobs import Localize, Progress, Stopped

logger = logging.getLogger(__name__)

# Seconds between two looks at whether the result is still wanted.
TICK = 0.1
# For which a window may go on when it is not; then the process is ended.
GRACE = 10.0


class WorkerError(RuntimeError):
    """The process met an error that no video should cause; has its traceback."""


class LocalizerProcess:
    """A localizer in another process, which begins anew where it had to end; called by one thread at a time.

    Args:
        make: Makes the localizer; called in that process, so it can be pickled.

    Attributes:
        restarts: How often it began anew.

    Raises:
        ValueError: if the localizer cannot be made; says why.
    """

    def __init__(self, make: Callable[[], Localize]):
        self._make = make
        self._context = multiprocessing.get_context("spawn")
        self.restarts = 0
        self._start()

    def __call__(self, path: Path, name: str, settings: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
        """Returns the detections of a video; see `Localizer`.

        Args:
            path: Of the file.
            name: What messages call it.
            settings: Of the pipeline, for this video.
            progress: Takes the windows done and all of them, many times; what it raises ends the work.

        Raises:
            VideoError: if the video is at fault, be it that the process ended over it.
            WorkerError: if something else is.
        """
        if not self._process.is_alive():
            self.restarts += 1
            self._start()
        try:
            self._connection.send((path, name, settings))
            kind, told = self._until_it_is_through(progress)
        except (EOFError, ConnectionError):
            self._process.join()
            logger.error("The process of the model ended with %s.", self._process.exitcode)
            raise VideoError(f"The process that worked on {name} ended; the file is likely damaged.") from None
        except BaseException:  # of `progress`: the result is not wanted any more
            self._let_go()
            raise
        if kind == "refused":
            raise VideoError(told)
        if kind == "failed":
            raise WorkerError(told)
        return told

    def close(self) -> None:
        """Ends the process, which may put away what its libraries hold."""
        self._connection.close()
        self._process.join(GRACE)
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._connection, others = self._context.Pipe()
        # Daemonic: it ends when this process does.
        self._process = self._context.Process(target=_work, args=(self._make, others), daemon=True)
        self._process.start()
        others.close()  # else its end would not be seen
        try:
            kind, told = self._connection.recv()
        except EOFError:
            self._process.join()
            raise ValueError(f"The process of the model ended with {self._process.exitcode} as it began.") from None
        if kind == "refused":
            self.close()
            raise ValueError(told)

    def _until_it_is_through(self, progress: Progress) -> tuple[str, Any]:
        done, windows = 0, 0
        while True:
            progress(done, windows)
            if self._connection.poll(TICK):
                kind, told = self._connection.recv()
                if kind != "progress":
                    return kind, told
                done, windows = told

    def _let_go(self) -> None:
        """Waits until the process has put a video aside, or ends it."""
        end = time.monotonic() + GRACE
        with contextlib.suppress(EOFError, ConnectionError):
            self._connection.send(None)
            while self._connection.poll(max(0.0, end - time.monotonic())):
                kind, _ = self._connection.recv()
                if kind != "progress":
                    return
        self._process.kill()
        self.close()


def _work(make: Callable[[], Localize], connection: Connection) -> None:
    """What the other process does: videos come through the connection, and what is found in them goes back.

    None that comes while a video is worked on puts it aside.
    """
    # Ctrl-C goes to both; the service says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        localize = make()
    except Exception as error:
        known = isinstance(error, (ValueError, OSError, ImportError))
        connection.send(("refused", str(error) if known else traceback.format_exc()))
        return
    connection.send(("ready", None))

    def report(done: int, windows: int) -> None:
        connection.send(("progress", (done, windows)))
        if connection.poll():
            connection.recv()
            raise Stopped

    with contextlib.suppress(EOFError, ConnectionError):  # the service has ended
        while True:
            video = connection.recv()
            if video is not None:  # else it came too late
                path, name, settings = video
                connection.send(_answer(localize, path, name, settings, report))


def _answer(localize: Localize, path: Path, name: str, settings: dict[str, Any], report: Progress) -> tuple[str, Any]:
    try:
        return "found", localize(path, name, settings, report)
    except Stopped:
        return "stopped", None
    except VideoError as error:
        return "refused", str(error)
    except ConnectionError:
        raise
    except Exception:
        return "failed", traceback.format_exc()
