"""Measures stored detections by the figures of the public benchmarks.

re2tal measure runs/mine --annotations annotations.json --recall 1 5
re2tal measure detections.json --annotations EPIC_100_validation.csv --verb-noun --tiou 0.1 0.2 0.3 0.4 0.5

Besides the mAP: recall@kx (Ego4D), AR@AN and its area (ActivityNet proposals), frame-wise mAP (Charades, MultiTHUMOS),
and verbs, nouns and actions (EPIC-KITCHENS-100); with --points, tight and loose mAP of action spotting (SoccerNet).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..data.annotation_set import AnnotationSet
from ..data.annotations import read_annotations
from ..data.json_files import some
from ..data.whole_files import check_writable, written_whole
from ..metrics import verb_noun
from ..metrics.frame_map import frame_map, spread_times, times_at_rate
from ..metrics.measurement import measure
from ..metrics.spotting_map import spotting_map
from ..metrics.stored_detections import read_predictions, reference_segments, rows_of
from ..training.run_folder import as_json
from ..value_checks import COUNT, Range
from ._command import add_measurement_options, add_points, detections_of, number, run_command

Figures = dict[str, Any]
# More takes memory without an end.
POINTS = Range(low=1, high=100_000)
RATE = Range(low=0, high=1000, with_low=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a model, or a detections.json")
    add_measurement_options(parser)
    add_points(parser)
    parser.add_argument(
        "--clean", action="store_true", help="leave out ground truth without a length and repetitions, as OpenTAD does"
    )
    parser.add_argument(
        "--recall", type=number(int, COUNT), nargs="+", metavar="K", help="also recall@kx: 1 5 for Ego4D's tables"
    )
    parser.add_argument(
        "--proposals", type=number(int, COUNT), metavar="AN", help="also AR@AN up to it, and the area under it"
    )
    frames = parser.add_mutually_exclusive_group()
    frames.add_argument(
        "--frames",
        type=number(int, POINTS),
        metavar="N",
        help="also frame-wise mAP at N points a video; 25: Charades",
    )
    frames.add_argument(
        "--frame-rate",
        type=number(float, RATE),
        metavar="RATE",
        help="also frame-wise mAP at so many points a second, those of equal scores together (MultiTHUMOS)",
    )
    parser.add_argument("--videos", help="folder of the video files, for durations that the annotations do not state")
    parser.add_argument(
        "--verb-noun", action="store_true", help="verbs, nouns and actions of files as EPIC-KITCHENS-100 has them"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures, as JSON")


def metric_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {"top_k": arguments.recall, "max_proposals": arguments.proposals}
    return {"clean_references": arguments.clean, **{name: value for name, value in settings.items() if value}}


def measured(detections: Path, annotations: AnnotationSet, arguments: argparse.Namespace) -> Figures:
    predictions, scores = read_predictions(detections, annotations)
    references, names = reference_segments(annotations), annotations.label_names
    if annotations.points:
        return spotting_map(predictions, scores, references, names)
    video_ids = [video.video_id for video in annotations.videos]
    rows = rows_of(predictions, video_ids, scores), rows_of(references, video_ids)
    figures = measure(*rows, names, arguments.tiou, **metric_settings(arguments))
    if arguments.frames or arguments.frame_rate:
        known = durations(annotations)
        if arguments.frames:
            times = [spread_times(duration, arguments.frames) for duration in known]
        else:
            times = [times_at_rate(duration, arguments.frame_rate) for duration in known]
        figures |= frame_map(predictions, scores, references, times, names, together=bool(arguments.frame_rate))
    return figures


def durations(annotations: AnnotationSet) -> list[float]:
    found = {video.video_id: video.duration for video in annotations.videos}
    if unknown := [name for name, duration in found.items() if duration is None]:
        raise ValueError(
            f"frame-wise mAP needs the durations of the videos, and {len(unknown)} have none ({some(unknown)}): "
            'give --videos, or state "duration" in the annotations.'
        )
    return [duration for duration in found.values() if duration is not None]


def print_figures(figures: Figures, proposals: int | None) -> None:
    for name in [name for name in figures if name.startswith(("map@", "recall@"))]:
        print(f"{name.replace('map', 'mAP'):24} {figures[name]:.4f}")
    if "loose_map" in figures:
        print(f"{'tight average mAP':24} {figures['map']:.4f}")
        print(f"{'loose average mAP':24} {figures['loose_map']:.4f}")
    else:
        print(f"{'average mAP':24} {figures['map']:.4f}")
    if proposals:
        for count in sorted({1, min(5, proposals), min(10, proposals), proposals}):
            print(f"{f'AR@{count}':24} {figures['ar'][count]:.4f}")
        print(f"{'AUC of AR':24} {figures['ar_auc']:.4f}")
    if "frame_map" in figures:
        print(f"{'frame-wise mAP':24} {figures['frame_map']:.4f}  ({figures['points']} points)")
        print(f"{'weighted by the points':24} {figures['frame_wap']:.4f}")


def run(arguments: argparse.Namespace) -> int:
    detections = detections_of(arguments.run)
    if arguments.verb_noun and (arguments.frames or arguments.frame_rate):
        raise ValueError("--verb-noun has no frame-wise mAP; leave out --frames and --frame-rate.")
    of_segments = ("recall", "proposals", "frames", "frame_rate", "clean", "verb_noun")
    if arguments.points and (given := [name for name in of_segments if getattr(arguments, name)]):
        raise ValueError(f"--{given[0].replace('_', '-')} is of segments, and --points makes points of them.")
    if arguments.output:
        check_writable(arguments.output.parent)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.verb_noun:
        truth = verb_noun.read_annotations(Path(arguments.annotations), arguments.subset)
        found = verb_noun.read_detections(detections)
        figures: Figures = verb_noun.verb_noun_map(found, truth, arguments.tiou, **metric_settings(arguments))
        if not figures:
            raise ValueError(f"{detections} has no detection with a verb, a noun or an action.")
        for task, own in figures.items():
            print(task)
            print_figures(own, arguments.proposals)
    else:
        annotations = read_annotations(
            arguments.annotations,
            subset=arguments.subset,
            video_folder=arguments.videos,
            repair=False,
            points=arguments.points,
        )
        figures = measured(detections, annotations, arguments)
        print_figures(figures, arguments.proposals)
    if arguments.output:
        with written_whole(arguments.output) as partial:
            partial.write_text(as_json(figures), encoding="utf-8")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
