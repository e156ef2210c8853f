"""Divides annotated videos into training and validation, groups of them together and classes evenly.

re2tal annotations split annotations.json --output split.json
re2tal annotations split *.eaf --validation 0.2 --test 0.2 --group-pattern '^(person[0-9]+)_' --output split.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.annotation_files import write_annotations
from ..data.annotation_records import Record
from ..data.stratified_split import split_records, split_table
from ..data.video_groups import groups_by_pattern, groups_of_column, groups_of_file, matched_groups
from ..value_checks import NOT_NEGATIVE, Range
from ._annotation_sources import add_sources, check_labels, output_file, read_sources
from ._command import number, run_command

_PART = Range(0, 0.9)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument(
        "--validation", type=number(float, _PART), default=0.25, help="share of the videos; default %(default)s"
    )
    parser.add_argument("--test", type=number(float, _PART), default=0.0, help="share of the videos; default none")
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument("--group-column", metavar="NAME", help="videos of one value of this column, or field, together")
    groups.add_argument(
        "--group-pattern", metavar="REGEX", help="videos together in whose names this finds the same (its first group)"
    )
    groups.add_argument("--group-file", metavar="FILE", help="JSON {video: group}, or a table of video and group")
    parser.add_argument("--seed", type=number(int, NOT_NEGATIVE), default=0)


def run(arguments: argparse.Namespace) -> int:
    output = output_file(arguments.output)
    shares = {"training": 1 - arguments.validation - arguments.test, "validation": arguments.validation}
    shares |= {"test": arguments.test} if arguments.test else {}
    if min(shares.values()) <= 0:
        raise ValueError("--validation and --test must leave some for training, and --validation must be above 0.")
    records = read_sources(arguments)
    check_labels(records, arguments.sources[0])
    groups = _groups(arguments, records)
    if any(record.subset for record in records):
        print("the subsets that the files name are replaced")
    subsets = split_records(records, shares, groups, arguments.seed)
    for record, subset in zip(records, subsets, strict=True):
        record.subset = subset
    print(split_table(records, subsets, groups, list(shares)))
    for label, lacking in _lacking(records, list(shares)):
        print(f"{label}: none in {lacking}, for too few videos or groups have it")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_annotations(output, records)
    print(f"in {output}")
    return 0


def _groups(arguments: argparse.Namespace, records: list[Record]) -> list[str]:
    video_ids = [record.video_id for record in records]
    if arguments.group_pattern is not None:
        return groups_by_pattern(video_ids, arguments.group_pattern)
    if arguments.group_file is not None:
        return matched_groups(video_ids, groups_of_file(Path(arguments.group_file)), arguments.group_file)
    if arguments.group_column is not None:
        found: dict[str, str] = {}
        for source in arguments.sources:
            found |= groups_of_column(Path(source), arguments.group_column)
        return matched_groups(video_ids, found, f"column {arguments.group_column}")
    return video_ids


def _lacking(records: list[Record], subsets: list[str]) -> list[tuple[str, str]]:
    """Classes, each with the subsets that have none of it."""
    there = {(str(label), record.subset) for record in records for label in record.labels}
    labels = sorted({label for label, _ in there})
    lacking = [(label, [name for name in subsets if (label, name) not in there]) for label in labels]
    return [(label, " and ".join(names)) for label, names in lacking if names]


def main(arguments: list[str] | None = None) -> int:
    """Runs the action; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments, name="annotations split")
