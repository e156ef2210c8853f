"""What the actions of `re2tal annotations` share: files of annotations as options, and what was read of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.annotation_formats.annotation_file import UNITS, ReadingSettings
from ..data.annotation_formats.formats import FORMATS
from ..data.annotation_records import Record, check_case, joined
from ..data.annotation_set import AnnotationError
from ..data.annotation_sources import read_source
from ..data.json_files import check_unique
from ..data.whole_files import check_writable
from ..value_checks import POSITIVE
from ._command import Options, add_point_width, number


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds `sources`, files of annotations, and what they do not tell of themselves."""
    parser.add_argument("sources", nargs="+", metavar="source", help="files of annotations, all of one kind")
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
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="TABLE",
        help="of EPIC-KITCHENS-100: EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv; by default classes are ids",
    )
    add_point_width(parser)


def read_sources(arguments: Options) -> list[Record]:
    """Reads the files of `add_sources`, and says how each was understood.

    Raises:
        AnnotationError: One of them is malformed, or two have a video of the same id.
    """
    settings = ReadingSettings(arguments.frame_rate, arguments.unit, tuple(map(Path, arguments.classes)))
    records: list[Record] = []
    of_class: list[Record] = []
    for source in arguments.sources:
        read, found, notes = read_source(Path(source), arguments.kind, settings)
        title = found.title if found else "JSON of annotations"
        if settings.classes and not (found and found.of_ids):
            raise AnnotationError(f"{source}: this is {title}, whose classes --classes does not name; leave it out")
        print(f"{source}: {title}")
        for note in dict.fromkeys(notes):
            print(f"  {note}")
        (of_class if found and found.of_class else records).extend(read)
    records += joined(of_class)
    check_unique((record.video_id for record in records), ", ".join(arguments.sources)[:200])
    if arguments.point_width is not None:
        for record in records:
            record.widen_points(arguments.point_width)
    return records


def check_labels(records: list[Record], source: str) -> set[str]:
    """Returns the labels of all actions.

    Raises:
        AnnotationError: Some of them differ only in case.
    """
    labels = [str(label) for record in records for label in record.labels]
    check_case(labels, source)
    return set(labels)


def output_file(output: str) -> Path:
    """Returns the path of the file to write, into whose folder it can be written.

    Raises:
        OSError: It is a folder, or cannot be written.
    """
    path = Path(output)
    if path.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: name a file.")
    check_writable(path.parent)
    return path
