"""Says what is wrong with a run's detections, and what each kind of error costs.

re2tal diagnose runs/mine --annotations annotations.json

Writes diagnosis.json and diagnosis.png beside the detections. `re2tal evaluate --diagnose` does the same of a model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..data.annotation_set import AnnotationSet
from ..data.annotations import read_annotations
from ..data.whole_files import check_writable, written_whole
from ..metrics.spotting_map import POINT_LENGTH
from ..metrics.stored_detections import read_as_segments
from ..metrics.tal_map.diagnosis import KINDS, by_video, diagnose, match
from ..metrics.tal_map.diagnosis_figure import draw_diagnosis
from ..training.run_folder import as_json
from ._command import POINTS, add_measurement_options, add_points, detections_of, run_command

NAME = "diagnosis"
MAX_ROWS = 10
AS_SEGMENTS = f"{POINTS}, diagnosed as segments about them, at SoccerNet's tight tolerances"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a model, or a detections.json")
    add_measurement_options(parser)
    add_points(parser, AS_SEGMENTS)
    parser.add_argument("--videos", help="folder of the video files, for durations that the annotations do not state")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="by default beside the detections")


def diagnose_file(
    detections: Path, annotations: AnnotationSet, thresholds: list[float], only_known: bool = False
) -> dict[str, Any]:
    """Returns the figures of a file of detections, with those of each video; see `read_as_segments`."""
    matching = match(*read_as_segments(detections, annotations, thresholds, only_known))
    videos = annotations.videos
    figures = diagnose(matching, annotations.label_names, [video.duration for video in videos])
    if annotations.points:
        figures["point_length"] = POINT_LENGTH
    return {**figures, "per_video": by_video(matching, [video.video_id for video in videos])}


def write_diagnosis(figures: dict[str, Any], folder: Path, title: str) -> list[Path]:
    """Writes the figures and their picture; returns both paths."""
    table, picture = folder / f"{NAME}.json", folder / f"{NAME}.png"
    title += _of_points(figures)
    with written_whole(table) as partial:
        partial.write_text(as_json(figures), encoding="utf-8")
    with written_whole(picture) as partial:
        draw_diagnosis(figures, title).savefig(partial, format="png")
    return [table, picture]


def print_diagnosis(figures: dict[str, Any]) -> None:
    """Prints the cost of each kind, the classes and the videos that fare worst."""
    counts = f"{figures['actions']} actions, {figures['detections']} detections"
    print(f"{counts}, mAP {figures['map']:.4f}{_of_points(figures)}")
    print(f"{'':18} {'costs':>7}  share of as many of the best detections as there are actions")
    for name in KINDS[1:]:
        print(f"{name:18} {figures['cost'][name]:7.4f}  {figures['kinds'][name][0]:.2f}")
    print(f"{'missed':18} {figures['cost']['missed']:7.4f}  ({figures['missed']:.2f} of the actions)")
    for label, row in sorted(figures["per_class"].items(), key=lambda item: item[1]["ap"])[:MAX_ROWS]:
        worst = max(KINDS[1:], key=row["kinds"].__getitem__)
        most = f"most: {worst} {row['kinds'][worst]:.2f}, " if row["kinds"][worst] else ""
        print(f"  {label:22} AP {row['ap']:.4f}, {most}missed {row['missed']:.2f}")


def _of_points(figures: dict[str, Any]) -> str:
    return f" (points as segments of {figures['point_length']:g} s)" if "point_length" in figures else ""


def run(arguments: argparse.Namespace) -> int:
    detections = detections_of(arguments.run)
    folder = arguments.output or detections.parent
    check_writable(folder if folder.is_dir() else folder.parent, "--output")
    annotations = read_annotations(
        arguments.annotations,
        subset=arguments.subset,
        video_folder=arguments.videos,
        repair=False,
        points=arguments.points,
    )
    figures = diagnose_file(detections, annotations, arguments.tiou)
    folder.mkdir(parents=True, exist_ok=True)
    print_diagnosis(figures)
    for path in write_diagnosis(figures, folder, Path(arguments.run).name):
        print(path)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
