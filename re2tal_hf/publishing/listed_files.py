"""Files that may be published: regular ones whose names are on a list, and nothing behind a link."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

logger = logging.getLogger(__name__)

# They come and go with use; nobody needs to hear of them.
_CACHES = ("__pycache__", "*.pyc", "*.pyi")


def is_regular(root: Path, name: str) -> bool:
    """Whether a path in a folder is a regular file that neither is a link nor lies behind one."""
    path = root
    for part in Path(name).parts:
        path = path / part
        if part == ".." or path.is_symlink():
            return False
    return path.exists() and stat.S_ISREG(path.lstat().st_mode)


def listed_files(root: Path, patterns: Sequence[str]) -> list[str]:
    """Returns the regular files of a folder that fit one of the patterns, and names all others in one line of the log.

    Args:
        root: The folder; neither links in it nor folders in which nothing can fit are entered.
        patterns: Paths in the folder, `*` for any part of one name; a name that begins with a dot fits only itself.
    """
    exact = set(patterns)
    parents = {name[:end] for name in patterns for end, letter in enumerate(name) if letter == "/"}
    split = [pattern.split("/") for pattern in patterns if "*" in pattern]
    found: list[str] = []
    left_out: list[str] = []

    def look_into(folder: Path, parts: list[str]) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            here = [*parts, entry.name]
            name = "/".join(here)
            if any(fnmatchcase(entry.name, cache) for cache in _CACHES):
                continue
            if entry.is_symlink():
                left_out.append(f"{name} (a link)")
            elif entry.is_dir() and (name in parents or any(_fits(here, pattern[: len(here)]) for pattern in split)):
                look_into(folder / entry.name, here)
            elif entry.is_file() and (name in exact or any(_fits(here, pattern) for pattern in split)):
                found.append(name)
            else:
                left_out.append(f"{name}/" if entry.is_dir() else name)

    look_into(root, [])
    if left_out:
        logger.warning("Left out of %s, not being on the list of what is published: %s", root, ", ".join(left_out))
    return found


def copy_listed(root: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copies the files that `listed_files` returns."""
    for name in listed_files(root, patterns):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target / name, follow_symlinks=False)


def _fits(parts: list[str], pattern: list[str]) -> bool:
    return len(parts) == len(pattern) and all(
        part == wanted or (not part.startswith(".") and fnmatchcase(part, wanted))
        for part, wanted in zip(parts, pattern, strict=True)
    )
