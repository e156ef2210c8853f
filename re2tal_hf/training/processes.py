"""What the processes of a distributed run agree on, so that an error of one leaves none waiting for ever."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

Result = TypeVar("Result")


def on_every_process(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Runs a function on every process; where it fails on one, it fails on all.

    Args:
        accelerator ([`Accelerator`]): Of the run.
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


def on_main_process(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Runs a function on the main process and returns its result on every process; fails on all or on none."""
    results = [on_every_process(accelerator, lambda: function() if accelerator.is_main_process else None)]
    broadcast_object_list(results)
    return results[0]  # type: ignore[return-value]
