"""Turns annotations and videos into a dataset of the Hub, and uploads it.

re2tal make_dataset --annotations annotations.json --videos videos --output dataset --repo user/name

An upload that was cut off goes on with: re2tal make_dataset --output dataset --repo user/name
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..data.annotations import read_label_names
from ..data.whole_files import check_writable
from ..publishing.dataset import HubDataset, read_dataset, upload_dataset, write_dataset
from ..publishing.upload import Target
from ..value_checks import POSITIVE
from ._command import POINTS, add_annotation_options, add_points, number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", help="annotation file; without it, the output folder is uploaded as it stands")
    parser.add_argument("--videos", help="folder of the video files")
    parser.add_argument("--output", required=True, type=Path, help="the dataset folder, new")
    parser.add_argument("--subsets", nargs="+", help="subsets of the annotations to take; default all")
    parser.add_argument("--labels", help="text file with the names of the classes in order, one a line")
    add_annotation_options(parser)
    add_points(parser, POINTS)
    parser.add_argument("--repo", help="user/name on the Hub to upload to")
    parser.add_argument("--tag", help="name of the version on the Hub, such as v1; default none")
    parser.add_argument("--public", action="store_true", help="make a new dataset on the Hub public, not private")
    parser.add_argument("--dry-run", action="store_true", help="check all and report, write and upload nothing")
    parser.add_argument("--license", help="licence of videos and annotations, as the Hub spells it, such as cc-by-4.0")
    parser.add_argument(
        "--shard-gigabytes", type=number(float, POSITIVE), help="put the videos into tar shards of up to this size"
    )
    parser.add_argument("--name", help="title of the card; default the name of the output folder")


def print_report(dataset: HubDataset) -> None:
    for problem in dataset.problems + dataset.unreadable:
        print(problem)
    print(f"{len(dataset.label_names)} classes: {', '.join(dataset.label_names)}")
    for split, videos in dataset.splits.items():
        hours = sum(video.duration or 0.0 for video in videos) / 3600
        actions = sum(len(video.labels) for video in videos)
        print(f"{split}: {len(videos)} videos, {actions} actions, {hours:.2f} hours")


def make(arguments: argparse.Namespace) -> None:
    label_names = read_label_names(arguments.labels) if arguments.labels else None
    if arguments.output.exists():
        raise FileExistsError(f"{arguments.output} exists; choose another output folder or remove it")
    if not arguments.dry_run:
        check_writable(arguments.output)
    dataset = read_dataset(
        arguments.annotations,
        arguments.videos,
        subsets=arguments.subsets,
        label_names=label_names,
        max_lost=arguments.max_lost,
        point_width=arguments.point_width,
        points=arguments.points,
    )
    print_report(dataset)
    if arguments.dry_run:
        print("dry run: nothing written")
        return
    name = arguments.name or arguments.output.resolve().name
    written = write_dataset(
        dataset,
        arguments.output,
        name=name,
        repo_id=arguments.repo,
        license=arguments.license,
        max_shard_size=int(arguments.shard_gigabytes * 1e9) if arguments.shard_gigabytes else None,
    )
    print(written)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.annotations and (not arguments.repo or arguments.dry_run):
        raise ValueError("give --annotations to make a dataset, or --repo to upload one made before")
    target = None
    if arguments.repo:
        target = Target(arguments.repo, "dataset", private=not arguments.public, tag=arguments.tag)
    if arguments.annotations:
        make(arguments)
    if target and not arguments.dry_run:
        print(upload_dataset(arguments.output, target))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    # The report counts what the readers would warn of, with measured durations.
    logging.getLogger("re2tal_hf.publishing").setLevel(logging.WARNING)
    return run_command(__doc__, add_options, run, arguments, log_level=logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
