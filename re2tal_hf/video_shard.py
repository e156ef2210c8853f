"""Videos in shards: a member of a tar archive has a path below the archive, as a file has in its folder.

`data/train-00000.tar/a.mp4` is the member `a.mp4` of `data/train-00000.tar`, which has the form of WebDataset. Nothing
is unpacked: the headers of the archive are read once, and a video is the range of bytes behind its own.
"""

from __future__ import annotations

import functools
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

SHARD_EXTENSION = ".tar"
_BLOCK = 512


class ShardError(ValueError):
    """An archive that is damaged, or is not as a shard must be; the message names it and what to do."""


class Location(NamedTuple):
    """Where the bytes of a file lie.

    Attributes:
        file: the file itself, or the archive that it is in.
        start: its first byte there.
        size: number of bytes.
        changed: when the file was changed, in nanoseconds.
    """

    file: str
    start: int
    size: int
    changed: int


def locate(path: str | Path) -> Location | None:
    """Returns where the bytes of a file, or of a member of a shard, lie; None where there is no such file.

    Raises:
        ShardError: if the shard cannot be used.
        OSError: if it may not be read.
    """
    text = os.fspath(path)
    if os.path.isfile(text):
        status = os.stat(text)
        return Location(text, 0, status.st_size, status.st_mtime_ns)
    for shard, member in names_in_shards(text):
        if os.path.isfile(shard):
            status = os.stat(shard)
            place = _members(shard, status.st_size, status.st_mtime_ns).get(member)
            return None if place is None else Location(shard, *place, status.st_mtime_ns)
    return None


def names_in_shards(path: str) -> Iterator[tuple[str, str]]:
    """The shards in which a path may name a member, by its text alone, and how it is called there."""
    parts = Path(path).parts if SHARD_EXTENSION in path.lower() else ()
    for number, part in enumerate(parts[:-1], 1):
        if part.lower().endswith(SHARD_EXTENSION):
            yield os.path.join(*parts[:number]), "/".join(parts[number:])


def members_of(shard: str | Path) -> list[Path]:
    """Paths of all files in a shard, in its order.

    Raises:
        ShardError: if it is cut off or damaged, is no tar archive without compression, has two members of one name or
            one whose name leads out of it.
        OSError: if it may not be read.
    """
    status = os.stat(shard)
    return [Path(shard, name) for name in _members(os.fspath(shard), status.st_size, status.st_mtime_ns)]


def open_member(path: str | Path) -> io.RawIOBase | None:
    """Opens a member of a shard for reading; None where the path is that of no member.

    Raises:
        ShardError, OSError: as `locate` does.
    """
    if os.path.isfile(path):
        return None
    location = locate(path)
    return None if location is None else _Member(location)


def open_file(path: str | Path) -> io.RawIOBase | BinaryIO:
    """Opens a file, or a member of a shard, for reading.

    Raises:
        ShardError, OSError: as `locate` does, and where there is no such file.
    """
    return open_member(path) or open(path, "rb")


class _Member(io.RawIOBase):
    """Reads a member of a shard, and nothing before or behind it."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._file = open(location.file, "rb")  # noqa: SIM115 - closed with this
        self._position = 0

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._location.size - self._position))
        self._file.seek(self._location.start + self._position)
        count = self._file.readinto(view[:count])
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._location.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@functools.lru_cache(maxsize=2**16)
def _members(shard: str, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """First byte and size of each file in a shard, by name; `changed` is there for the cache."""
    found: dict[str, tuple[int, int]] = {}
    with open(shard, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
                for member in archive:
                    if member.isreg():
                        name = _checked_name(member, shard)
                        if name in found:
                            raise ShardError(f"{shard}: two members are called {name}; keep one.")
                        found[name] = member.offset_data, member.size
                # The library takes a damaged header for the end.
                file.seek(archive.offset)
                complete = file.read(_BLOCK) == bytes(_BLOCK)
        except tarfile.TarError as error:
            raise ShardError(
                f"{shard}: cut off or damaged, or no tar archive without compression ({error}); copy or make it anew."
            ) from error
    if not complete:
        last = f"behind {next(reversed(found))}" if found else "at its start"
        raise ShardError(f"{shard}: cut off or damaged {last}; copy or make it anew.")
    return found


def _checked_name(member: tarfile.TarInfo, shard: str) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ShardError(f"{shard}: the name {member.name!r} of a member leads out of the archive; make it anew.")
    if member.issparse():
        raise ShardError(f"{shard}: {name} is stored with holes; make the archive anew, without --sparse.")
    return str(name)
