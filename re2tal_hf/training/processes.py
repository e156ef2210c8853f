"""What the processes of a distributed run agree on, so that an error of one leaves none waiting for ever."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast, broadcast_object_list, gather_object
from torch import Tensor

from .lost_processes import WRONG_NETWORK, ProcessLostError, Watch, lost_message, tells_of_loss, tells_of_wrong_network

Result = TypeVar("Result")
Processes: TypeAlias = "Accelerator | PartialState"
"""Which process of a run this is; one of one where it runs alone."""
_SCHEME = "re2tal"
_SECONDS_TO_LET_GO = 0.2


def start_processes() -> PartialState:
    """Returns which process of those that a launcher has started this is; joins it with the others.

    They may wait for each other for a day: shares of videos are not equally long.
    """
    settings = {**meeting_point().to_kwargs(), "timeout": timedelta(days=1)}
    return PartialState(cpu=not torch.accelerator.is_available(), **settings)


def meeting_point() -> InitProcessGroupKwargs:
    """Returns how the processes of a run find each other, also those that `torchrun` has restarted.

    It keeps its store when it restarts them (seen with torch 2.14), and they would connect to the dead ones that have
    left their addresses in it: each start has a part of the store to itself.
    """
    return InitProcessGroupKwargs(init_method=f"{_SCHEME}://")


def _meet(url: str, **settings: Any) -> Iterator[tuple[torch.distributed.Store, int, int]]:
    global _watch
    store, rank, world_size = next(torch.distributed.rendezvous("env://", **settings))
    if world_size == 1:
        yield store, rank, world_size
        return
    _watch = Watch(store, rank, world_size)
    yield torch.distributed.PrefixStore(_watch.token, store), rank, world_size


if torch.distributed.is_available():
    torch.distributed.register_rendezvous_handler(_SCHEME, _meet)

_watch: Watch | None = None


@contextlib.contextmanager
def naming_lost_processes(way_on: Callable[[], str] | None = None) -> Iterator[None]:
    """Says which process was lost, and how to go on, in the place of what a collective says.

    Args:
        way_on: How.

    Raises:
        ProcessLostError: if one is lost.
    """
    if _watch is not None and way_on is not None:
        _watch.way_on = way_on
    try:
        yield
    except Exception as error:
        if not tells_of_loss(error):
            raise
        if tells_of_wrong_network(error):
            raise ProcessLostError(WRONG_NETWORK) from error
        peer, way = ("", way_on) if _watch is None else (_watch.lost_process(), _watch.way_on)
        raise ProcessLostError(lost_message(peer, way() if way else "")) from error


def leave_processes() -> None:
    """Lets the other processes of a run go on alone; to be called when nothing is waited for any more."""
    if _watch is not None:
        _watch.end()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # DeepSpeed keeps groups of its own, and forgets them only where it ends them itself.
        own = sys.modules.get("deepspeed.comm")
        (own if own is not None and own.is_initialized() else PartialState()).destroy_process_group()
        # Gloo's threads let go of the last tensors only after a collective has returned, and need Python for it: where
        # Python ends meanwhile, the process aborts (torch 2.14).
        time.sleep(_SECONDS_TO_LET_GO)


def on_every_process(accelerator: Processes, function: Callable[[], Result]) -> Result:
    """Runs a function on every process; where it fails on one, it fails on all.

    Args:
        accelerator: Of the run.
        function: Must not itself wait for the other processes.

    Raises:
        Exception: the process's own; else, where another process failed, `ValueError` or `RuntimeError` with
            its message.
    """
    error: Exception | None = None
    try:
        result = function()
    except Exception as raised:
        error = raised
    if accelerator.num_processes > 1:
        message = None
        if error is not None:
            usual = isinstance(error, (ValueError, OSError))
            where = f"process {accelerator.process_index} on {platform.node()}"
            message = (usual, f"{where}: {error if usual else repr(error)}")
        failed = [found for found in gather_object([message]) if found is not None]
        if error is None and failed:
            usual, text = failed[0]
            raise (ValueError if usual else RuntimeError)(text)
    if error is not None:
        raise error
    return result


def on_main_process(accelerator: Processes, function: Callable[[], Result]) -> Result:
    """Runs a function on the main process and returns its result on every process; fails on all or on none."""
    results = [on_every_process(accelerator, lambda: function() if accelerator.is_main_process else None)]
    broadcast_object_list(results)
    return results[0]  # type: ignore[return-value]


def same_on_every_process(accelerator: Processes, tensors: Iterable[Tensor]) -> None:
    """Gives tensors, in place, the values that they have on the main process; to be called on all."""
    if accelerator.num_processes > 1:
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.clone()))
