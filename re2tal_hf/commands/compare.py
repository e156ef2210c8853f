"""Compares two runs on the same videos: the difference of their mAP, and how far it depends on which videos there are.

re2tal compare runs/first runs/second --annotations annotations.json

The intervals are of the paired bootstrap over videos (Efron, 1979): both runs are measured on the same draws. They say
nothing of what another seed of the training would give.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.annotations import read_annotations
from ..data.whole_files import check_writable, written_whole
from ..metrics import spotting_map
from ..metrics.bootstrap import interval, mean_over_classes, resampled_precisions, resampled_videos
from ..metrics.stored_detections import read_predictions, reference_segments
from ..value_checks import NOT_NEGATIVE, Range
from ._command import POINTS, add_measurement_options, add_points, detections_of, number, run_command

Row = dict[str, Any]
# For bounds of 95%, and so that every class is in some draw.
ENOUGH = Range(low=100)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="RUN", help="folder of a run or of a model, or a detections.json")
    parser.add_argument("second", metavar="RUN", help="the other; differences are second minus first")
    add_measurement_options(parser)
    add_points(parser, f"{POINTS}, measured by tight mAP, as SoccerNet does")
    parser.add_argument("--resamples", type=number(int, ENOUGH), default=1000, help="draws; default %(default)s")
    parser.add_argument("--seed", type=number(int, NOT_NEGATIVE), default=0, help="of the draws")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures, as JSON")


def row_of(first: np.ndarray, second: np.ndarray) -> Row:
    """The figures of two runs, and the interval of their difference.

    Args:
        first: float64 [1 + R], of the videos as they are and of the draws.
        second: The same of the other run.
    """
    low, high = interval((second - first)[1:])
    return {
        "first": float(first[0]),
        "second": float(second[0]),
        "difference": float(second[0] - first[0]),
        "interval": [low, high],
    }


def mean_over_thresholds(values: np.ndarray) -> np.ndarray:
    """[...] from [T, ...]."""
    return np.asarray(values.mean(0))


def compare(arguments: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """The figures of two files of detections: `map`, each `map@<tIoU>` or seconds, and `per_class` by label name."""
    truth = read_annotations(arguments.annotations, subset=arguments.subset, repair=False, points=arguments.points)
    references = reference_segments(truth)
    tables = [read_predictions(file, truth) for file in files]
    count = len(truth.videos)
    draws = np.concatenate(
        [np.ones((1, count), np.int64), resampled_videos(count, arguments.resamples, arguments.seed)]
    )
    average: Callable[[np.ndarray], np.ndarray]
    if truth.points:
        metric, thresholds, average = "tight mAP", spotting_map.TIGHT, spotting_map.average
        precisions = [spotting_map.resampled_precisions(*table, references, thresholds, draws) for table in tables]
    else:
        metric, thresholds, average = "mAP", arguments.tiou, mean_over_thresholds
        precisions = [resampled_precisions(table, references, np.array(thresholds), draws) for table, _ in tables]
    means = [mean_over_classes(values) for values in precisions]
    by_class = [average(values) for values in precisions]
    names = [truth.label_names[class_id] for class_id in np.unique(references.labels)]
    return {
        "files": [str(file) for file in files],
        "videos": count,
        "resamples": arguments.resamples,
        "metric": metric,
        "map": row_of(average(means[0]), average(means[1])),
        **{f"map@{threshold:g}": row_of(means[0][i], means[1][i]) for i, threshold in enumerate(thresholds)},
        "per_class": {name: row_of(by_class[0][i], by_class[1][i]) for i, name in enumerate(names)},
    }


def verdict(figures: dict[str, Any]) -> str:
    """What the interval says of the difference, in one sentence."""
    row, metric = figures["map"], figures["metric"]
    low, high = row["interval"]
    beside = f"is {row['difference']:+.4f} beside the first's, 95% interval {low:+.4f} to {high:+.4f}"
    found = f"The second run's {metric} {beside}"
    if low <= 0 <= high:
        return f"{found}: zero is inside, so that these {figures['videos']} videos do not tell the runs apart."
    better = "second" if low > 0 else "first"
    return f"{found}: zero is outside, so that the {better} run is better on videos like these {figures['videos']}."


def print_table(figures: dict[str, Any]) -> None:
    totals = {name.replace("map@", "mAP@"): row for name, row in figures.items() if name.startswith("map@")}
    totals = {figures["metric"]: figures["map"], **totals}
    print(f"{'':24} {'first':>7} {'second':>7} {'difference':>10}  95% over videos")
    for name, row in [*totals.items(), *((f"  {label}", row) for label, row in figures["per_class"].items())]:
        low, high = row["interval"]
        line = f"{name:24} {row['first']:7.4f} {row['second']:7.4f} {row['difference']:+10.4f}"
        print(f"{line}  {low:+.4f} to {high:+.4f}")
    print(verdict(figures))


def run(arguments: argparse.Namespace) -> int:
    files = [detections_of(name) for name in (arguments.first, arguments.second)]
    if arguments.output:
        check_writable(arguments.output.parent)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figures = compare(arguments, files)
    if arguments.output:
        with written_whole(arguments.output) as partial:
            partial.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print_table(figures)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
