"""Fine-tunes a rewired backbone on the classification of clips, the stage between rewiring and localization.

re2tal finetune --recipe finetune_swin_tiny --output runs/backbone data.annotations=clips

The folder holds clips/train/<class>/*.mp4 and clips/validation/<class>/*.mp4.
On several GPUs: re2tal launch finetune --recipe ...
"""

from __future__ import annotations

import argparse
import sys

from ..training.arguments import load_recipe
from ..training.classification import ClassificationTrainer
from ._command import add_training_options, run_command


def run(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.overrides, options.imports)
    trainer = ClassificationTrainer(recipe, options.output, resume=options.resume)
    metrics = trainer.run()
    trainer.accelerator.print(f"top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f} of {metrics['clips']} clips")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_training_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
