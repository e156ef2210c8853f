"""Weights of a model before it is trained: what of the pretrained ones is used, and what of them learns."""

from __future__ import annotations

import re
from pathlib import Path

from torch.nn.modules.batchnorm import _BatchNorm

from ..training.arguments import Recipe
from ..training.localization import LocalizationTrainer
from .finding import Finding

_LEAST_USED = 0.9
_USED = re.compile(r"used (\d+) of (\d+) tensors")


def of_used_weights(recipe: Recipe, printed: str) -> list[Finding]:
    """What of the pretrained weights is used.

    Args:
        recipe: Of the training.
        printed: What was said when they were loaded (see `WeightFit`).
    """
    used = [(int(match[1]), int(match[2])) for match in _USED.finditer(printed)]
    if not used or used[0][0] >= _LEAST_USED * used[0][1]:
        return []
    source, (number, total) = recipe.training.pretrained_weights, used[0]
    return [
        Finding(
            "few_weights",
            f"{number} of {total} tensors of the backbone are taken from {Path(str(source)).name}",
            "weights of another network, or under other names, which training.pretrained_partial lets pass: the rest "
            "is random",
            "training.pretrained_partial=false says what does not fit; set model.backbone_config as they have it",
        )
    ]


def of_model(trainer: LocalizationTrainer) -> list[Finding]:
    """What of the backbone learns, and by what."""
    recipe, model = trainer.recipe, trainer.plain_model
    backbone = trainer.backbone_model.backbone
    model.train()
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    learning = [norm for norm in norms if norm.training]
    found = []
    if learning and recipe.training.batch_size == 1:
        found.append(
            Finding(
                "batch_norm",
                f"{len(learning)} batch norms take their statistics from training.batch_size=1 window",
                "frames of one window are alike: its mean and spread are not those of other videos, which the running "
                "statistics of the evaluation stand for",
                "freeze.norms=true with pretrained weights, or a larger training.batch_size",
            )
        )
    if norms and not learning and not recipe.training.pretrained_weights:
        fix = "freeze.norms=false" if recipe.freeze.norms else "model.backbone_config.norm_eval=false"
        seen = f"no pretrained weights are named, and {len(norms)} batch norms keep the statistics that they began with"
        cause = "they subtract 0 and divide by 1, whatever comes"
        found.append(Finding("random_norms", seen, cause, f"{fix}, or training.pretrained_backbone"))
    parameters = list(backbone.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    if parameters and trained == 0 and not recipe.freeze.backbone:
        seen = f"freeze.stages={recipe.freeze.stages} freezes the whole backbone"
        fix = f"freeze.stages={max(0, recipe.freeze.stages - 1)}, or freeze.backbone on purpose"
        found.append(Finding("frozen", seen, "nothing of it learns", fix))
    return found
