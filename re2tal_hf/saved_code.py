"""The code that is saved with a model, so that it loads where this package is not installed.

transformers saves the files that the model's own imports. Among them `families.py` imports all families and heads;
saved, it imports what the model uses, and the files of the others are left out. A file of a user's own, which registers
an architecture or a head, is saved too, its imports of ours made flat as all are there.
"""

from __future__ import annotations

import ast
import logging
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

_HERE = Path(__file__).resolve().parent
_PACKAGE = __name__.rpartition(".")[0]
# As transformers finds them, which fetches what is imported before it is imported.
_FLAT_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)
_FAMILIES = '''"""The backbone family, the head and the loss of this model; importing their files registers them."""

{imports}

FAMILIES = [{names}]
'''


def code_of(model: type, parts: Sequence[type]) -> dict[str, str]:
    """Returns all files of a model's code, text by name.

    A class that cannot travel is left out with a warning: the weights are not to be lost for it.

    Args:
        model: the model's class.
        parts: classes of its architecture, and of its head and loss if it has them.
    """
    files: dict[str, str] = {}
    found = []
    for cls in (model, *parts):
        try:
            path = _file_of(cls)
            files |= own_code(path) if path.parent != _HERE else {}
        except (OSError, SyntaxError, ValueError) as error:
            logger.warning("%s is not saved with the model, which will not load elsewhere: %s", cls.__qualname__, error)
        else:
            found.append((cls, path))
    imported = sorted({(path.stem, cls.__qualname__) for cls, path in found if cls is not model})
    files["families.py"] = _FAMILIES.format(
        imports="\n".join(f"from .{module} import {name}" for module, name in imported),
        names=", ".join(name for _, name in imported),
    )
    return files | _reached({path.stem for _, path in found}, files)


def save_code(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a model's code into a folder where transformers has saved that of all families, and takes away the rest.

    Args:
        folder: where the model was saved.
        files: see `code_of`.
    """
    for name in _reached({"families"}, {}).keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def own_code(path: Path) -> dict[str, str]:
    """Returns a user's own file and those beside it that it imports as they are saved with a model, text by name.

    Raises:
        ValueError: if a file has a name of ours or one that cannot be imported, or imports what cannot be saved with
            it; names file, line and remedy.
    """
    files: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path.name in files:
            continue
        if (_HERE / path.name).exists() or not path.stem.isidentifier():
            raise ValueError(
                f"{path} cannot be saved with a model under this name: give it one of letters, digits and "
                "underscores that no file of re2tal_hf has."
            )
        files[path.name], beside = _made_flat(path)
        waiting += beside
    return files


def _file_of(cls: type) -> Path:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file and cls.__module__ != "__main__" and getattr(module, cls.__qualname__, None) is cls:
        return Path(file).resolve()
    raise ValueError("define it in a file that is imported.")


def _reached(names: Iterable[str], files: Mapping[str, str]) -> dict[str, str]:
    """Files of ours that are imported, directly or not, by modules of these names; `files` stand for those of ours."""
    reached: dict[str, str] = {}
    waiting = set(names) | {name for text in files.values() for name in _FLAT_IMPORT.findall(text)}
    while waiting:
        name = f"{waiting.pop()}.py"
        if name not in files and name not in reached:
            reached[name] = (_HERE / name).read_text(encoding="utf-8")
            waiting |= set(_FLAT_IMPORT.findall(reached[name]))
    return reached


def parse_python(source: str | bytes, path: Path) -> ast.Module:
    """Returns the tree of a file's text; raises a `SyntaxError` for any text that is none."""
    try:
        return ast.parse(source, str(path))
    except SyntaxError:
        raise
    except ValueError as error:  # Python up to 3.11.3, of bytes of zero
        raise SyntaxError(str(error)) from error


def _made_flat(path: Path) -> tuple[str, list[Path]]:
    """The text of a file with flat imports, and the files beside it that it imports."""
    source = path.read_text(encoding="utf-8")
    lines, beside = source.splitlines(keepends=True), []
    imports = [node for node in ast.walk(parse_python(source, path)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(imports, key=lambda node: node.lineno, reverse=True):
        try:
            flat, files = _flat_imports(node, path)
        except ValueError as error:
            place = f"{path}, line {node.lineno}: `{ast.unparse(node)}`"
            raise ValueError(f"{place} cannot be saved with a model; {error}") from error
        beside += files
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        if flat:
            indent, rest = lines[first][: node.col_offset], lines[last].encode()[node.end_col_offset :].decode()
            if indent.strip():
                raise ValueError(f"{path}, line {node.lineno}: give `{ast.unparse(node)}` a line of its own.")
            lines[first : last + 1] = [f"{indent}{line}\n" for line in flat[:-1]] + [f"{indent}{flat[-1]}{rest}"]
    return "".join(lines), beside


def _flat_imports(statement: ast.Import | ast.ImportFrom, path: Path) -> tuple[list[str], list[Path]]:
    """What to write in place of an import, nothing if it stays, and the files beside `path` that it imports.

    Raises:
        ValueError: if it cannot be made flat; says what to do.
    """
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.name.partition(".")[0] == _PACKAGE or _beside(alias.name, path):
                raise ValueError(f"write `from {alias.name} import ...`, with the names that are used.")
        return [], []
    module = statement.module or ""
    if statement.level:
        if statement.level > 1 or not module or "." in module:
            raise ValueError("write `from .module import ...`, of a file beside it.")
        return [], [] if (_HERE / f"{module}.py").exists() else [path.with_name(f"{module}.py")]
    places: dict[str, list[ast.alias]] = {}
    if module == _PACKAGE:
        for alias in statement.names:
            places.setdefault(_defined_in(alias.name), []).append(alias)
    elif module.startswith(f"{_PACKAGE}."):
        places[_flat_name(module)] = statement.names
    elif file := _beside(module, path):
        return [_written(file.stem, statement.names)], [file]
    return [_written(place, names) for place, names in places.items()], []


def _defined_in(name: str) -> str:
    value = getattr(sys.modules[_PACKAGE], name, None)
    if value is None or isinstance(value, ModuleType):
        raise ValueError(f"write `from {_PACKAGE}.module import ...`, with the names that are used.")
    return _flat_name(value.__module__)


def _flat_name(module: str) -> str:
    name = module.removeprefix(f"{_PACKAGE}.")
    if not (_HERE / f"{name}.py").exists():
        raise ValueError(f"only files directly in {_PACKAGE} go with a model.")
    return name


def _written(module: str, names: Sequence[ast.alias]) -> str:
    return ast.unparse(ast.ImportFrom(module=module, names=list(names), level=1))


def _beside(module: str, path: Path) -> Path | None:
    """The file of a module if it lies beside `path`; None if it is one of Python's or of an installed library."""
    folder = path.parent
    if str(folder) in sysconfig.get_paths().values():
        return None
    file = getattr(sys.modules.get(module), "__file__", None) or folder.joinpath(*module.split(".")).with_suffix(".py")
    file = Path(file).resolve()
    if not file.is_relative_to(folder) or not file.exists():
        return None
    if file.parent != folder:
        raise ValueError(f"put what it needs of {file} into a file beside it.")
    return file
