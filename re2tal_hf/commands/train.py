"""Trains a temporal action localizer from video files.

re2tal train --recipe quickstart --output runs/first data.annotations=annotations.json data.videos=videos

On several GPUs: re2tal launch train --recipe ...
"""

from __future__ import annotations

import argparse
import json
import sys

from ..training.arguments import load_recipe
from ..training.localization import LocalizationTrainer
from ._command import add_training_options, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_training_options(parser)
    parser.add_argument("--dataset", help="in place of data.annotations: a dataset, user/name[@revision] or a folder")
    parser.add_argument(
        "--streaming", action="store_true", help="fetch each video from the Hub when it is first needed"
    )


def run(options: argparse.Namespace) -> int:
    overrides = list(options.overrides)
    if options.dataset:
        overrides += [f"data.annotations={json.dumps(options.dataset)}", "data.videos=null"]
    if options.streaming:
        overrides.append("data.streaming=true")
    recipe = load_recipe(options.recipe, overrides, options.imports)
    LocalizationTrainer(recipe, options.output, resume=options.resume).run()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
