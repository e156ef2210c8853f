"""Measures a model: detections of a subset of videos, and their mAP.

python scripts/evaluate.py --model runs/first/best --annotations annotations.json --videos videos
"""

import argparse
import json
import logging
import sys
from collections.abc import Collection
from pathlib import Path

# scripts/evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from re2tal_hf.class_scores import checked_class_scores
from re2tal_hf.data.annotations import AnnotationSet, read_annotations
from re2tal_hf.data.durations import check_measured_times
from re2tal_hf.data.subsets import actions_by_class, check_actions
from re2tal_hf.data.time_units import MAX_LOST
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.training.evaluation import localize_videos, mean_average_precision, submission
from re2tal_hf.training.run_folder import complete_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder or a Hub id")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", help="an annotation file or folder")
    source.add_argument("--dataset", help="a dataset on the Hub, user/name[@revision], or its folder")
    parser.add_argument("--streaming", action="store_true", help="fetch each video from the Hub when its turn comes")
    parser.add_argument("--videos", help="folder of the video files")
    parser.add_argument("--subset", default="validation")
    parser.add_argument(
        "--max-lost",
        type=float,
        default=MAX_LOST,
        help="largest share of actions outside their video or that end before they start; default %(default)s",
    )
    parser.add_argument("--tiou", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.7], help="tIoU thresholds")
    parser.add_argument(
        "--video-scores",
        help="for a class-agnostic model: JSON of an external video classifier, {video_id: {label: score}}",
    )
    parser.add_argument("--detections", default="detections.json", help="where to write them")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--windows-per-step", type=int, default=1)
    return parser.parse_args()


def read_video_scores(path: str, label_names: list[str]) -> dict[str, dict[str, float]]:
    scores = json.loads(Path(path).read_text())
    if not isinstance(scores, dict) or not all(isinstance(by_label, dict) for by_label in scores.values()):
        raise ValueError(f"{path} is not of the form {{video_id: {{label: score}}}}.")
    for video_id, by_label in scores.items():
        if unknown := checked_class_scores(by_label, video_id).keys() - set(label_names):
            raise ValueError(f"{path} has labels that the annotations do not: {sorted(map(str, unknown))[:5]}.")
    return scores


def check_classes(annotations: AnnotationSet, known: Collection[str]) -> None:
    names = annotations.label_names
    unknown = [names[label] for label in sorted(actions_by_class(annotations)) if names[label] not in known]
    if unknown and not set(names) & set(known):
        raise ValueError(f"The model knows none of the annotated classes {names[:5]}; it knows {sorted(known)[:5]}.")
    if unknown:
        logging.warning("classes that the model does not know, and so cannot find: %s", ", ".join(unknown))


def print_table(metrics: dict) -> None:
    thresholds = [name for name in metrics if name.startswith("map@")]
    for name in thresholds:
        print(f"{'mAP@' + name.removeprefix('map@'):24} {metrics[name]:.4f}")
    for label, value in sorted(metrics["per_class"].items()):
        print(f"  {label:22} {value:.4f}")
    first, last = thresholds[0].removeprefix("map@"), thresholds[-1].removeprefix("map@")
    print(f"average mAP@{first}:{last} = {metrics['map']:.2f}")


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    source = arguments.dataset or arguments.annotations
    annotations = read_annotations(
        source,
        subset=arguments.subset,
        video_folder=arguments.videos,
        repair=False,
        streaming=arguments.streaming,
    )
    check_actions(annotations, arguments.subset)
    check_measured_times(annotations.videos, source, arguments.max_lost)
    video_scores = None
    if arguments.video_scores:
        video_scores = read_video_scores(arguments.video_scores, annotations.label_names)
    pipe = load_pipeline(str(complete_folder(arguments.model)), device=arguments.device)
    if not video_scores:
        check_classes(annotations, pipe.model.config.label2id)
    detections = localize_videos(
        pipe,
        annotations.videos,
        video_scores=video_scores,
        windows_per_step=arguments.windows_per_step,
    )
    Path(arguments.detections).write_text(json.dumps(submission(detections), allow_nan=False))
    print_table(mean_average_precision(detections, annotations, arguments.tiou))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
