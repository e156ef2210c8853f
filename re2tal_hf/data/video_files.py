"""Video files in folders: which they are, and by which names they are found."""

from __future__ import annotations

import functools
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..video_features import FEATURE_EXTENSIONS, is_feature_file
from ..video_shard import SHARD_EXTENSION, locate, members_of
from .file_names import distinct_names

logger = logging.getLogger(__name__)

# By what cameras, phones, recorders, screens and the web write, then by raw streams.
VIDEO_EXTENSIONS = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".ismv", ".mj2", ".insv"),
        *(".mkv", ".webm", ".avi", ".divx", ".flv", ".ogv", ".ogm", ".wmv", ".asf", ".rm", ".rmvb", ".wtv", ".gif"),
        *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".mpv", ".m2p", ".vob", ".vro", ".mod", ".tod"),
        *(".ts", ".mts", ".m2ts", ".m2t", ".trp", ".tp", ".mxf", ".gxf", ".dv", ".dav", ".nut", ".ivf", ".y4m"),
        *(".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mjpg", ".mjpeg"),
    ]
)
# Beside a video of the same name these are a preview of it.
_PREVIEWS = frozenset([".gif"])
_PUT_BY_SYSTEMS = frozenset(["__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information"])


def same_name(name: str) -> str:
    """One form of a name for all that look alike: macOS writes accents apart from their letters, others together."""
    return unicodedata.normalize("NFC", name)


def find_videos(folder: str | Path) -> dict[str, list[Path]]:
    """Maps the stem of every video file under `folder`, in the form of `same_name`, to its paths.

    Links are followed, to folders too; what is reached on several ways is given once. Where there are no such files,
    the videos are those in its shards, see `video_shard`.

    Raises:
        FileNotFoundError: No such folder, or no video in it.
        ShardError: There are only shards, and one cannot be used.
    """
    return _find(Path(folder), "video", is_video_file, VIDEO_EXTENSIONS)


def find_features(folder: str | Path) -> dict[str, list[Path]]:
    """Maps the stem of every file of stored features under `folder` to its paths, as `find_videos` does of videos."""

    def is_features(path: Path) -> bool:
        return is_feature_file(path) and not is_hidden(path.name) and path.is_file()

    return _find(Path(folder), "feature", is_features, FEATURE_EXTENSIONS)


def _find(folder: Path, kind: str, wanted: Callable[[Path], bool], extensions: Iterable[str]) -> dict[str, list[Path]]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"{kind} folder {folder} {'is no folder' if os.path.exists(folder) else 'does not exist'}"
        )
    found: dict[str, dict[Path, Path]] = {}
    resolved = functools.cache(Path.resolve)  # of a folder, once for all that is in it
    files = list(files_under(folder))
    there = [path for path in files if wanted(path)]
    # An archive beside files is what they were unpacked from.
    for path in there or (_videos_in_shards(files) if wanted is is_video_file else []):
        file = path.resolve() if path.is_symlink() else resolved(path.parent) / path.name
        found.setdefault(same_name(path.stem), {}).setdefault(file, path)
    if not found:
        raise FileNotFoundError(
            f"{kind} folder {folder} holds no {kind} ({', '.join(sorted(extensions))}); hidden files and folders,"
            " and what systems and archives put beside videos, are passed over"
        )
    return {stem: _without_previews(list(paths.values())) for stem, paths in found.items()}


def files_of_id(video_id: str, files: Mapping[str, list[Path]], root: Path) -> list[Path]:
    """The files, of those that `find_videos` found under `root`, that an id means.

    It is the stem of their name, or follows a `v_` in it. It may also have the extension, and folders: the last is
    that of the file, unless the file lies in `root` itself.
    """
    whole = same_name(video_id)
    *folders, name = [part for part in re.split(r"[/\\]", whole) if part not in ("", ".")] or [""]
    stems = [name]
    if Path(name).suffix.lower() in VIDEO_EXTENSIONS:
        stems.append(Path(name).stem)
    if whole in files:  # which may have a backslash on some systems
        folders, stems = [], [whole]
    elif ".." in folders:
        return []
    found = next((files[stem] for of in stems for stem in (of, f"v_{of}") if stem in files), [])
    if folders:
        found = [path for path in found if path.parent == root or same_name(path.parent.name) == folders[-1]]
    exact = (
        [path for path in found if same_name(path.absolute().parent.as_posix()).endswith("/".join(["", *folders]))],
        [path for path in found if same_name(path.name) in (name, f"v_{name}")],
    )
    return min(filter(None, [*exact, found]), key=len, default=[])


def is_video_file(path: Path) -> bool:
    """Whether a file is a video by its name."""
    return _is_video_name(path) and path.is_file()


def _videos_in_shards(files: Iterable[Path]) -> Iterator[Path]:
    shards = (path for path in files if path.suffix.lower() == SHARD_EXTENSION)
    return (path for shard in shards for path in members_of(shard) if _is_video_name(path))


def _is_video_name(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none that a user means: hidden, or put there by a system or an archive."""
    return name.startswith(".") or name in _PUT_BY_SYSTEMS


def find_file(path: Path) -> Path | None:
    """The file of a path, whatever form the accents in the names of its folders and of itself have; also in a shard."""
    if (location := locate(path)) or str(path).isascii():
        return path if location else None
    existing = Path(path.anchor)
    for name in path.parts[bool(path.anchor) :]:
        if not os.path.exists(existing / name):
            alike = [entry for entry in _entries(existing) if same_name(entry) == same_name(name)]
            if not alike:
                return None
            name = alike[0]
        existing /= name
    return existing if existing.is_file() else None


def names_of_results(paths: Sequence[str | Path]) -> list[str]:
    """A name for the results of each video: its stem and, where several share that, as much of its path as they need.

    The names are fit for every file system, and differ on it: see `distinct_names`.
    """
    files = [Path(path).absolute() for path in paths]
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_key(file.stem), []).append(file)
    wanted: dict[Path, str] = {}
    for group in sorted(groups.values(), key=len):  # who shares his stem with nobody keeps it
        depths = range(max(len(file.parts) for file in group))
        forms = ([_part_of(file, depth, whole) for file in group] for depth in depths for whole in (False, True))
        names = next((form for form in forms if len(set(map(_key, form))) == len(group)), [group[0].stem] * len(group))
        wanted.update(zip(group, names, strict=True))
    chosen = dict(zip(wanted, distinct_names(wanted.values()), strict=True))
    return [chosen[file] for file in files]


def _part_of(file: Path, depth: int, whole: bool) -> str:
    """The name of a file, with or without its extension, after `depth` of its folders."""
    folders = file.parts[1:-1]
    return "_".join(
        [*folders[len(folders) - depth if depth < len(folders) else 0 :], file.name if whole else file.stem]
    )


def _key(name: str) -> str:
    return same_name(name).casefold()


def files_under(folder: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders, linked ones too, each folder once; none of those that are hidden."""
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_say_unreadable):
        status = os.stat(parent)
        # A link may lead to a folder that was seen already, or to one that holds it.
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_hidden(name))


def _say_unreadable(error: OSError) -> None:
    logger.warning("%s: not searched for videos (%s)", error.filename, error.strerror)


def _entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _without_previews(paths: list[Path]) -> list[Path]:
    videos = [path for path in paths if path.suffix.lower() not in _PREVIEWS]
    return sorted(videos or paths)
