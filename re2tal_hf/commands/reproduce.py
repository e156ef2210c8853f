"""Measures published weights with the settings of a recipe: the published table beside ours.

re2tal reproduce thumos14_swin_tiny --weights epoch_119.pth --annotations thumos14.json --videos videos --output mine

On several GPUs, which share the videos: re2tal launch reproduce thumos14_swin_tiny ...

The weights are a checkpoint of another project, which is converted first, or a model of ours. Checks the videos against
the annotations, and writes the model, the detections and the table with machine, versions and settings.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..conversion.converted_model import check_new
from ..conversion.kinds import KINDS
from ..conversion.recipe_weights import convert_for_recipe
from ..data.annotations import AnnotationSet, read_label_names
from ..data.detection_files import write_submission
from ..data.json_files import some
from ..data.preparation import check_videos
from ..data.whole_files import written_whole
from ..metrics.published_figures import PUBLISHED, PublishedFigures
from ..training.arguments import Recipe, load_recipe
from ..training.evaluation import Detections, mean_average_precision
from ..training.feature_settings import MODEL_TYPE as FEATURES
from ..training.processes import on_every_process, on_main_process, start_processes
from ..training.run_folder import as_json
from ..training.run_record import describe_device
from ..version import __version__
from ..video_processing_re2tal import Re2TALVideoProcessor
from ._command import add_annotation_options, add_features, add_overrides, run_command
from .evaluate import add_truth_options, localize, measured_videos, read_truth, read_video_scores
from .prepare import print_findings

MODEL, DETECTIONS, RECORD, TABLE = "model", "detections.json", "reproduction.json", "reproduction.md"

Rows = list[tuple[str, float, float]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help=f"one of {sorted(PUBLISHED)}, or a YAML file with such a name")
    parser.add_argument("--weights", required=True, help="a checkpoint, or a model's folder or Hub id")
    parser.add_argument("--from", choices=KINDS, dest="kind", default="opentad", help="of a checkpoint: the project")
    parser.add_argument(
        "--labels", help="of a checkpoint: a text file with its classes, by default as in the annotations"
    )
    parser.add_argument("--annotations", required=True, help="an annotation file")
    parser.add_argument("--videos", help="folder of the video files")
    add_features(parser)
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    add_truth_options(parser)
    add_annotation_options(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    add_overrides(parser)
    parser.set_defaults(dataset=None, streaming=False, batch_size=1, exact=False)


def find_published(name: str) -> PublishedFigures:
    if (found := PUBLISHED.get(Path(name).stem)) is None:
        raise ValueError(
            f"No figures are published with the recipe {name}; they are with {', '.join(sorted(PUBLISHED))}. Any model "
            "is measured by re2tal evaluate."
        )
    return found


def make_model(arguments: argparse.Namespace, recipe: Recipe, annotations: AnnotationSet) -> list[str]:
    """Converts a checkpoint into the folder; returns what became of it."""
    labels = read_label_names(arguments.labels) if arguments.labels else annotations.label_names
    if recipe.data.class_agnostic:
        labels = ["action"]
    converted = convert_for_recipe(Path(arguments.weights), arguments.kind, recipe, labels)
    converted.save(arguments.output / MODEL)
    told = [line for line in converted.lines() if line.startswith(("used", "dropped", "filled"))]
    return [*told, f"classes in the order of the checkpoint: {some(labels)}"]


def check_files(arguments: argparse.Namespace, annotations: AnnotationSet) -> None:
    """Holds what is measured by against the files, before anything is made."""
    if arguments.video_scores:
        read_video_scores(arguments.video_scores, annotations.label_names)
    if arguments.videos:
        print_findings(check_videos(annotations.videos), len(annotations.videos))


@contextlib.contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Leaves no model behind that was made for nothing, so that the same command can be given again."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def identity(weights: str) -> str:
    """What tells one file of weights from another of its name."""
    if not Path(weights).is_file():
        return Path(weights).name if Path(weights).exists() else weights
    digest = hashlib.sha256()
    with Path(weights).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"{Path(weights).name}, SHA-256 {digest.hexdigest()}"


def compared(published: PublishedFigures, metrics: Mapping[str, Any]) -> Rows:
    """Rows of the table: the threshold, the published figure and ours, in percent.

    Raises:
        ValueError: if a threshold of the table was not measured.
    """
    rows = []
    for threshold, theirs in published.figures.items():
        name = "map" if threshold is None else f"map@{threshold:g}"
        if name not in metrics:
            raise ValueError(
                f"the published table has a tIoU of {threshold:g}; put it into evaluation.tiou_thresholds."
            )
        rows.append(("average" if threshold is None else f"{threshold:g}", theirs, 100 * metrics[name]))
    return rows


def table(rows: Rows, record: Mapping[str, Any]) -> str:
    lines = ["| tIoU | published | here | difference |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {theirs:.2f} | {ours:.2f} | {ours - theirs:+.2f} |" for name, theirs, ours in rows]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines += [
        "",
        f"mAP in percent. Recipe `{record['recipe']}`, published in {record['published_in']}.",
        f"Weights: {record['weights']}.",
        f"{record['videos']} videos, {record['actions']} actions, in {record['seconds']:.0f} s.",
        *(f"{remark[0].upper()}{remark[1:]}." for remark in record["remarks"]),
        f"Machine: {record['device']}; processes: {record['num_processes']}. {versions}.",
    ]
    return "\n".join(lines) + "\n"


def run(arguments: argparse.Namespace) -> int:
    published = find_published(arguments.recipe)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    check_request(arguments, recipe, published)
    processes = start_processes()
    arguments.subset, arguments.tiou = recipe.data.validation_subset, recipe.evaluation.tiou_thresholds
    arguments.model = arguments.weights
    on_main_process(processes, lambda: check_new(arguments.output))
    annotations = on_every_process(processes, lambda: read_truth(arguments))
    on_main_process(processes, lambda: check_files(arguments, annotations))
    with removed_on_failure(arguments.output):
        if Path(arguments.weights).is_file():
            lines = on_main_process(processes, lambda: make_model(arguments, recipe, annotations))
            if processes.is_main_process:
                print("\n".join(lines))
            arguments.model = str(arguments.output / MODEL)
        started = time.perf_counter()
        processor = Re2TALVideoProcessor(**recipe.processor)
        detections, device = localize(arguments, processes, annotations, processor)
        seconds = time.perf_counter() - started
        truth, remarks = measured_videos(annotations, detections, arguments)

        def report() -> None:
            metrics = mean_average_precision(detections, truth, arguments.tiou)
            rows = compared(published, metrics)
            record = {
                "recipe": recipe.name,
                "published_in": published.source,
                "published": {name: theirs for name, theirs, _ in rows},
                "here": {name: round(ours, 4) for name, _, ours in rows},
                "weights": identity(arguments.weights),
                "videos": len(truth.videos),
                "actions": sum(len(video.labels) for video in truth.videos),
                "seconds": round(seconds, 1),
                "remarks": remarks,
                "device": describe_device(device),
                "num_processes": processes.num_processes,
                "versions": versions(),
                "settings": {"model": recipe.model, "processor": recipe.processor},
                "metrics": metrics,
            }
            write_all(arguments.output, detections, rows, record)

        on_main_process(processes, report)
    return 0


def write_all(output: Path, detections: Detections, rows: Rows, record: Mapping[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_submission(output / DETECTIONS, detections)
    text = table(rows, record)
    for name, content in ((RECORD, as_json(record)), (TABLE, text)):
        with written_whole(output / name) as partial:
            partial.write_text(content, encoding="utf-8")
    print(f"\n{text}\nsaved in {output}")


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "transformers")
    return {"re2tal_hf": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def check_request(arguments: argparse.Namespace, recipe: Recipe, published: PublishedFigures) -> None:
    """Refuses what would fail after hours."""
    if (arguments.videos is None) == (arguments.features is None):
        raise ValueError("Give the videos by --videos or, for a recipe on features, the features by --features.")
    if (recipe.model.get("backbone_config", {}).get("model_type") == FEATURES) != (arguments.features is not None):
        source = "videos: give --videos" if arguments.features else "stored features: give --features"
        raise ValueError(f"The recipe {recipe.name} is on {source}.")
    if recipe.data.class_agnostic and not arguments.video_scores:
        raise ValueError(
            f"The recipe {recipe.name} takes the classes from a classifier of whole videos: give its scores by "
            "--video-scores."
        )
    compared(published, dict.fromkeys(["map", *(f"map@{t:g}" for t in recipe.evaluation.tiou_thresholds)], 0.0))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
