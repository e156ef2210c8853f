"""Ctrl-C and SIGTERM, by which a queue takes its machine back: a training ends between two steps, and keeps them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import torch

from ..loss_normalization import total_over_processes

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# A launcher hands on to its processes what the terminal has sent them already.
_SECONDS_OF_ONE_SIGNAL = 2.0


class Interrupted(KeyboardInterrupt):
    """The end of what was told to stop; the message says what is kept and how to go on.

    Args:
        message: For the user.
        number: The signal.

    Attributes:
        number: The signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Returns the exit code that a shell gives a process which the signal has ended: 130 or 143."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


class Interruption:
    """Receives both signals while it is entered, in the main thread; elsewhere it receives none.

    What runs ends at once, by an `Interrupted`, except in `held()`: there the signal is noted, for who asks `told`.
    Even there a second Ctrl-C ends it at once.
    """

    def __init__(self) -> None:
        self._received: int = 0
        self._since = 0.0
        self._held = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in NAMES}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lets what is inside come to an end of its own."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def told(self, device: torch.device) -> int:
        """Returns the signal that any of the processes has received, the same on all, or 0; to be called on all.

        Args:
            device: Of this process's tensors.
        """
        flags, _ = total_over_processes(torch.tensor([self._received == number for number in NAMES]).int().to(device))
        return next((number for number, count in zip(NAMES, flags.tolist(), strict=True) if count), 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self._received and number == signal.SIGINT and now - self._since > _SECONDS_OF_ONE_SIGNAL
        first, self._received = not self._received, self._received or number
        if not self._held or again:
            raise Interrupted(f"Stopped by {NAMES[signal.Signals(number)]}.", number)
        if first:
            self._since = now
            if os.environ.get("RANK", "0") == "0":
                # print must not be called where it may have been interrupted.
                hint = "; once more ends it at once" if number == signal.SIGINT else ""
                os.write(2, f"\n{NAMES[signal.Signals(number)]}: the step is finished and saved{hint}.\n".encode())


def leave_signals_to_the_training(worker: int) -> None:
    """For data workers, which get the same signals: they end with the process that started them.

    Args:
        worker: Its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The second may be of the process itself, which waits no longer.
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
