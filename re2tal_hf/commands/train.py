"""Trains a temporal action localizer from video files.

re2tal train --recipe quickstart --output runs/first data.annotations=annotations.json data.videos=videos

With --recipe auto it finds its settings from the annotations and the machine; add --print to see them first.
On several GPUs: re2tal launch train --recipe ...
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ..report.page import NAME as REPORT
from ..report.page import write_report
from ..training import auto_recipe
from ..training.arguments import AUTO, load_recipe, parse_recipe
from ..training.localization import LocalizationTrainer
from ..training.processes import on_main_process, start_processes
from ..training.recipe_yaml import write_yaml
from ..training.run_folder import RunFolder
from ._command import add_training_options, run_command

CHOSEN = f"{AUTO}.yaml"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_training_options(parser, output_required=False)
    parser.add_argument("--print", action="store_true", help="print the recipe, train nothing; needs no --output")
    parser.add_argument("--dataset", help="in place of data.annotations: a dataset, user/name[@revision] or a folder")
    parser.add_argument(
        "--streaming", action="store_true", help="fetch each video from the Hub when it is first needed"
    )


def run(options: argparse.Namespace) -> int:
    if options.output is None and not options.print:
        raise ValueError("--output is missing: name the folder of the run. (With --print nothing is written.)")
    overrides = list(options.overrides)
    if options.dataset:
        overrides += [f"data.annotations={json.dumps(options.dataset)}", "data.videos=null"]
    if options.streaming:
        overrides.append("data.streaming=true")
    kept = chosen_before(options.output)
    if options.recipe == AUTO and kept is None:
        # The first process tries steps alone, before it meets the others: in a group, their losses wait for each other.
        is_first = os.environ.get("RANK", "0") == "0"
        found = auto_recipe.find_recipe(overrides, options.imports) if is_first else ""
        processes = start_processes()
        text = on_main_process(processes, lambda: found)
        recipe = parse_recipe(text, AUTO, (), options.imports)
        processes.print(text)
    else:
        # What was chosen for a run stays, whatever memory is free by now.
        name = kept if options.recipe == AUTO else options.recipe
        recipe, text = load_recipe(str(name), overrides, options.imports), ""
    if options.print:
        if not text:
            print(write_yaml(recipe.to_dict()), end="")
        return 0
    trainer = LocalizationTrainer(recipe, options.output, resume=options.resume)
    if text and trainer.accelerator.is_main_process:
        trainer.run_folder.write_text(CHOSEN, text)
    trainer.run()
    if trainer.accelerator.is_main_process:
        write_report(trainer.run_folder.path, recipe, trainer.validation_set, trainer.run_folder.path / REPORT)
        print(f"What came of it: {trainer.run_folder.path / REPORT}")
    return 0


def chosen_before(output: str | None) -> Path | None:
    """The recipe that was found for the run in a folder; None where there is none."""
    if output is None or not RunFolder(output).holds_run:
        return None
    kept = Path(output) / CHOSEN
    return kept if kept.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
