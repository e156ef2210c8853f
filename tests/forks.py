"""Processes that are forked from one that has the imports done; for scripts, since a test's process has threads."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def start(function: Callable[[], object], output: Path, environment: Mapping[str, str] | None = None) -> int:
    """Runs a function in a fork that writes to the file `output`; returns the process's id."""
    process = os.fork()
    if process:
        return process
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment or {})
        function()
        status = 0
    except BaseException as error:
        status = 1
        os.write(2, "".join(traceback.format_exception(error)).encode())
    os._exit(status)


def wait(process: int, seconds: float = 120.0) -> int | None:
    """Returns the exit status, negative where a signal ended the process; None where it had to be ended here."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.01)


def run_group(functions: Sequence[Callable[[], object]], folder: Path) -> list[tuple[int | None, str]]:
    """Runs functions as the processes of a distributed run, each as if on a host of its own.

    Returns:
        Of each its exit status, as `wait` gives it, and what it wrote.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(len(functions)), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    outputs = [folder / f"process_{rank}.txt" for rank in range(len(functions))]
    processes = [
        start(function, output, {**common, "RANK": str(rank)})
        for rank, (function, output) in enumerate(zip(functions, outputs, strict=True))
    ]
    return [(wait(process), output.read_text()) for process, output in zip(processes, outputs, strict=True)]
