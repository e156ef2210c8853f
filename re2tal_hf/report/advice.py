"""What to try next, by what errors cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..training.training_run import TrainingRun

# Of the mAP; what costs less is not worth a change.
LEAST_COST = 0.02
FEW_ACTIONS = 100
_WAYS = {
    "double detection": "one action is found several times: a lower processor.nms_sigma",
    "localization": "times are off: a higher processor.frame_rate with as many more processor.num_frames",
    "confusion": "neither times nor classes are right: more training videos, and more training.epochs",
    "background": "actions are seen where none are: training videos with more background, or a stronger augmentation",
    "missed": "actions are not found at all: more examples like them, or another processor.num_frames and frame_rate "
    "(the table of re2tal diagnose says how long they are)",
}


def advice(run: TrainingRun, figures: Mapping[str, Any]) -> list[str]:
    """Returns what to try, that which may help most first.

    Args:
        run: The files of a run.
        figures: The diagnosis of its detections.
    """
    lines = []
    costs = sorted(((cost, kind) for kind, cost in figures["cost"].items()), reverse=True)
    for cost, kind in costs:
        if cost >= LEAST_COST:
            way = _of_labels(figures["confusion_matrix"]) if kind == "wrong label" else _WAYS[kind]
            lines.append(f"{kind} costs {cost:.2f} mAP: {way}.")
    scores = [entry["map"] for entry in run.log if "map" in entry]
    epochs = run.recipe["training"]["epochs"]
    if len(scores) > 2 and scores[-1] == max(scores) and scores[-1] > 1.02 * scores[-2]:
        lines.append(
            f"The mAP still rose at the end: training.epochs={math.ceil(1.5 * epochs)}; the same command goes on."
        )
    if figures["actions"] < FEW_ACTIONS:
        lines.append(
            f"Only {figures['actions']} actions are measured by: figures of two runs differ by chance, and re2tal "
            "compare says how far."
        )
    return lines


def _of_labels(matrix: Mapping[str, Mapping[str, int]]) -> str:
    pairs = [
        (count, one, other) for one, row in matrix.items() for other, count in row.items() if other not in ("", one)
    ]
    if not pairs:
        return "classes are confused: more examples of them"
    count, one, other = max(pairs)
    return (
        f"classes are confused, most often {one!r} is seen as {other!r} ({count} times): more examples of both, larger "
        "frames (processor.size) or more of them (processor.frame_rate)"
    )
