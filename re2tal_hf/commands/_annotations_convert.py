"""Makes annotations of other tools JSON as training reads it.

re2tal annotations convert match.eaf --output annotations.json
re2tal annotations convert clips/*.txt --from frame-labels --frame-rate 30 --output annotations.json
"""

from __future__ import annotations

import argparse

from ..data.annotation_files import points, write_annotations
from ..data.annotation_set import POINT_HINT
from ._annotation_sources import add_sources, check_labels, output_file, read_sources
from ._command import run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument("--output", required=True, help="the file to write")


def run(arguments: argparse.Namespace) -> int:
    output = output_file(arguments.output)
    records = read_sources(arguments)
    labels = check_labels(records, arguments.sources[0])
    if lengthless := points(records):
        print(f"{lengthless} actions are points in time, by which nothing is trained; {POINT_HINT}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_annotations(output, records)
    actions = sum(len(record.labels) for record in records)
    print(f"{len(records)} videos, {actions} actions of {len(labels)} classes, in {output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the action; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments, name="annotations convert")
