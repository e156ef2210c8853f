"""Names what is likely wrong with a recipe, its data or a run.

re2tal doctor ut_interaction data.annotations=annotations.json data.videos=videos
re2tal doctor runs/mine

Each finding says what was seen, the likely cause, and the fix. Nothing is written but --json. The exit code is 0 where
nothing was found, and 1 where something was.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from ..data.whole_files import check_writable, written_whole
from ..doctor.examination import findings
from ..doctor.first_steps import NUM_STEPS
from ..training.arguments import load_recipe, recipe_names
from ..training.model_source import near_folder
from ..training.run_folder import RECIPE
from ..value_checks import NOT_NEGATIVE, did_you_mean, shown
from ._command import add_overrides, number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help=f"folder of a run, a YAML file, or one of {recipe_names()}")
    add_overrides(parser)
    parser.add_argument("--json", metavar="FILE", help="write the findings as JSON, too")
    parser.add_argument(
        "--steps",
        type=number(int, NOT_NEGATIVE),
        default=NUM_STEPS,
        help="of training that are tried; 0 for none; default %(default)s",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        if Path(arguments.json).is_dir():
            raise IsADirectoryError(f"--json {arguments.json} is a folder: name a file.")
        check_writable(Path(arguments.json).parent, "--json")
    folder, source = _run_or_recipe(arguments.target)
    found = findings(load_recipe(source, arguments.overrides, arguments.imports), folder, arguments.steps)
    for finding in found:
        print(f"{finding}\n")
    print(f"{len(found)} finding{'s' * (len(found) > 1)}." if found else "Nothing was found.")
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(Path(arguments.json)) as partial:
            text = json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False)
            partial.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    return 1 if found else 0


def _run_or_recipe(target: str) -> tuple[Path | None, str]:
    """The folder of a run, None for a recipe, and the recipe's name."""
    folder = Path(target)
    if target in recipe_names() or folder.is_file():
        return None, target
    if (folder / RECIPE).is_file():
        return folder, str(folder / RECIPE)
    if folder.is_dir():
        raise ValueError(f"{target} holds no {RECIPE}: name the folder of a run, the --output of re2tal train.")
    near = near_folder(target)
    hint = f"{near}." if near else f"; {did_you_mean(target, recipe_names())}"
    raise ValueError(f"{shown(target)} is neither a run nor a recipe{hint}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments, log_level=logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
