"""The `tal_map` metric with names in place of class ids."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from .tal_map.tal_map import TalMap

Row = Mapping[str, Any]


def measure(
    predictions: Sequence[Row],
    references: Sequence[Row],
    label_names: Sequence[str],
    tiou_thresholds: Sequence[float],
    **settings: Any,
) -> dict[str, Any]:
    """Runs the metric.

    Args:
        predictions: As the metric takes them, labels as class ids.
        references: Likewise.
        label_names: By class id.
        tiou_thresholds: Of the mAP.
        settings: Of the metric, `top_k=[1, 5]` or `max_proposals=100`.

    Returns:
        What the metric returns, `per_class` by label name.
    """
    # By itself it would write to HF_HOME, which need not be possible.
    with tempfile.TemporaryDirectory() as folder:
        metric = TalMap(keep_in_memory=True, cache_dir=folder)
        result = metric.compute(
            predictions=predictions, references=references, tiou_thresholds=list(tiou_thresholds), **settings
        )
    return {**result, "per_class": {label_names[index]: value for index, value in result["per_class"].items()}}
