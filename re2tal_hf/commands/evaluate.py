"""Measures a model: detections of a subset of videos, and their mAP.

re2tal evaluate --model runs/first/best --annotations annotations.json --videos videos

A model on stored features is measured on such features, in place of the videos:
re2tal evaluate --model runs/first/best --annotations annotations.json --features features

On several GPUs, which share the videos: re2tal launch evaluate --model ...
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection
from pathlib import Path

import torch
from accelerate import PartialState

from ..class_scores import checked_class_scores
from ..data.annotation_records import clean_label
from ..data.annotations import AnnotationSet, read_annotations
from ..data.detection_files import write_submission
from ..data.durations import check_measured_times
from ..data.feature_store import FeatureStore
from ..data.json_files import read_json, some
from ..data.subsets import actions_by_class, check_actions, read_video_ids, without_videos
from ..data.whole_files import check_writable
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..training.evaluation import Detections, localize_videos, mean_average_precision, metrics_table
from ..training.feature_settings import check_described
from ..training.processes import on_every_process, on_main_process, start_processes
from ..video_processing_re2tal import Re2TALVideoProcessor
from ._command import (
    add_annotation_options,
    add_features,
    add_inference_options,
    add_points,
    add_thresholds,
    check_source,
    load_for_inference,
    run_command,
)
from .diagnose import diagnose_file, print_diagnosis, write_diagnosis


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inference_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", help="an annotation file or folder")
    source.add_argument("--dataset", help="a dataset on the Hub, user/name[@revision], or its folder")
    parser.add_argument("--streaming", action="store_true", help="fetch each video from the Hub when its turn comes")
    parser.add_argument("--videos", help="folder of the video files")
    add_features(parser)
    parser.add_argument("--subset", default="validation")
    add_annotation_options(parser)
    add_thresholds(parser)
    add_truth_options(parser)
    parser.add_argument("--detections", default="detections.json", help="where to write them")
    parser.add_argument(
        "--diagnose", action="store_true", help="also say what is wrong with them; see re2tal diagnose --help"
    )


MISSING = ("missed", "left-out")


def add_truth_options(parser: argparse.ArgumentParser) -> None:
    """Adds what benchmarks differ in: `points`, `video_scores`, `missing` and `exclude`."""
    add_points(parser)
    parser.add_argument(
        "--video-scores",
        help="for a class-agnostic model: JSON of an external video classifier, {video_id: {label: score}}",
    )
    parser.add_argument(
        "--missing",
        choices=MISSING,
        default=MISSING[0],
        help="the actions of videos without a readable file are missed, or left out of the measurement; default missed",
    )
    parser.add_argument(
        "--exclude",
        help="a list of videos that are not measured by: JSON as ActivityNet's blocked.json, or one id a line",
    )


def read_video_scores(path: str, label_names: list[str]) -> dict[str, dict[str, float]]:
    form = "{video_id: {label: score}}"
    scores = read_json(Path(path), form)
    if not (isinstance(scores, dict) and scores and all(isinstance(by_label, dict) for by_label in scores.values())):
        raise ValueError(f"{path} is not of the form {form}.")
    known = {clean_label(name): name for name in label_names}
    checked: dict[str, dict[str, float]] = {}
    for video_id, by_label in scores.items():
        try:
            found = {clean_label(label): score for label, score in checked_class_scores(by_label, video_id).items()}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if unknown := found.keys() - known.keys():
            raise ValueError(f"{path} has labels that the annotations do not: {some(sorted(unknown))}.")
        checked[video_id] = {known[label]: score for label, score in found.items()}
    return checked


def check_classes(annotations: AnnotationSet, known: Collection[str]) -> None:
    names = annotations.label_names
    unknown = [names[label] for label in sorted(actions_by_class(annotations)) if names[label] not in known]
    if unknown and not set(names) & set(known):
        raise ValueError(f"The model knows none of the annotated classes {names[:5]}; it knows {sorted(known)[:5]}.")
    if unknown:
        logging.warning("classes that the model does not know, and so cannot find: %s", ", ".join(unknown))


def read_truth(arguments: argparse.Namespace) -> AnnotationSet:
    annotations = read_annotations(
        arguments.dataset or arguments.annotations,
        subset=arguments.subset,
        video_folder=arguments.videos,
        feature_folder=arguments.features,
        repair=False,
        point_width=arguments.point_width,
        points=arguments.points,
        streaming=arguments.streaming,
    )
    if arguments.exclude:
        annotations = without_videos(annotations, read_video_ids(arguments.exclude), arguments.exclude)
    check_actions(annotations, arguments.subset)
    return annotations


def find_features(
    arguments: argparse.Namespace, annotations: AnnotationSet, pipe: TemporalActionLocalizationPipeline
) -> FeatureStore | None:
    check_source(pipe, arguments.features is not None, "--features FOLDER")
    if arguments.features is None:
        return None
    check_described(arguments.features, pipe.video_processor)
    return FeatureStore(annotations.videos, pipe.video_processor, pipe.model.config.backbone_config.get("size", 2048))


def measured_videos(
    annotations: AnnotationSet, found: Collection[str], arguments: argparse.Namespace
) -> tuple[AnnotationSet, list[str]]:
    """The annotations to measure by, and lines on what became of excluded and of missing videos."""
    lines = []
    missing = [video.video_id for video in annotations.videos if video.video_id not in found]
    if arguments.exclude:
        lines.append(f"measured without the videos of {arguments.exclude}: {len(annotations.videos)} are left")
    if missing:
        fate = "left out of the figure" if arguments.missing == "left-out" else "their actions count as missed"
        lines.append(
            f"{len(missing)} of {len(annotations.videos)} videos have no readable file, {fate}: {some(missing)}"
        )
    if not missing or arguments.missing == "missed":
        return annotations, lines
    return without_videos(annotations, missing, "videos without a readable file"), lines


def localize(
    arguments: argparse.Namespace,
    processes: PartialState,
    annotations: AnnotationSet,
    processor: Re2TALVideoProcessor | None = None,
) -> tuple[Detections, torch.device]:
    """Runs a model over the annotated videos, by default with its own processor; returns what it found, and where."""
    video_scores = None
    if arguments.video_scores:
        names = annotations.label_names
        video_scores = on_every_process(processes, lambda: read_video_scores(arguments.video_scores, names))
    source, lost = arguments.dataset or arguments.annotations, arguments.max_lost
    if not arguments.features:  # of features the model's processor says how far they stand apart
        on_main_process(processes, lambda: check_measured_times(annotations.videos, source, lost))
    pipe = on_every_process(processes, lambda: load_for_inference(arguments, processes))
    if pipe.model.finds_points and not annotations.points:
        raise ValueError(
            f"{arguments.model} finds points in time, which no segment overlaps: give --points middle or start, "
            "by which the annotations are points, too."
        )
    pipe.video_processor = processor or pipe.video_processor
    features = on_every_process(processes, lambda: find_features(arguments, annotations, pipe))
    if features:
        on_main_process(processes, lambda: check_measured_times(annotations.videos, source, lost, features.timelines))
    if not video_scores:
        on_main_process(processes, lambda: check_classes(annotations, pipe.model.config.label2id))
    detections = localize_videos(
        pipe,
        annotations.videos,
        processes,
        video_scores=video_scores,
        features=features,
        batch_size=arguments.batch_size,
        exact=arguments.exact,
    )
    return detections, pipe.device


def run(arguments: argparse.Namespace) -> int:
    processes = start_processes()
    target = Path(arguments.detections)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"--detections {target}: name a file in a folder that exists.")
    on_main_process(processes, lambda: check_writable(target.parent, "--detections"))
    annotations = on_every_process(processes, lambda: read_truth(arguments))
    detections, _ = localize(arguments, processes, annotations)

    def report() -> None:
        write_submission(target, detections)
        truth, remarks = measured_videos(annotations, detections, arguments)
        print(metrics_table(mean_average_precision(detections, truth, arguments.tiou)))
        for remark in remarks:
            print(remark)
        if arguments.diagnose:
            figures = diagnose_file(target, truth, arguments.tiou, only_known=True)
            print_diagnosis(figures)
            write_diagnosis(figures, target.parent, Path(arguments.model).name)

    on_main_process(processes, report)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
