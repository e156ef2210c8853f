"""Where a model is: in its folder, in that of a run, or on the Hub."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .run_folder import MODELS, complete_folder

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>\w[\w./-]{0,99}))?", re.A)


def model_folder(folder: str | Path) -> Path:
    """Returns the folder of a model: the folder itself or, where it is that of a run, `best/` in it, else `last/`."""
    folder = complete_folder(folder)
    inside = (complete_folder(folder / name) for name in MODELS)
    return next((path for path in (folder, *inside) if os.path.isfile(path / "config.json")), folder)


def find_model(source: str, option: str, revision: bool = False) -> str:
    """Returns the folder of a model, also where that of a run is named, or the Hub id as it is.

    Args:
        source: What the user calls the model.
        option: What messages call the option that names it.
        revision: Whether a Hub id may be `user/name@revision`.

    Raises:
        ValueError: if it is neither a folder with a model nor a Hub id.
    """
    folder = complete_folder(source)
    if os.path.isdir(folder):
        found = model_folder(folder)
        if not (found / "config.json").is_file():
            raise ValueError(
                f"{option} {source}: no config.json in it, in best/ or in last/; name the folder of a model or a run."
            )
        return str(found)
    if os.path.exists(folder):
        raise ValueError(f"{option} {source} is a file; name the folder of the model that it belongs to.")
    match = HUB_ID.fullmatch(source)
    if match is None or (match["revision"] and not revision):
        raise ValueError(f"{option} {source[:200]}: neither a folder nor a Hub id, user/name{near_folder(source)}.")
    return source


@contextlib.contextmanager
def explained(source: str, option: str) -> Iterator[None]:
    """Adds to what the Hub says of a name that it has no model of that there is no folder of it either."""
    try:
        yield
    except OSError as error:
        if Path(source).exists():
            raise
        raise ValueError(
            f"{option} {source}: there is no such folder{near_folder(source)}, and from the Hub it cannot be had: "
            f"{' '.join(str(error).split())}"
        ) from error


def near_folder(source: str) -> str:
    """What a message adds on a path that there is not: one like it that there is, or nothing."""
    path = Path(source)
    for place, parent in ((path, path.parent), *zip(path.parents, path.parents[1:], strict=False)):
        if os.path.isdir(parent):
            names = [inside.name for inside in parent.iterdir()] if place.name else []
            like = difflib.get_close_matches(place.name, names, 1)
            whole = parent / like[0] / path.relative_to(place) if like else path
            return f" (did you mean {whole if whole.exists() else whole.parent}?)" if like else ""
    return ""
