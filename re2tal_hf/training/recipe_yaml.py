"""YAML as recipes use it: plain values as YAML 1.2 reads them, and mappings with text as keys, no key twice.

PyYAML, which takes the text apart, keeps to YAML 1.1, where `1e-4` is text, `010` is 8, `1:30` is 90 and `no` is false.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# The core schema, https://yaml.org/spec/1.2.2/#103-core-schema
_PLAIN_VALUES = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_TAG = "tag:yaml.org,2002:"
# PyYAML takes a second for so many.
MAX_BYTES = 2**16
# Counted wherever an alias repeats them.
MAX_VALUES = 2**14
MAX_DEPTH = 20
# Beyond, Python itself refuses to read a whole number.
MAX_DIGITS = 1000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list] = {"<": [(f"{_TAG}merge", re.compile("^<<$"))]}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list] = {}


for _name, (_pattern, _first) in _PLAIN_VALUES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


class _CompactDumper(_Dumper):
    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = True) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style)


def read_yaml(text: str | bytes, source: str) -> Any:
    """Reads a YAML document.

    Args:
        text: The document; as bytes in UTF-8, or with a byte order mark in UTF-16.
        source: What error messages call it.

    Returns:
        What JSON can hold, and NaN and infinite numbers.

    Raises:
        ValueError: if it is not YAML, holds other values, a key twice or that is no text, or a list or a mapping that
            is part of itself, or is too large for settings.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source} is too large for settings: {len(text)} characters, and at most {MAX_BYTES}.")
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _Reading().value(node, [])
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{source} is no text in UTF-8: {' '.join(str(error).split())}") from error
    except yaml.MarkedYAMLError as error:
        parts = [part for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{source}: {' '.join(' '.join(parts).split())}{place}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deep for settings.") from error


def write_yaml(values: Any, *, compact: bool = False) -> str:
    """Returns a document that `read_yaml` reads as the same values; with `compact`, a list in one line."""
    dumper = _CompactDumper if compact else _Dumper
    return yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True)


class _Reading:
    """From nodes of a document to values."""

    def __init__(self) -> None:
        self.values = 0

    def value(self, node: yaml.Node, above: list[yaml.Node]) -> Any:
        """The value of a node; `above` are those that it is part of."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise _fault(f"more than {MAX_VALUES} values, too many for settings", node)
        if any(node is part for part in above):
            raise _fault("an alias stands for what it is part of", node)
        if len(above) > MAX_DEPTH:
            raise _fault(f"nested more than {MAX_DEPTH} deep, too deep for settings", node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, [*above, node])
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, [*above, node]) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return _plain_value(node)
        raise _fault(f"the tag {_tag(node)} does not fit here", node)

    def _mapping(self, node: yaml.MappingNode, above: list[yaml.Node]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(part, yaml.MappingNode):
                        raise _fault("<< takes a mapping, or a list of them", part)
                    merged = self.value(part, above) | merged
                continue
            if key.tag != f"{_TAG}str" or not isinstance(key, yaml.ScalarNode):
                shown = (
                    f"{key.value[:50]!r}, which YAML reads as {_tag(key)}" if isinstance(key.value, str) else "a list"
                )
                raise _fault(f"a key must be text, not {shown}", key)
            line = key.start_mark.line + 1
            if before := lines.get(key.value):
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice, in line {before} and in line {line}")
            lines[key.value] = line
            own[key.value] = self.value(value, above)
        return merged | own


def _plain_value(node: yaml.ScalarNode) -> Any:
    kind, text = _tag(node), node.value
    if kind == "str":
        return text
    if kind not in _PLAIN_VALUES:
        raise _fault(f"the tag {kind} does not fit here", node)
    if not re.fullmatch(_PLAIN_VALUES[kind][0], text) or len(text) > MAX_DIGITS:
        raise _fault(f"{text[:50]!r} is no {kind}", node)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":  # decimal, whatever zeros it begins with
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _tag(node: yaml.Node) -> str:
    return str(node.tag)[:50].removeprefix(_TAG)


def _fault(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
