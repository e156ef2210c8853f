"""Optimiser groups and learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from .arguments import OptimizationArguments


def parameter_groups(model: nn.Module, arguments: OptimizationArguments) -> list[dict]:
    """Groups the trainable parameters by learning rate and by weight decay.

    The backbone, `model.model`, has a rate of its own. Weights of linear and convolution layers decay; norms,
    biases, position tables and scales, being of one dimension or named otherwise, do not.
    """
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = name.startswith("model.")
        decays = name.endswith("weight") and parameter.dim() > 1
        # FSDP2 leaves these as they are, and AdamW, which updates a group at a time, takes no mixture.
        apart = arguments.shard_weights and parameter.dim() == 0
        groups.setdefault((in_backbone, decays, apart), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.backbone_learning_rate if in_backbone else arguments.learning_rate,
            "weight_decay": arguments.weight_decay if decays else 0.0,
            "name": f"{'backbone' if in_backbone else 'head'}{'' if decays else ', no decay'}",
        }
        for (in_backbone, decays, _), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, arguments: OptimizationArguments) -> torch.optim.AdamW:
    """Returns AdamW over [`parameter_groups`].

    Raises:
        ValueError: if nothing is trainable.
    """
    groups = parameter_groups(model, arguments)
    if not groups:
        raise ValueError("No parameter of the model is trainable: everything is frozen.")
    return torch.optim.AdamW([{**group, "peak_lr": group["lr"]} for group in groups])


def learning_rate_factor(arguments: OptimizationArguments, update: int, updates_per_epoch: int) -> float:
    """Returns the share of the peak rates at an update: linear warm-up, then a cosine.

    Only the ratio of the two counts matters, so that a run goes on rightly where an epoch takes another number of
    updates than before.

    Args:
        arguments: The path, in epochs.
        update: Updates done, at the present number of them in an epoch.
        updates_per_epoch: That number.
    """
    warmup = arguments.warmup_epochs * updates_per_epoch
    total = (arguments.schedule_epochs or arguments.epochs) * updates_per_epoch
    if update < warmup:
        return (update + 1) / warmup
    progress = (update - warmup) / max(total - warmup, 1)
    last = arguments.final_learning_rate / arguments.learning_rate
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets the rates of an optimizer of [`build_optimizer`] to this share of their peaks."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
