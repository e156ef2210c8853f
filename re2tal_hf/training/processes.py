"""What the processes of a distributed run agree on, so that an error of one leaves none waiting for ever."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast, broadcast_object_list, gather_object
from torch import Tensor

Result = TypeVar("Result")
Processes: TypeAlias = "Accelerator | PartialState"
"""Which process of a run this is; one of one where it runs alone."""
_SCHEME = "re2tal"


def start_processes() -> PartialState:
    """Returns which process of those that a launcher has started this is; joins it with the others.

    They may wait for each other for a day: shares of videos are not equally long.
    """
    settings = {**meeting_point().to_kwargs(), "timeout": timedelta(days=1)}
    return PartialState(cpu=not torch.accelerator.is_available(), **settings)


def meeting_point() -> InitProcessGroupKwargs:
    """Returns how the processes of a run find each other, also those that `torchrun` has restarted.

    It keeps its store when it restarts them (seen with torch 2.14), and they would connect to the dead ones that have
    left their addresses in it. Over several nodes its counts of restarts may differ; there it is left to itself.
    """
    return InitProcessGroupKwargs(init_method=f"{_SCHEME}://")


def _meet(url: str, **settings: Any) -> Iterator[tuple[torch.distributed.Store, int, int]]:
    several_nodes = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    attempt = "0" if several_nodes else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, world_size = next(torch.distributed.rendezvous("env://", **settings))
    yield torch.distributed.PrefixStore(f"attempt_{attempt}", store), rank, world_size


if torch.distributed.is_available():
    torch.distributed.register_rendezvous_handler(_SCHEME, _meet)


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
