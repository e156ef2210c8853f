"""Times the metric at the sizes of ActivityNet and THUMOS-14, beside a plain loop per class and threshold.

python scripts/time_metric.py [--loop] [--detections 10000000]

CPU seconds of this process, inputs generated before. Memory in MiB (on Linux only): what is there before, which is
Python with its libraries and the inputs, and the most that is taken on top.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from re2tal_hf.metrics.tal_map.tal_map import Segments, TalMap, precision_recall_curves, true_positives

ACTIVITYNET = (4728, 100, 200, np.linspace(0.5, 0.95, 10))
THUMOS = (213, 2000, 20, np.linspace(0.3, 0.7, 5))
ACTIONS = {4728: 2, 213: 15}  # of a video


def generated(num_videos: int, per_video: int, num_classes: int, actions: int) -> tuple[Segments, Segments]:
    """Predictions, best first, six tenths of them near an action, and ground truth; one or two classes a video."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(num_videos), actions)
    starts = rng.uniform(0, 180, len(videos))
    labels = rng.integers(0, num_classes, (num_videos, 2))[videos, rng.integers(0, 2, len(videos))]
    truth = Segments(videos, labels, np.stack([starts, starts + rng.uniform(1, 30, len(videos))], axis=1))
    source = rng.permutation(np.repeat(np.arange(num_videos), per_video)) * actions
    source += rng.integers(0, actions, len(source))
    labels = np.where(rng.random(len(source)) < 0.6, truth.labels[source], rng.integers(0, num_classes, len(source)))
    times = np.sort(truth.times[source] + rng.normal(0, 2, (len(source), 2)), axis=1)
    return Segments(truth.videos[source], labels, times), truth


def looped(predictions: Segments, references: Segments, thresholds: np.ndarray) -> float:
    """The mAP by the rules written down: a loop over thresholds, classes and predictions."""
    aps = []
    for threshold in thresholds:
        for class_id in np.unique(references.labels):
            of_class = references.labels == class_id
            truth: dict[int, list[list[float]]] = {}
            for video, segment in zip(references.videos[of_class], references.times[of_class].tolist(), strict=True):
                truth.setdefault(int(video), []).append(segment)
            free = {video: [True] * len(segments) for video, segments in truth.items()}
            of_class = predictions.labels == class_id
            hits = []
            for video, (start, end) in zip(predictions.videos[of_class], predictions.times[of_class], strict=True):
                best, found = threshold, None
                for index, (first, last) in enumerate(truth.get(int(video), [])):
                    shared = max(min(end, last) - max(start, first), 0.0)
                    overlap = shared / (end - start + last - first - shared)
                    if free[video][index] and (overlap > best or (found is None and overlap >= best)):
                        best, found = overlap, index
                if found is not None:
                    free[video][found] = False
                hits.append(found is not None)
            found_so_far = np.cumsum(hits)
            precision = found_so_far / np.arange(1, len(hits) + 1)
            interpolated = np.maximum.accumulate(precision[::-1])[::-1]
            aps.append((interpolated * np.array(hits, bool)).sum() / (references.labels == class_id).sum())
    return float(np.mean(aps))


def as_rows(segments: Segments, num_videos: int, scores: np.ndarray | None = None) -> list[dict]:
    """One dict a video, as the metric takes them."""
    order = np.argsort(segments.videos, kind="stable")
    bounds = np.searchsorted(segments.videos[order], np.arange(1, num_videos))
    columns = {"segments": segments.times, "labels": segments.labels, **({} if scores is None else {"scores": scores})}
    parts = {name: np.split(column[order], bounds) for name, column in columns.items()}
    return [{"video_id": str(v), **{name: part[v] for name, part in parts.items()}} for v in range(num_videos)]


def memory(kind: str) -> int:
    """Of this process, MiB: `VmRSS` now, `VmHWM` the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) // 1024


def forget_peak() -> None:
    """Lets `VmHWM` begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", action="store_true", help="time the plain loop, too; minutes")
    parser.add_argument("--detections", type=int, help="one case of this many, 2000 a video, in place of the two")
    options = parser.parse_args()
    cases = [ACTIVITYNET, THUMOS]
    if options.detections:
        cases = [(options.detections // 2000, *THUMOS[1:])]
    for num_videos, per_video, num_classes, thresholds in cases:
        predictions, truth = generated(num_videos, per_video, num_classes, ACTIONS.get(num_videos, 15))
        forget_peak()
        before = memory("VmRSS")
        began = time.process_time()
        curves = precision_recall_curves(
            true_positives(predictions, truth, thresholds), predictions.labels, truth.labels
        )
        seconds = {"from arrays": time.process_time() - began}
        taken = {"from arrays": memory("VmHWM") - before}
        figures = [float(np.mean([[curve.average_precision for curve in row] for row in curves.values()]))]
        if not options.detections:
            rows = as_rows(predictions, num_videos, -np.arange(len(predictions.labels), dtype=float))
            truth_rows = as_rows(truth, num_videos)
            metric = TalMap()
            forget_peak()
            at_rows = memory("VmRSS")
            began = time.process_time()
            result = metric.compute(predictions=rows, references=truth_rows, tiou_thresholds=thresholds)
            seconds["by compute()"] = time.process_time() - began
            taken["by compute()"] = memory("VmHWM") - at_rows
            figures.append(result["map"])
            began = time.process_time()
            metric.add_batch(predictions=rows, references=truth_rows)
            figures.append(metric.compute(tiou_thresholds=thresholds)["map"])
            seconds["by add_batch()"] = time.process_time() - began
        if options.loop:
            began = time.process_time()
            figures.append(looped(predictions, truth, thresholds))
            seconds["plain loop"] = time.process_time() - began
        shown = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        more = ", ".join(f"{name} {value}" for name, value in taken.items())
        agreed = [round(figure, 10) for figure in figures]
        print(f"{num_videos} x {per_video}: {shown}; memory {before} MiB, more {more}; mAP {agreed}")


if __name__ == "__main__":
    main()
