"""How the coefficients of Dr2Net move during training (arXiv 2401.04105, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from ..value_checks import NOT_NEGATIVE, POSITIVE, Range

Shape = Literal["linear", "cosine", "step"]


@dataclass
class CouplingArguments:
    """Path of the coefficients `(alpha, beta)`; of no effect unless `model.rewiring` is `"dr2net"`.

    Args:
        shape: `"linear"`, `"cosine"`, or `"step"` for a jump half way.
        start, end: Coefficients before `start_epoch` and from `end_epoch` on. `[1.0, 0.0]` is the pretrained network,
            `[0.0, 1.0]` the rewired one.
        start_epoch, end_epoch: When they move; by default from the start to the middle of the training.
    """

    shape: Shape = "cosine"
    start: Annotated[list[float], Range(0, 1, length=2)] = field(default_factory=lambda: [1.0, 0.0])
    end: Annotated[list[float], Range(0, 1, length=2)] = field(default_factory=lambda: [0.0, 1.0])
    start_epoch: Annotated[float, NOT_NEGATIVE] = 0.0
    end_epoch: Annotated[float | None, POSITIVE] = None


def coupling_at(arguments: CouplingArguments, epoch: float, epochs: int) -> tuple[float, float]:
    """Returns the coefficients `(alpha, beta)` at a point of the training.

    Args:
        arguments: The path.
        epoch: How far the training is, in epochs.
        epochs: Length of the training.

    Raises:
        ValueError: if the shape is unknown, the path has no length, or the coefficients are not two pairs.
    """
    if arguments.shape not in get_args(Shape):
        raise ValueError(f"coupling.shape is {arguments.shape!r}; choose one of {', '.join(get_args(Shape))}.")
    end_epoch = epochs / 2 if arguments.end_epoch is None else arguments.end_epoch
    if not 0 <= arguments.start_epoch < end_epoch:
        raise ValueError(
            f"coupling.start_epoch is {arguments.start_epoch} and end_epoch {end_epoch}; the first must come before."
        )
    share = min(max((epoch - arguments.start_epoch) / (end_epoch - arguments.start_epoch), 0.0), 1.0)
    if arguments.shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    elif arguments.shape == "step":
        share = float(share >= 0.5)
    alpha, beta = (a + share * (b - a) for a, b in zip(arguments.start, arguments.end, strict=True))
    return alpha, beta
