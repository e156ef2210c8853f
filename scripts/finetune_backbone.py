"""Fine-tunes a rewired backbone on the classification of clips, the stage between rewiring and localization.

accelerate launch scripts/finetune_backbone.py --recipe finetune_swin_tiny --output runs/backbone \
    data.annotations=clips   # clips/train/<class>/*.mp4 and clips/validation/<class>/*.mp4
"""

import argparse
import logging
import sys
from pathlib import Path

# scripts/evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from re2tal_hf.training.arguments import load_recipe, recipe_names
from re2tal_hf.training.classification import ClassificationTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, help=f"a YAML file, or one of {recipe_names()}")
    parser.add_argument("--output", required=True, help="the run folder; a run that was stopped in it goes on")
    parser.add_argument("--resume", action="store_true", help="the folder must hold a run that goes on")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("re2tal_hf.dual_residual").setLevel(logging.INFO)
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        trainer = ClassificationTrainer(recipe, arguments.output, resume=arguments.resume)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    metrics = trainer.run()
    print(f"top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f} of {metrics['clips']} clips")


if __name__ == "__main__":
    main()
