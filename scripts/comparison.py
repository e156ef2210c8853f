"""Runs side by side: each in a process of its own, a line for each in a file, and intervals over videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from re2tal_hf.data.annotations import read_annotations
from re2tal_hf.metrics.bootstrap import interval, resampled_map, resampled_videos
from re2tal_hf.metrics.stored_detections import read_predictions, reference_segments
from re2tal_hf.training.arguments import load_recipe

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
NUM_RESAMPLES = 1000
# glibc gives large blocks back to the system each time, and filling them anew takes half of a step of large frames.
MEMORY_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}

Line = Mapping[str, Any]


def command(name: str, words: Iterable[str], folder: Path) -> None:
    """Runs `re2tal NAME` on one thread, with its output in the folder's log."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1", **MEMORY_KEPT, **os.environ}
    with (folder / "output.txt").open("a", encoding="utf-8") as log:
        ended = subprocess.run(
            [sys.executable, "-m", f"re2tal_hf.commands.{name}", *words], env=environment, stdout=log, stderr=log
        )
    if ended.returncode:
        raise SystemExit(f"{folder}: the run ended with {ended.returncode}; see output.txt there.")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def complete(
    results: Path, data: str, ways: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], Line]
) -> None:
    """Runs every way with every seed that has no line yet, and writes its line when it ends."""
    for seed in seeds:
        for way in ways:
            if seed not in of_way(read_lines(results), data, way):
                line = json.dumps(run(way, seed)) + "\n"
                with results.open("a", encoding="utf-8") as file:
                    file.write(line)


def of_way(lines: Iterable[Line], data: str, way: str) -> dict[int, Line]:
    """The lines of one way by seed."""
    return {line["seed"]: line for line in lines if (line["data"], line["way"]) == (data, way)}


def resampled(run: Path) -> list[float]:
    """The mAP of a run's detections on the same draws of the validation videos for every run."""
    data = load_recipe(str(run / "recipe.yaml")).data
    truth = read_annotations(
        data.annotations,
        subset=data.validation_subset,
        video_folder=data.videos,
        feature_folder=data.features,
        repair=False,
    )
    predictions, _ = read_predictions(run / "last" / "detections.json", truth)
    draws = resampled_videos(len(truth.videos), NUM_RESAMPLES)
    values = resampled_map(predictions, reference_segments(truth), np.array(THRESHOLDS), draws)
    return [round(value, 4) for value in values.tolist()]


def difference(ours: Mapping[int, Line], theirs: Mapping[int, Line]) -> str:
    """How much better a way is than another: mean over the seeds that both have, and the interval over videos."""
    seeds = [seed for seed in sorted(ours.keys() & theirs.keys()) if "resampled" in ours[seed]]
    if not seeds or ours == theirs:
        return ""
    pairs = [np.subtract(ours[seed]["resampled"], theirs[seed]["resampled"]) for seed in seeds]
    low, high = interval(np.mean(pairs, axis=0))
    return f"{np.mean([ours[seed]['map'] - theirs[seed]['map'] for seed in seeds]):+.3f} ({low:+.3f} to {high:+.3f})"


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, of which the first row is its head."""
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
