"""Videos that clients send, written to a folder of their own, and those that they name in allowed folders."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from ..data.video_limits import VideoError
from ..video_features import is_feature_file

MAX_NAME = 100
# Of an upload on the disk, whatever the client calls it: a name may make a file one of features.
UPLOAD_NAME = "video"


class TooLarge(Exception):
    """An upload has more bytes than may be."""


async def receive(chunks: AsyncIterator[bytes], folder: Path, max_bytes: int) -> Path:
    """Writes an upload into a folder, which is made.

    Args:
        chunks: Of the body.
        folder: For this upload alone; who calls removes it.
        max_bytes: Largest size taken.

    Returns:
        The path of the file.

    Raises:
        TooLarge: if it has more bytes.
        VideoError: if it has none.
        OSError: if there is no room for it.
    """
    folder.mkdir()
    path, size = folder / UPLOAD_NAME, 0
    with path.open("wb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge
            file.write(chunk)
    if not size:
        raise VideoError("The request has no body: send the bytes of a video as they are.")
    return path


def allowed_path(text: str, folders: Sequence[Path]) -> Path | None:
    """Returns a file in one of the folders, links followed; None for any other, whether it exists or not.

    Args:
        text: The path of a file, as it is or from one of the folders on.
        folders: Resolved ones.
    """
    if "\0" in text:
        return None
    for folder in folders:
        try:
            path = (folder / text).resolve()
            if path.is_relative_to(folder) and path.is_file() and not is_feature_file(path):
                return path
        except (OSError, RuntimeError, ValueError):  # too long, a circle of links
            continue
    return None


def shown_name(text: str) -> str:
    """What messages call a video: the last part of a name, in characters that are seen."""
    name = text.replace("\\", "/").rpartition("/")[2]
    seen = "".join(c for c in name if unicodedata.category(c)[0] not in "CZ" or c == " ")
    return seen.strip()[:MAX_NAME] or "video"
