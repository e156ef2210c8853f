"""What a configuration chooses by name: backbone families and heads, ours and those of a user's own file."""

from __future__ import annotations

import sys
from typing import Any, Generic, TypeVar

from .value_checks import did_you_mean, shown

Entry = TypeVar("Entry")


class Registry(dict[str, Entry], Generic[Entry]):
    """Entries by name, in the order in which they were registered.

    Args:
        setting: what chooses among them, for messages.
    """

    def __init__(self, setting: str):
        super().__init__()
        self.setting = setting
        self._classes: dict[str, type] = {}

    def register(self, name: str, cls: type, entry: Entry) -> None:
        """Adds an entry, or replaces that of the same class, defined anew.

        Raises:
            ValueError: if the name belongs to another class.
        """
        known = self._classes.get(name, cls)
        if _place(known) != _place(cls):
            raise ValueError(
                f"{self.setting}: the name {name!r} of {cls.__qualname__} belongs to "
                f"{known.__module__}.{known.__qualname__}; choose another."
            )
        self._classes[name] = cls
        self[name] = entry

    def remove(self, name: str) -> None:
        """Takes an entry away; its name is free again."""
        del self[name], self._classes[name]

    def find(self, name: Any, where: str = "") -> Entry:
        """Returns the entry of a name; `ValueError`, which begins with `where`, if there is none."""
        if not isinstance(name, str) or name not in self:
            raise ValueError(
                f"{where}{self.setting} is {shown(name)}; {did_you_mean(name, self)} One of your own is known once "
                "its file is imported (--import)."
            )
        return self[name]


def _place(cls: type) -> tuple[str | None, str]:
    return getattr(sys.modules.get(cls.__module__), "__file__", None), cls.__qualname__
