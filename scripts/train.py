"""Trains a temporal action localizer from video files.

accelerate launch scripts/train.py --recipe quickstart --output runs/first \
    data.annotations=annotations.json data.videos=videos training.epochs=20
"""

import argparse
import json
import logging
import sys
from pathlib import Path

# scripts/evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from re2tal_hf.training.arguments import load_recipe, recipe_names
from re2tal_hf.training.localization import LocalizationTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help=f"a YAML file, or one of {recipe_names()}")
    parser.add_argument("--output", required=True, help="the run folder; a run that was stopped in it goes on")
    parser.add_argument("--dataset", help="in place of data.annotations: a dataset, user/name[@revision] or a folder")
    parser.add_argument(
        "--streaming", action="store_true", help="fetch each video from the Hub when it is first needed"
    )
    parser.add_argument("--resume", action="store_true", help="the folder must hold a run that goes on")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("re2tal_hf.dual_residual").setLevel(logging.INFO)
    overrides = list(arguments.overrides)
    if arguments.dataset:
        overrides += [f"data.annotations={json.dumps(arguments.dataset)}", "data.videos=null"]
    if arguments.streaming:
        overrides.append("data.streaming=true")
    try:
        recipe = load_recipe(arguments.recipe, overrides)
        trainer = LocalizationTrainer(recipe, arguments.output, resume=arguments.resume)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    trainer.run()


if __name__ == "__main__":
    main()
