"""How far a process is in an epoch, and what is left of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children
from typing import Annotated, Any

import torch
from accelerate import skip_first_batches
from accelerate.utils import gather_object

from ..value_checks import NOT_NEGATIVE, one_line
from ..video_reader import VideoReadError
from .random_states import random_states, restore_random_states


@dataclass
class EpochSoFar:
    """What a process has trained of an epoch; nothing between two epochs.

    Attributes:
        steps: Batches, those skipped included.
        counted: Those with finite losses.
        skipped: Updates that were skipped.
        seconds: Time spent.
        losses: Sums over the steps that count, by name.
    """

    steps: Annotated[int, NOT_NEGATIVE] = 0
    counted: Annotated[int, NOT_NEGATIVE] = 0
    skipped: Annotated[int, NOT_NEGATIVE] = 0
    seconds: Annotated[float, NOT_NEGATIVE] = 0.0
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, losses: dict[str, float] | None) -> None:
        """Counts a step; `losses` is None where they are not finite."""
        self.steps += 1
        if losses is not None:
            self.counted += 1
            for name, value in losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value

    @classmethod
    def of_others(cls, parts: Sequence[EpochSoFar], processes: int, multiple: int) -> EpochSoFar:
        """Returns what a process has trained where another number of processes has.

        Args:
            parts: Of those.
            processes: How many there are now; they share the windows out in the same order.
            multiple: Steps of an update; no update is begun.
        """
        steps = parts[0].steps * len(parts) // processes // multiple * multiple
        share = steps / max(parts[0].steps, 1)
        return cls(
            steps=steps,
            counted=round(parts[0].counted * share),
            skipped=round(parts[0].skipped * share),
            seconds=parts[0].seconds,
            losses={name: sum(p.losses[name] for p in parts) / len(parts) * share for name in parts[0].losses},
        )

    def means(self) -> dict[str, float]:
        """Returns the losses as means over the steps that count and over the processes; to be called on all."""
        everywhere = gather_object([self.losses])
        return {name: sum(sums[name] for sums in everywhere) / len(everywhere) / self.counted for name in self.losses}


def decoded(loader: Any, video_ids: Callable[[], Sequence[str]], timeout: float) -> Iterator[dict[str, Any]]:
    """Yields the batches of a loader whose workers may hang or die.

    Args:
        loader: Iterable.
        video_ids: Of the windows that it has not yielded yet, in order.
        timeout: Seconds in which a batch must come; 0 for no limit.

    Raises:
        VideoReadError: if a worker died, or has not decoded a batch in time; the workers are ended.
    """
    batches = iter(loader)
    while True:
        _ignore_ended_workers()
        watch = _Watch(timeout)
        try:
            with watch:
                batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if not (watch.ended or _is_of_a_worker(error)):
                raise
            end_workers()
            said = f" ({one_line(error)})" if str(error) else ""
            why = f"None came in {timeout:g} s (data.timeout)" if watch.ended else f"A decode worker has ended{said}"
            videos = ", ".join(dict.fromkeys(video_ids()))
            raise VideoReadError(
                f"No next batch was decoded, of windows of {videos}. {why}. Look at these files, at where they lie and "
                "at the memory of the machine."
            ) from error
        yield batch


class _Watch:
    """Ends the workers if a batch takes longer than it may.

    PyTorch's own limit does not cover the handing over of a tensor, for which a worker that is stopped, or holds
    Python's lock, is waited on for ever.

    Attributes:
        ended: Whether it did.
    """

    def __init__(self, timeout: float):
        self.timer = threading.Timer(timeout, self._end) if timeout else None
        self.ended = False

    def _end(self) -> None:
        self.ended = True
        end_workers()

    def __enter__(self) -> None:
        if self.timer:
            self.timer.daemon = True
            self.timer.start()

    def __exit__(self, *_: object) -> None:
        if self.timer:
            self.timer.cancel()


def end_workers() -> None:
    """Ends the decode workers, of which those that hang hear no other signal."""
    for worker in active_children():
        worker.kill()


def _ignore_ended_workers() -> None:
    """Turns off PyTorch's handler, which raises wherever the code happens to be when a worker has ended.

    Waiting for a batch, PyTorch finds such a worker by itself.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _is_of_a_worker(error: Exception) -> bool:
    """Whether it tells of a worker that ended, and not of what a worker met ("Caught ... in DataLoader worker")."""
    return str(error).startswith("DataLoader") or (
        isinstance(error, (EOFError, ConnectionError)) and not str(error).startswith("Caught")
    )


def batches_after(steps: int, loader: Any, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yields what is left of an epoch after so many steps, with the random states left as they are.

    Args:
        steps: Of this process.
        loader: Prepared by Accelerate, and told the epoch.
        device: Whose random state counts, too.
    """
    if steps == 0:
        yield from loader
        return
    kept = random_states(device)
    for number, batch in enumerate(skip_first_batches(loader, steps)):
        if number == 0:
            # A loader draws a number when it begins, as it did when the epoch began.
            restore_random_states(kept, device)
        yield batch
