"""Starts a command in several processes, with the options of `accelerate launch`; what fails in it is said once.

re2tal launch --multi_gpu --num_processes 2 train --recipe quickstart --output runs/first ...
re2tal launch --multi_gpu --num_processes 2 evaluate --model runs/first/best ...

`accelerate launch -m re2tal_hf.commands.train ...` does the same, and puts a traceback of its own under every error.
"""

from __future__ import annotations

import logging
import subprocess
import sys

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from .__main__ import commands


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns the exit code of the process that failed first, or 0."""
    parser = launch_command_parser()
    parser.prog, parser.description = "re2tal launch", __doc__
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    name = options.training_script.replace("-", "_")
    if name not in commands():
        parser.error(f"{options.training_script!r} is none of the commands: {', '.join(commands())}")
    options.training_script, options.module = f"re2tal_hf.commands.{name}", True
    # A process that fails says itself why; these would repeat that it failed.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(options)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode)
    except ChildFailedError as error:
        return _exit_code(error.get_first_failure()[1].exitcode)
    return 0


def _exit_code(status: int) -> int:
    """Of a process that a signal has ended, the one that a shell gives."""
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
