"""Converts, checks and divides annotations, those of other tools too.

re2tal annotations check annotations.json --videos videos --html report.html
re2tal annotations convert match.eaf --output annotations.json
re2tal annotations split annotations.json --output split.json

`re2tal annotations ACTION --help` tells the options of each.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from ._command import run_command

ACTIONS = {
    "check": "a report before any training, as text and as a page with pictures",
    "convert": "to JSON as training reads it, or for another tool",
    "split": "into training and validation",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    listing = "; ".join(f"{name}: {what}" for name, what in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, help=listing)


def run(arguments: argparse.Namespace) -> int:
    return main([arguments.action])


def main(arguments: list[str] | None = None) -> int:
    """Runs the action that the first argument names with the others; see [`run_command`]."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ACTIONS:
        return importlib.import_module(f"{__package__}._annotations_{given[0]}").main(given[1:])
    return run_command(__doc__, add_options, run, given)


if __name__ == "__main__":
    sys.exit(main())
