"""Makes annotations of other tools ours.

re2tal annotations convert match.eaf --output annotations.json
re2tal annotations convert clips/*.txt --from frame-labels --frame-rate 30 --output annotations.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..data.annotation_files import points, write_annotations
from ..data.annotation_formats.annotation_file import UNITS, ReadingSettings
from ..data.annotation_formats.formats import FORMATS, read_records
from ..data.annotation_records import Record, check_case
from ..data.annotation_set import POINT_HINT
from ..data.json_files import check_unique
from ..data.whole_files import check_writable
from ..value_checks import POSITIVE
from ._command import add_point_width, number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["convert"], help="convert: to JSON as training reads it")
    parser.add_argument("sources", nargs="+", metavar="source", help="files of annotations, all of one kind")
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument(
        "--from",
        choices=FORMATS,
        dest="kind",
        help="what wrote the files; by default what their content shows",
    )
    parser.add_argument(
        "--frame-rate",
        type=number(float, POSITIVE),
        metavar="RATE",
        help="frames a second, where files count frames and do not say it",
    )
    parser.add_argument("--unit", choices=UNITS, help="of the times in a table whose header does not name it")
    add_point_width(parser)


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: name a file.")
    check_writable(output.parent)
    settings = ReadingSettings(arguments.frame_rate, arguments.unit)
    records: list[Record] = []
    for source in arguments.sources:
        found, kind, notes = read_records(Path(source), arguments.kind, settings)
        print(f"{source}: {kind.title}")
        for note in dict.fromkeys(notes):
            print(f"  {note}")
        records += found
    check_unique((record.video_id for record in records), ", ".join(arguments.sources)[:200])
    if arguments.point_width is not None:
        for record in records:
            record.widen_points(arguments.point_width)
    labels = [str(label) for record in records for label in record.labels]
    check_case(labels, arguments.sources[0])
    if lengthless := points(records):
        print(f"{lengthless} actions are points in time, by which nothing is trained; {POINT_HINT}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_annotations(output, records)
    print(f"{len(records)} videos, {len(labels)} actions of {len(set(labels))} classes, in {output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
