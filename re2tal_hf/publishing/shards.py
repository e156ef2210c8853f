"""Videos of a dataset in tar shards, in the form of WebDataset: each with a JSON file of what is known of it."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.whole_files import naming
from ..video_shard import SHARD_EXTENSION, open_file


def names_in_shards_of(split: str, names: Sequence[str], paths: Sequence[Path], max_size: int) -> list[str]:
    """Shares videos out among shards, in their order.

    Args:
        split: Begins the names of the shards.
        names: Of the videos.
        paths: Their files.
        max_size: Bytes of videos in a shard; a larger video has one of its own.

    Returns:
        The path of each below the folder of the split: "train-00000.tar/a.mp4".

    Raises:
        OSError: if one cannot be read.
    """
    number = filled = 0
    placed = []
    for name, path in zip(names, paths, strict=True):
        with open_file(path) as file:
            size = file.seek(0, io.SEEK_END)
        if filled and filled + size > max_size:
            number, filled = number + 1, 0
        filled += size
        placed.append(f"{split}-{number:05d}{SHARD_EXTENSION}/{name}")
    return placed


def write_shards(folder: Path, names: Sequence[str], paths: Sequence[Path], rows: Sequence[dict[str, Any]]) -> None:
    """Writes the shards of a split. Equal videos and rows make equal bytes.

    Args:
        folder: Of the split; made where it is not there.
        names: As `names_in_shards_of` gives them.
        paths: Files of the videos.
        rows: What is known of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = zip(names, paths, rows, strict=True)
    for shard, of_shard in itertools.groupby(members, key=lambda member: member[0].partition("/")[0]):
        with naming(folder / shard), tarfile.open(folder / shard, "w", encoding="utf-8") as archive:
            for name, path, row in of_shard:
                name = name.partition("/")[2]
                with open_file(path) as file:
                    _add(archive, name, file)
                content = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
                _add(archive, str(Path(name).with_suffix(".json")), io.BytesIO(content))


def _add(archive: tarfile.TarFile, name: str, file: Any) -> None:
    header = tarfile.TarInfo(name)
    header.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    archive.addfile(header, file)
