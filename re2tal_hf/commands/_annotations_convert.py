"""Makes annotations of other tools JSON as training reads it, and JSON files that a tool opens.

re2tal annotations convert match.eaf --output annotations.json
re2tal annotations convert clips/*.txt --from frame-labels --frame-rate 30 --output annotations.json
re2tal annotations convert annotations.json --to elan --videos videos --output for_elan
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.annotation_files import points, write_annotations
from ..data.annotation_formats.formats import WRITERS
from ..data.annotation_records import Record
from ..data.annotation_set import POINT_HINT
from ..data.annotation_writing import annotated_videos, hint, write_for_tool
from ..data.whole_files import check_writable
from ._annotation_sources import add_sources, check_labels, output_file, read_sources
from ._command import run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument("--output", required=True, help="the file to write; where each video has its own, their folder")
    parser.add_argument("--to", choices=WRITERS, help="the tool that is to open it; by default JSON for training")
    parser.add_argument("--videos", help="with --to: folder of the videos, which tell their length, rate and size")
    parser.add_argument(
        "--video-prefix",
        default="",
        help="with --to: what the tool wants before names of videos, as /data/local-files/?d=videos/ in Label Studio",
    )


def run(arguments: argparse.Namespace) -> int:
    alone = arguments.to and not WRITERS[arguments.to].together
    output = Path(arguments.output) if alone else output_file(arguments.output)
    if alone:
        check_writable(output)
    records = read_sources(arguments)
    labels = check_labels(records, arguments.sources[0])
    if arguments.to:
        written = _write_for_tool(records, arguments, output)
    else:
        if lengthless := points(records):
            print(f"{lengthless} actions are points in time, by which nothing is trained; {POINT_HINT}")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_annotations(output, records)
        written = str(output)
    actions = sum(len(record.labels) for record in records)
    print(f"{len(records)} videos, {actions} actions of {len(labels)} classes, in {written}")
    return 0


def _write_for_tool(records: list[Record], arguments: argparse.Namespace, output: Path) -> str:
    folder = Path(arguments.videos) if arguments.videos else None
    videos = annotated_videos(records, folder, arguments.frame_rate, arguments.video_prefix)
    paths = write_for_tool(videos, arguments.to, output)
    if told := hint(videos, arguments.to):
        print(told)
    return f"{len(paths)} files in {output}" if not WRITERS[arguments.to].together else str(output)


def main(arguments: list[str] | None = None) -> int:
    """Runs the action; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments, name="annotations convert")
