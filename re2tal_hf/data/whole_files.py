"""Files and folders that are there as a whole or not at all, also where a disk is full or may not be written to."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

_FIXES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "its disk, or ulimit -f, takes no file of that size",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder on a disk that may be written to",
}
# What PyTorch says of a file that it cannot write whole.
_ZIP_WRITER = ("inline_container", "PytorchStreamWriter", "iostream")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a name beside a path to write a file to, and then puts that file in the place of the one of the path.

    Raises:
        OSError: where it cannot be written; names the path, and nothing of it is left.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with naming(path):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets errors of writing name the file or folder that was to be, and the fix, whichever library they are of.

    Raises:
        OSError: then.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by hand, in words of its own
            raise
        raise _named(error.errno, str(error.strerror), path) from error
    except SafetensorError as error:
        raise _named(errno.ENOSPC if "os error 28" in str(error) else None, str(error), path) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _ZIP_WRITER):
            raise
        # It does not say why.
        full = shutil.disk_usage(path.parent).free < 2**20
        raise _named(errno.ENOSPC if full else None, str(error).partition("\n")[0], path) from error


def check_writable(folder: Path, option: str = "--output") -> None:
    """Checks that files can be written to a folder, which need not exist yet, and leaves nothing there.

    Args:
        folder: Of the files to come.
        option: What named it.

    Raises:
        OSError: if they cannot, or if something else has the name.
    """
    present = folder.absolute()
    while not present.exists() and present != present.parent:
        present = present.parent
    if not present.is_dir():
        raise NotADirectoryError(f"{option} {folder}: {present} is no folder: choose another one.")
    try:
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        raise _named(error.errno, str(error.strerror), folder) from error


def check_room(folder: Path, needed: int) -> None:
    """Checks that a disk has room for what is to be written.

    Args:
        folder: Where to; exists.
        needed: Bytes.

    Raises:
        OSError: if it has not.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            f"{folder} needs {needed / 2**20:.0f} MiB and its disk has {free / 2**20:.0f} MiB left: "
            f"{_FIXES[errno.ENOSPC]}, or choose another one."
        )


def _named(number: int | None, reason: str, path: Path) -> OSError:
    reason = os.strerror(number) if number else reason
    fix = f": {_FIXES[number]}" if number in _FIXES else ""
    return OSError(f"{path} cannot be written ({reason}){fix}.")
