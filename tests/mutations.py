"""Wrong inputs by the thousand: whether each of them ends well.

A mutator draws one case from a seeded generator: an input that is right, with something in it changed. A case ends well
if it is refused with one line that names what is wrong, or taken and its result makes sense; in both in seconds, in
little memory, and without a file outside its folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from re2tal_hf.training.memory import peak_memory, reset_peak_memory

MAX_SECONDS = 10.0
MAX_MEBIBYTES = 4096
MAX_LETTERS = 1200
# What a bad input may end in; the rest are accidents.
REFUSALS = (ValueError, TypeError, OSError, ImportError, FloatingPointError)


@dataclass
class Case:
    """An input and what is done with it.

    Attributes:
        description: The input, for whom the case ends badly.
        run: What is done with it; a refusal is an exception of `REFUSALS`.
        names: Words of which a refusal must hold at least one: the file, the field, the argument.
        check: Raises an `AssertionError` if the result makes no sense.
    """

    description: str
    run: Callable[[], Any]
    names: tuple[str, ...]
    check: Callable[[Any], None] = lambda result: None


Mutator = Callable[[random.Random, Path], Case]
"""Draws a case; the folder is empty, the working folder, and the only one that may be written to."""


def bad_ends(mutator: Mutator, seeds: range) -> list[str]:
    """Runs a case for each seed and describes those that end badly."""
    found = []
    writes = _Writes.installed()
    for seed in seeds:
        with _folder() as folder, _limits():
            case = mutator(random.Random(seed), folder)
            with writes.watched(folder.parent):
                end = _end_of(case)
            if outside := writes.outside or [str(path) for path in folder.parent.iterdir() if path != folder]:
                end = f"wrote outside its folder: {outside[:3]}"
        if end:
            found.append(f"seed {seed}: {case.description}\n    {end}")
    return found


def run_main(main: Callable[[list[str]], int], *arguments: str) -> str:
    """Runs a command in this process.

    Returns:
        What it prints.

    Raises:
        ValueError: with the one line in which it refuses its arguments.
        AssertionError: if it ends in another way.
    """
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(list(arguments))
        except SystemExit as error:  # argparse's
            code = error.code if isinstance(error.code, int) else 1
    if code == 0:
        return output.getvalue()
    refusals = re.findall(r"^(?:.*: )?error: (.*)$", errors.getvalue(), flags=re.MULTILINE)
    assert code in (1, 2) and len(refusals) == 1, f"exit code {code}, {errors.getvalue()[-500:]!r}"
    raise ValueError(refusals[0])


def _end_of(case: Case) -> str:
    """Runs a case; returns what is wrong with its end, or nothing."""
    start, memory = time.process_time(), reset_peak_memory()
    try:
        case.check(case.run())
        end = ""
    except AssertionError as error:
        end = f"taken, or ended in another way: {error or traceback.format_exc(limit=-1)}"
    except REFUSALS as error:
        end = _fault_of_message(str(error), case.names)
        if end:
            end = f"{type(error).__name__}: {end}: {str(error)[:300]!r} ({_place(error)})"
    except Exception as error:
        end = f"{type(error).__name__}: {str(error)[:300]!r} ({_place(error)})"
    if (seconds := time.process_time() - start) > MAX_SECONDS:
        end = f"{seconds:.0f} s; {end}"
    if (taken := peak_memory() - memory) > MAX_MEBIBYTES:
        end = f"{taken:.0f} MiB; {end}"
    return end


def _fault_of_message(message: str, names: tuple[str, ...]) -> str:
    if len(message) > MAX_LETTERS:
        return f"{len(message)} letters"
    if len(message.splitlines()) > 1:
        return f"{len(message.splitlines())} lines"
    return "" if any(name in message for name in names) else f"names none of {names}"


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new empty folder inside one that is empty otherwise, as the working folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="re2tal-mutation-") as root:
        folder = Path(root) / "inside"
        folder.mkdir()
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            # A case may have taken away the right to delete.
            for path in (folder, *folder.rglob("*")):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Ends the process where a case hangs, and on Linux lets no case take the machine's memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + 2 * MAX_MEBIBYTES * 2**20, hard))
    faulthandler.dump_traceback_later(30 * MAX_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What the limit counts: more than is in memory, since threads reserve some."""
    [size] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:6] == "VmData"]
    return int(size) * 2**10


class _Writes:
    """What Python opens to write, makes, renames or deletes outside of a folder, by its audit events."""

    _one: _Writes | None = None

    def __init__(self) -> None:
        self.root: Path | None = None
        self.outside: list[str] = []
        # Libraries keep files of their own there.
        self._known = [Path(tempfile.gettempdir()).resolve(), Path("/dev"), Path("/proc")]
        if "HF_HOME" in os.environ:
            self._known.append(Path(os.environ["HF_HOME"]).resolve())

    @classmethod
    def installed(cls) -> _Writes:
        """The one of this process: a hook cannot be taken away again."""
        if cls._one is None:
            cls._one = cls()
            sys.addaudithook(cls._one)
        return cls._one

    @contextlib.contextmanager
    def watched(self, root: Path) -> Iterator[None]:
        self.root, self.outside = root.resolve(), []
        try:
            yield
        finally:
            self.root = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path = arguments[0] if arguments else None
            writes = event in ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.system", "shutil.rmtree")
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
        place = Path(os.path.realpath(os.fsdecode(path)))
        if "__pycache__" in place.parts or any(place.is_relative_to(known) for known in [self.root, *self._known]):
            return
        self.outside.append(f"{event} {place}")
