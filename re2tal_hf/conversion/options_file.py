"""Settings of a training elsewhere, read from its own file: an mmengine config, YAML or JSON. Nothing is executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..saved_code import parse_python
from ..saved_files import read_json
from ..training.model_source import near_folder
from ..training.recipe_yaml import MAX_BYTES, read_yaml
from ..value_checks import check_value, shown

MAX_BASES = 32
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Options:
    """What an options file says, by dotted names.

    Args:
        values: Nested mappings.
        source: What error messages call them.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values, self.source = values, source

    @property
    def name(self) -> str:
        """Of the file, without its folders."""
        return Path(self.source).name

    def get(self, place: str, kind: Any, default: Any = None) -> Any:
        """Returns a value, checked; the default where there is none.

        Args:
            place: Dotted name, such as `"model.projection.arch"`.
            kind: Its type and range, as of `value_checks`.
            default: See above.

        Raises:
            ValueError: if it is of another type; names the file and the place.
        """
        value: Any = self.values
        for key in place.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return check_value(f"{self.source}: {place}", value, kind)


def read_options(path: Path) -> Options:
    """Reads an options file: `.py` as mmengine's configs, `.yaml` or `.json`.

    Of Python, assignments of plain values, `dict(...)`, names assigned before and sums are understood, and `_base_`;
    what else is assigned is left out.

    Raises:
        ValueError: if it cannot be read as that; names the file, the line and what is wrong.
    """
    if not path.is_file():
        raise ValueError(f"--options {path}: there is no such file{near_folder(str(path))}.")
    if path.suffix == ".py":
        values: Any = _read_python(path, [])
    elif path.suffix in (".yaml", ".yml"):
        values = read_yaml(path.read_bytes()[: MAX_BYTES + 1], str(path))
    elif path.suffix == ".json":
        values = read_json(path)
    else:
        raise ValueError(f"--options {path}: give a .py, .yaml or .json file.")
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} holds {shown(values)}; it must hold settings by name.")
    return Options(values, str(path))


def attention_windows(options: Options, place: str) -> int | list[int | None] | None:
    """Returns the width of a local attention, or one a level where these differ; None for a full one, the default."""
    said = options.get(place, int | list[int], -1)
    widths = [width if width > 1 else None for width in (said if isinstance(said, list) else [said])]
    return widths if len(set(widths)) > 1 else next(iter(widths), None)


def perception_windows(options: Options, place: str) -> dict[str, Any]:
    """Returns the windows of TriDet's blocks, by the name of [`Settings`].

    Of one number nothing is said, since it stands for the levels that there are, and the weights tell them.
    """
    windows = options.get(place, int | list[int])
    if not isinstance(windows, list):
        return {}
    windows = [1, *windows[1:]]  # the blocks at full resolution see one step, whatever is said there
    return {"head_config.window": 1 if set(windows) == {1} else windows}


def _read_python(path: Path, above: list[Path]) -> dict[str, Any]:
    if path.resolve() in above or len(above) > MAX_BASES:
        raise ValueError(f"{path} names itself as its _base_.")
    if not path.is_file():
        raise ValueError(f"{above[-1]} builds on {path}, which is not there: give it its place among its _base_ files.")
    try:
        values = _assigned(parse_python(path.read_bytes()[: MAX_BYTES + 1], path), path)
    except SyntaxError as error:
        raise ValueError(f"{path} is no Python (line {error.lineno}: {error.msg}).") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is nested too deep for settings.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _read_python(path.parent / str(base), [*above, path.resolve()]))
    return _merge(merged, values)


def _assigned(tree: ast.Module, path: Path) -> dict[str, Any]:
    """The values of a module's assignments."""
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1):
            raise ValueError(f"line {statement.lineno} is no assignment, and nothing is executed; write it out.")
        target = statement.targets[0]
        name = target.id if isinstance(target, ast.Name) else ""
        try:
            values[name] = _value(statement.value, values)
        except (TypeError, ArithmeticError, LookupError) as error:
            if name in ("_base_", "model", "dataset", "post_processing"):
                reason = f"{name} is no plain value ({error}); write it out."
                raise ValueError(f"line {statement.lineno}: {reason}") from error
            values.pop(name, None)
    values.pop("", None)
    return values


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression; lists stand for tuples.

    Raises:
        TypeError: if it is of no kind that is understood.
    """
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part, names) for part in node.elts]
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise TypeError("** in it")
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, names): _value(value, names) for key, value in pairs if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        values: dict[str, Any] = {}
        for keyword in node.keywords:
            value = _value(keyword.value, names)
            values |= value if keyword.arg is None else {keyword.arg: value}
        return values
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, names), _value(node.right, names)
        if all(isinstance(side, int | float) for side in (left, right)):
            return _OPERATORS[type(node.op)](left, right)
    raise TypeError(f"{ast.unparse(node)[:60]} in it")


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The rule of mmengine: mappings are merged, unless with `_delete_`; everything else is replaced."""
    merged = dict(base)
    for key, value in own.items():
        if not isinstance(value, Mapping):
            merged[key] = value
            continue
        part = {name: inner for name, inner in value.items() if name != "_delete_"}
        before = base.get(key)
        keep = isinstance(before, Mapping) and not value.get("_delete_")
        merged[key] = _merge(before if keep and isinstance(before, Mapping) else {}, part)
    return merged
