"""Turns annotations and videos into a dataset of the Hub, and uploads it.

python scripts/make_dataset.py --annotations annotations.json --videos videos --output dataset --repo user/name

An upload that was cut off goes on with: python scripts/make_dataset.py --output dataset --repo user/name
"""

import argparse
import logging
import sys
from pathlib import Path

# scripts/evaluate.py would hide the library of that name.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from huggingface_hub.errors import HTTPError

from re2tal_hf.data.annotations import read_label_names
from re2tal_hf.data.hub_dataset import HubDataset, read_dataset, upload_dataset, write_dataset
from re2tal_hf.data.time_units import MAX_LOST
from re2tal_hf.publishing.upload import check_repo_id


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", help="annotation file; without it, the output folder is uploaded as it stands")
    parser.add_argument("--videos", help="folder of the video files")
    parser.add_argument("--output", required=True, type=Path, help="the dataset folder, new")
    parser.add_argument("--subsets", nargs="+", help="subsets of the annotations to take; default all")
    parser.add_argument("--labels", help="text file with the names of the classes in order, one a line")
    parser.add_argument(
        "--max-lost",
        type=float,
        default=MAX_LOST,
        help="largest share of actions outside their video or that end before they start; default %(default)s",
    )
    parser.add_argument("--repo", help="user/name on the Hub to upload to")
    parser.add_argument("--public", action="store_true", help="make a new dataset on the Hub public, not private")
    parser.add_argument("--dry-run", action="store_true", help="check all and report, write and upload nothing")
    parser.add_argument("--license", help="licence of videos and annotations, as the Hub spells it, such as cc-by-4.0")
    parser.add_argument("--name", help="title of the card; default the name of the output folder")
    arguments = parser.parse_args()
    if not arguments.annotations and (not arguments.repo or arguments.dry_run):
        parser.error("give --annotations to make a dataset, or --repo to upload one made before")
    return arguments


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
    dataset = read_dataset(
        arguments.annotations,
        arguments.videos,
        subsets=arguments.subsets,
        label_names=label_names,
        max_lost=arguments.max_lost,
    )
    print_report(dataset)
    if arguments.dry_run:
        print("dry run: nothing written")
        return
    name = arguments.name or arguments.output.resolve().name
    print(write_dataset(dataset, arguments.output, name=name, repo_id=arguments.repo, license=arguments.license))


def main() -> None:
    arguments = parse_arguments()
    # The report counts what the readers would warn of, with measured durations.
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    logging.getLogger("re2tal_hf.public").setLevel(logging.WARNING)
    try:
        if arguments.repo:
            check_repo_id(arguments.repo)
        if arguments.annotations:
            make(arguments)
        if arguments.repo and not arguments.dry_run:
            print(upload_dataset(arguments.output, arguments.repo, private=not arguments.public))
    except (ValueError, OSError, HTTPError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
