"""Writes what came of a run on one page: curves, errors, the worst and the best videos, what to try next.

re2tal report runs/mine

`re2tal train` writes it at the end, into the run folder. The page needs no other file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..data.whole_files import check_writable
from ..report.page import NAME, write_report
from ..training.arguments import load_recipe
from ..training.localization import read_subset
from ..training.run_folder import RECIPE
from ._command import run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run of re2tal train")
    parser.add_argument("--annotations", help="where they lie now; by default where the run had them")
    parser.add_argument("--videos", help="where these lie now")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"by default {NAME} in the run folder")


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.run)
    output = arguments.output or folder / NAME
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: name a file.")
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} holds no {RECIPE}: name the folder of a run, the --output of re2tal train.")
    check_writable(output.parent, "--output")
    places = {"annotations": arguments.annotations, "videos": arguments.videos}
    overrides = [f"data.{name}={json.dumps(value)}" for name, value in places.items() if value]
    recipe = load_recipe(str(folder / RECIPE), [*overrides, "imports=[]"])
    annotations = read_subset(recipe.data, recipe.data.validation_subset, repair=False)
    write_report(folder, recipe, annotations, output)
    print(output)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
