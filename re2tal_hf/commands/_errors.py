"""How an error ends a command: one line where the user can mend it, a report in a file where he cannot."""

from __future__ import annotations

import contextlib
import os
import platform
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from huggingface_hub.errors import HTTPError

from .. import __name__ as PACKAGE
from .. import __path__ as package_path
from ..data.readable_videos import UnreadableVideosError
from ..publishing.upload import UploadError
from ..training.interruption import exit_code
from ..version import __version__

USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, HTTPError, UploadError, UnreadableVideosError)
LIBRARIES = ("torch", "torchvision", "transformers", "huggingface_hub", "accelerate", "datasets", "evaluate", "av")
# What a shell gives of a process whose reader went away.
NOBODY_READS = 141
# PyTorch has a class for the memory of an accelerator only; so speak the processor's, and of data workers.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "killed by signal: Killed")
OUT_OF_SHARED_MEMORY = ("shared memory (shm)", "unable to allocate shared memory")
MAX_LETTERS = 300


def one_line(error: Exception) -> str:
    """Returns the message of an error; of one that PyTorch brings from a data worker, without the traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines[1:2] and lines[1].startswith("Original Traceback"):
        lines = [lines[-1].partition(": ")[2]]
    return " ".join(lines)


def expected(error: Exception) -> str:
    """Returns the line that tells the user what to mend; nothing where the fault is not his."""
    text = one_line(error)
    accident = isinstance(error, RuntimeError)
    if accident and any(sign in text for sign in OUT_OF_SHARED_MEMORY):
        return f"shared memory ran out ({_short(text)}): set data.num_workers=0, or give the machine more of it."
    if isinstance(error, MemoryError) or (accident and any(sign in text for sign in OUT_OF_MEMORY)):
        return (
            f"memory ran out ({_short(text) or type(error).__name__}): take a smaller batch (training.batch_size, "
            "--batch-size), fewer frames (processor.num_frames) or smaller ones (processor.size). In training, "
            "model.backprop=reversible keeps the least of the backbone for the backward pass, checkpoint keeps more, "
            "plain keeps everything, auto what training.memory_budget lets it, clips no more for more frames."
        )
    return text if isinstance(error, USER_ERRORS) else ""


def unexpected(error: Exception, command: str, arguments: Sequence[str]) -> str:
    """Returns what the user is told of an error that no input should end in.

    What helps to mend it goes into a file in the folder for temporary files or, where none can be written, before it.
    """
    report = _report(error, f"{command} {shlex.join(arguments)}")
    described = _short(f"{type(error).__name__}: {one_line(error)}")
    file, line, own = _place(error)
    said = f"internal error: {described} ({file}, line {line})\n"
    said += f"It came up in {file}, which is yours." if own else "The fault is re2tal_hf's, not yours."
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{command.replace(' ', '-')}-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as kept:
            kept.write(report)
    except OSError as reason:
        return f"{report}\n{said} No report could be kept: {reason}."
    return f"{said} Its traceback, the arguments and the versions, for whom you ask about it, are in\n{kept.name}"


def stopped(interrupt: KeyboardInterrupt) -> int:
    """Says, in one of the processes, that a signal has ended the command; returns the exit code."""
    # Lets go of progress bars, each of which then ends its line.
    traceback.clear_frames(interrupt.__traceback__)
    if os.environ.get("RANK", "0") == "0":
        print(str(interrupt) or "Stopped by Ctrl-C.", file=sys.stderr)
    return exit_code(interrupt)


def _report(error: Exception, command: str) -> str:
    versions = [f"{PACKAGE} {__version__}", *(f"{name} {_version(name)}" for name in LIBRARIES)]
    system = f"Python {platform.python_version()} on {platform.platform()}"
    return "\n".join([command, system, ", ".join(versions), "", *traceback.format_exception(error)])


def _place(error: Exception) -> tuple[str, int | None, bool]:
    """The innermost line of the traceback that is of this package or of a user's own file, and whether it is his."""
    frames = traceback.extract_tb(error.__traceback__)
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{PACKAGE}.")]
    files = {str(file) for module in modules if (file := getattr(module, "__file__", None))}
    frame = next((frame for frame in reversed(frames) if frame.filename in files), frames[-1])
    own = frame.filename in files and not Path(frame.filename).is_relative_to(package_path[0])
    return frame.filename, frame.lineno, own


def _short(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]} ..."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@contextlib.contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Ends the process quietly where nobody reads any more what it prints, as in `re2tal predict ... | head`.

    Raises:
        SystemExit: then.
    """
    streams = (sys.stdout, sys.stderr)
    try:
        yield
        for stream in streams:
            stream.flush()
    except OSError:
        gone = [stream for stream in streams if _has_no_reader(stream)]
        if not gone:
            raise
        for stream in gone:
            # Python prints at its end what it still has.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(NOBODY_READS) from None


def _has_no_reader(stream: IO[str]) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of the system
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))
