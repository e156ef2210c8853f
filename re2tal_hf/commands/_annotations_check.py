"""Describes annotations and what looks wrong with them, before anything is trained by them.

re2tal annotations check annotations.json --videos videos
re2tal annotations check *.eaf --videos videos --html report.html --json report.json

The exit code is 1 where there is an error, by which a training is refused or loses videos or actions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..data.annotation_check import check_annotations
from ..data.annotation_page import report_text, write_page
from ..data.whole_files import check_writable, written_whole
from ..value_checks import NOT_NEGATIVE, Range
from ._annotation_sources import add_sources, read_sources
from ._command import number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_sources(parser)
    parser.add_argument("--videos", help="folder of the videos; without it nothing is said of files")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page with pictures of actions")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--pictures",
        type=number(int, Range(0, 50)),
        default=4,
        help="random actions of each class on the page; default %(default)s",
    )
    parser.add_argument("--seed", type=number(int, NOT_NEGATIVE), default=0, help="which actions are pictured")


def run(arguments: argparse.Namespace) -> int:
    for option in ("html", "json"):
        if given := getattr(arguments, option):
            if Path(given).is_dir():
                raise IsADirectoryError(f"--{option} {given} is a folder: name a file.")
            check_writable(Path(given).parent, f"--{option}")
    records = read_sources(arguments)
    report = check_annotations(records, Path(arguments.videos) if arguments.videos else None)
    print(report_text(report))
    for given in filter(None, (arguments.html, arguments.json)):
        Path(given).parent.mkdir(parents=True, exist_ok=True)
    if arguments.html:
        title = ", ".join(Path(source).name for source in arguments.sources)[:200]
        with written_whole(Path(arguments.html)) as partial:
            write_page(partial, report, title, arguments.pictures, arguments.seed)
    if arguments.json:
        with written_whole(Path(arguments.json)) as partial:
            text = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
            partial.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    return 1 if any(finding.weight == "error" for finding in report.findings) else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the action; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments, name="annotations check")
