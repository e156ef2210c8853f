"""The model in a process of its own: a video that crashes a decoder, or never ends, does not end the service."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ..data.video_limits import VideoError
from .tasks import Stopped, Take, Task, Work

logger = logging.getLogger(__name__)

# Seconds between two looks at whether the results are still wanted.
TICK = 0.1
# For which a window may go on when none is; then the process is ended.
GRACE = 10.0


class WorkerError(RuntimeError):
    """The process met an error that no video should cause; has its traceback."""


class WorkerProcess:
    """Work that is done in another process, which begins anew where it had to end; called by one thread at a time.

    Of several tasks under way as the process ends, none is surely at fault.

    Args:
        make: Makes what does the work; called in that process, so it can be pickled.

    Attributes:
        restarts: How often it began anew.

    Raises:
        ValueError: if that cannot be made; says why.
    """

    def __init__(self, make: Callable[[], Work]):
        self._make = make
        self._context = multiprocessing.get_context("spawn")
        self.restarts = 0
        self._start()

    def __call__(self, take: Take) -> None:
        """Lets the process take tasks until there is none; see `Work`.

        Tasks fail with a `VideoError` if the video is at fault, be it that the process ended over it, with a
        `WorkerError` if something else is, and with what their `report` raises, which ends the work on them.
        """
        if (task := take()) is None:
            return
        if not self._process.is_alive():
            self.restarts += 1
            self._start()
        exchange = _Exchange(self._connection, take)
        try:
            exchange.give(task)
            while not exchange.is_over:
                exchange.ask_who_is_wanted()
                if exchange.seconds_unwanted > GRACE:
                    self._process.kill()
                exchange.listen()
        except (EOFError, OSError):
            self._process.join()
            logger.error("The process of the model ended with %s.", self._process.exitcode)
            exchange.fail_all()
        except BaseException:
            self._process.kill()
            raise

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
            kind, _, told = self._connection.recv()
        except EOFError:
            self._process.join()
            raise ValueError(f"The process of the model ended with {self._process.exitcode} as it began.") from None
        if kind == "refused":
            self.close()
            raise ValueError(told)


class _Exchange:
    """What is said with the process, from the first task that it is given until it asks for one and there is none.

    Attributes:
        is_over: Whether that has come.
    """

    def __init__(self, connection: Connection, take: Take):
        self._connection = connection
        self._take = take
        self._given: dict[str, Task] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        self._unwanted: dict[str, tuple[Exception, bool]] = {}
        self._last_wanted = time.monotonic()
        self.is_over = False

    def give(self, task: Task | None) -> None:
        """Answers the process, which has asked for a task."""
        if task is not None:
            self._given[task.id], self._progress[task.id] = task, (0, 0)
        self._connection.send(None if task is None else (task.id, task.path, task.name, task.settings))

    def ask_who_is_wanted(self) -> None:
        """Tells the tasks their progress; the process is told of those that are not wanted any more."""
        for task in [task for name, task in self._given.items() if name not in self._unwanted]:
            try:
                task.report(*self._progress[task.id])
            except Exception as error:
                self._unwanted[task.id] = error, len(self._given) == 1
                self._connection.send(task.id)
        if len(self._unwanted) < len(self._given):
            self._last_wanted = time.monotonic()

    @property
    def seconds_unwanted(self) -> float:
        """For which the process has been at what nobody wants."""
        return time.monotonic() - self._last_wanted if self._given else 0.0

    def listen(self) -> None:
        """Hears what the process says next, if it says something within a tick."""
        if not self._connection.poll(TICK):
            return
        kind, name, told = self._connection.recv()
        if kind == "more":
            task = self._take()
            if task is None and not self._given:
                self.is_over = True  # and the process waits for the first task of the next exchange
            else:
                self.give(task)
        elif kind == "progress":
            self._progress[name] = told
        else:
            self._end(name, kind, told)

    def _end(self, name: str, kind: str, told: Any) -> None:
        task = self._given.pop(name)
        del self._progress[name]
        if name in self._unwanted:
            task.fail(*self._unwanted.pop(name))
        elif kind == "found":
            task.end(told)
        else:
            text, surely = told
            task.fail(VideoError(text) if kind == "refused" else WorkerError(text), surely)

    def fail_all(self) -> None:
        """Tells all tasks that the process has ended."""
        surely = len(self._given) == 1
        for name, task in self._given.items():
            ended = VideoError(f"The process that worked on {task.name} ended; the file is likely damaged.")
            task.fail(*self._unwanted.get(name, (ended, surely)))


def _work(make: Callable[[], Work], connection: Connection) -> None:
    """What the other process does: it asks for tasks through the connection, and what is found goes back."""
    # Ctrl-C goes to both; the service says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = make()
    except Exception as error:
        known = isinstance(error, (ValueError, OSError, ImportError))
        connection.send(("refused", None, str(error) if known else traceback.format_exc()))
        return
    caller = _Caller(connection)
    with contextlib.suppress(EOFError, ConnectionError):  # the service has ended
        while True:
            work(caller.take)


class _Caller:
    """The service, as the process sees it: it gives tasks when it is asked for one, and says which it does not want."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._wanted: set[str] = set()

    def take(self) -> Task | None:
        """The next task; None if there is none, but others are under way."""
        self._connection.send(("more", None, None))
        while isinstance(heard := self._connection.recv(), str):
            self._wanted.discard(heard)
        if heard is None:
            return None
        self._wanted.add(heard[0])
        return Task(*heard, *(partial(call, heard[0]) for call in (self._report, self._end, self._fail)))

    def _report(self, name: str, done: int, windows: int) -> None:
        self._connection.send(("progress", name, (done, windows)))
        while self._connection.poll():
            self._wanted.discard(self._connection.recv())
        if name not in self._wanted:
            raise Stopped

    def _end(self, name: str, found: list[dict[str, Any]]) -> None:
        self._wanted.discard(name)
        self._connection.send(("found", name, found))

    def _fail(self, name: str, error: Exception, surely: bool) -> None:
        if isinstance(error, ConnectionError):
            raise error
        self._wanted.discard(name)
        known = isinstance(error, VideoError | Stopped)
        text = str(error) if known else "".join(traceback.format_exception(error))
        self._connection.send(("refused" if known else "failed", name, (text, surely)))
