"""Moves a trained plain backbone to a reversible one in several ways, with equal steps, and compares them.

re2tal compare_rewirings --recipe ut_clips --output runs/rewirings data.annotations=clips

A plain network is trained first; everything else starts from its weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from .. import Re2TALForVideoClassification, Re2TALVideoProcessor
from ..data.labelled_clips import read_clips, views
from ..training.arguments import Recipe, load_recipe
from ..training.classification import ClassificationTrainer
from ..training.memory import saved_for_backward
from ..value_checks import COUNT, NOT_NEGATIVE, POSITIVE
from ._command import add_overrides, number, run_command

PLAIN = ["model.rewiring=none", "model.backprop=plain"]
WAYS = {
    "plain, as many steps more": PLAIN,
    "rewired, no training": [],
    "rewired, labels": [],
    "rewired, labels and original network": ["distillation.weight=1"],
    "rewired, original network, no labels": ["distillation.weight=1", "distillation.label_weight=0"],
    "Dr2Net, labels": ["model.rewiring=dr2net"],
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", default="ut_clips", help="of the plain network's training")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for the runs; finished ones are not repeated"
    )
    parser.add_argument("--epochs", type=number(int, COUNT), default=15, help="of every way to move it")
    parser.add_argument("--learning-rate", type=number(float, POSITIVE), default=2e-4, help="of every way to move it")
    parser.add_argument("--seeds", type=number(int, NOT_NEGATIVE), nargs="+", default=[0])
    add_overrides(parser)


def train(recipe: Recipe, folder: Path, only_measure: bool = False) -> dict:
    AcceleratorState._reset_state(reset_partial_state=True)
    if not only_measure:
        return ClassificationTrainer(recipe, folder).run()
    metrics, save = ClassificationTrainer(recipe, folder / "run").evaluate()
    save(folder / "last")
    return metrics


def kept_mebibytes(folder: Path, recipe: Recipe) -> float:
    """What autograd keeps of a training step of the model as it is at the end."""
    model = Re2TALForVideoClassification.from_pretrained(folder / "last").train()
    size, batch = recipe.processor["size"], recipe.training.batch_size
    videos = torch.randn(batch, recipe.processor["num_frames"], 3, size["height"], size["width"])
    if model.config.rewiring == "dr2net":  # the first pass measures the error of the inversion
        model(videos).logits.sum().backward()
    with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
        model(videos).logits.sum()
    return saved.total() / 2**20


@torch.no_grad()
def distance(folder: Path, source: Path, recipe: Recipe) -> float:
    """Squared distance of the features of two models on the validation clips, over their variance in `source`."""
    found, original = (Re2TALForVideoClassification.from_pretrained(path / "last").eval() for path in (folder, source))
    processor = Re2TALVideoProcessor(**recipe.processor)
    pairs = []
    for clip in read_clips(recipe.data.annotations, recipe.data.validation_subset).videos:
        batch = processor.prepare(views(clip, processor, 1))
        one, other = (model.model(**batch) for model in (found, original))
        pairs.append([output.last_hidden_state[output.feature_mask] for output in (one, other)])
    features, expected = (torch.cat(side) for side in zip(*pairs, strict=True))
    return ((features - expected).square().mean() / expected.var(0).mean()).item()


def measure(folder: Path, source: Path, recipe: Recipe, metrics: dict) -> tuple[float, ...]:
    return metrics["top1"], distance(folder, source, recipe), kept_mebibytes(folder, recipe)


def run(arguments: argparse.Namespace) -> int:
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in arguments.seeds:
        common = [*arguments.overrides, f"seed={seed}", "evaluation.epochs=0"]
        source = arguments.output / f"plain-{seed}"
        recipe = load_recipe(arguments.recipe, [*common, *PLAIN], arguments.imports)
        metrics = train(recipe, source)
        rows.setdefault("plain", []).append(measure(source, source, recipe, metrics))
        for name, way in WAYS.items():
            settings = [
                f"training.pretrained_backbone={source / 'last'}",
                f"training.epochs={arguments.epochs}",
                f"training.learning_rate={arguments.learning_rate}",
                f"training.backbone_learning_rate={arguments.learning_rate}",
                "training.warmup_epochs=1",
                *way,
            ]
            recipe = load_recipe(arguments.recipe, [*common, *settings], arguments.imports)
            folder = arguments.output / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            metrics = train(recipe, folder, only_measure=name.endswith("no training"))
            rows.setdefault(name, []).append(measure(folder, source, recipe, metrics))
    print(f"| network | top-1, mean of {len(arguments.seeds)} | each | distance of features | kept, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for name, results in rows.items():
        top1, distances, kept = (torch.tensor(column) for column in zip(*results, strict=True))
        each = " ".join(f"{value:.3f}" for value in top1.tolist())
        print(f"| {name} | {top1.mean():.3f} | {each} | {distances.mean():.3f} | {kept.mean():.1f} |")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
