"""YAML as recipes use it: plain values as YAML 1.2 reads them, and no key twice.

PyYAML keeps to YAML 1.1, where `1e-4` is text, `010` is 8, `1:30` is 90 and `no` is false.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# The core schema, https://yaml.org/spec/1.2.2/#103-core-schema
_PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list] = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As in PyYAML, but a key that is there twice is an error; one that replaces a merged one is not."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            line = key.start_mark.line + 1
            if before := lines.get((key.tag, key.value)):
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice, in line {before} and in line {line}")
            lines[key.tag, key.value] = line
        return node

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        """Decimal, whatever zeros it begins with, or by its prefix."""
        text = self.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list] = {}


for _tag, _pattern, _first in _PLAIN_VALUES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)


def read_yaml(text: str, source: str) -> Any:
    """Reads a YAML document.

    Args:
        text: The document.
        source: What error messages call it.

    Raises:
        ValueError: if it is not YAML, or a key is there twice.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derived from the safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error


def write_yaml(values: Any) -> str:
    """Returns a document that `read_yaml` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
