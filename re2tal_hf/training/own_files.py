"""A user's own files: brought into a command, they register architectures and heads."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .. import __name__ as PACKAGE
from .. import __path__ as package_path
from ..architecture import BACKBONES
from ..head import HEADS
from ..saved_code import own_code


def import_files(paths: Iterable[str | Path], option: str = "--import") -> None:
    """Imports a user's own files, each of which registers an architecture or a head.

    A file may import from this package and from files beside it. So may one that was saved with a model.

    Args:
        paths: Python files; those that were imported already are left as they are.
        option: What messages call the option or field that names them.

    Raises:
        ValueError: if there is no such file, it fails, registers nothing or could not be saved with a model.
    """
    for path in paths:
        _import_file(Path(path).resolve(), f"{option} {path}")


def _import_file(path: Path, given: str) -> None:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{given}: there is no such Python file.")
    try:
        own_code(path)  # what could not be saved is refused before anything is trained
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"{given}: {type(error).__name__}: {error}") from error
    name = f"{PACKAGE}.{path.stem}"  # where the imports of a file that was saved with a model lead
    if known := sys.modules.get(name):
        if Path(str(known.__file__)) != path:
            raise ValueError(f"{given}: {known.__file__} has the same name; give one of them another.")
        return
    for places in (package_path, sys.path):
        if str(path.parent) not in places:
            places.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    registered = {**BACKBONES, **HEADS}
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{given}: {type(error).__name__}: {error}") from error
    if registered == {**BACKBONES, **HEADS}:
        raise ValueError(f"{given} registers nothing: use register_backbone or register_head in it.")
