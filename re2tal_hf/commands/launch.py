"""Starts a command in several processes, with the options of `accelerate launch`; what fails in it is said once.

re2tal launch --multi_gpu --num_processes 2 train --recipe quickstart --output runs/first ...
re2tal launch --multi_gpu --num_processes 2 evaluate --model runs/first/best ...

`accelerate launch -m re2tal_hf.commands.train ...` does the same, and puts a traceback of its own under every error.
"""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys

import torch.distributed.run  # noqa: F401 - whose loggers are told to be quiet
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from .__main__ import commands


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns the exit code of the process that failed first, or 0."""
    parser = accelerate_launch.launch_command_parser()
    parser.prog, parser.description = "re2tal launch", __doc__
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    name = options.training_script.replace("-", "_")
    if name not in commands():
        parser.error(f"{options.training_script!r} is none of the commands: {', '.join(commands())}")
    options.training_script, options.module = f"re2tal_hf.commands.{name}", True
    # A process that ends says itself why; these would repeat that it has ended.
    for logger in list(logging.root.manager.loggerDict):
        if logger.startswith("torch.distributed.elastic"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
    accelerate_launch.simple_launcher = _run_one_process
    try:
        accelerate_launch.launch_command(options)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        # The processes have ended, and said how to go on.
        return 128 + error.sigval
    return 0


def _run_one_process(options: argparse.Namespace) -> None:
    """In place of Accelerate's own, which ends before its process and leaves it to itself when a signal comes.

    Raises:
        CalledProcessError: where the exit code is not 0.
    """
    command, environment = prepare_simple_launcher_cmd_env(options)
    process = subprocess.Popen(command, env=environment)
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _: process.send_signal(received)) for number in signals]
    try:
        code = process.wait()
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    if code:
        raise subprocess.CalledProcessError(code, command)


def _exit_code(status: int) -> int:
    """Of a process that a signal has ended, the one that a shell gives."""
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
