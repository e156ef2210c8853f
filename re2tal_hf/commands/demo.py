"""Opens a page in the browser that finds actions in videos; needs the extra [app].

re2tal demo --model runs/first

Each setting is also an environment variable: RE2TAL_ and its name in capitals.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys

from ..demo.settings import add_settings, settings_of
from ._command import run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, os.environ)


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("The page needs Gradio: pip install 're2tal_hf[app]'.")
    # After the check: its modules import Gradio.
    from ..demo.page import Page

    Page(settings_of(options)).launch()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
