"""`re2tal NAME ...`: runs one of the commands; without a name, lists them."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

USAGE = "usage: re2tal COMMAND ...    (re2tal COMMAND --help tells its options)"


def commands() -> dict[str, str]:
    """Returns the commands by name with the first line of their docstrings; none of them is imported."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("_"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: text.partition("\n")[0] for name, text in texts.items()}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the first argument names with the others."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    known = commands()
    if name in ("-h", "--help"):
        width = max(map(len, known))
        print("\n".join([USAGE, "", *(f"  {command:{width}}  {line}" for command, line in known.items())]))
        return 0
    if name.replace("-", "_") not in known:
        print(f"{USAGE}\nre2tal: error: {name!r} is none of the commands: {', '.join(known)}.", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"re2tal_hf.commands.{name.replace('-', '_')}").main(rest)
    except KeyboardInterrupt:  # while it is imported
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
