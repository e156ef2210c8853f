"""When a training ends before its last epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def is_exhausted(log: Sequence[Mapping[str, Any]], criterion: str, patience: int | None) -> bool:
    """Whether the last evaluations of a run, so many in a row, were no better than the best before them.

    Args:
        log: Entries of the run; those of epochs that were evaluated hold the criterion.
        criterion: Name of a figure of which more is better.
        patience: How many evaluations; None for no end.
    """
    scores = [entry[criterion] for entry in log if criterion in entry]
    if patience is None or not scores:
        return False
    return len(scores) - 1 - scores.index(max(scores)) >= patience
