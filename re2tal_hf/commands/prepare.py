"""Checks the videos of an annotation file, and encodes them at the working rate and size.

re2tal prepare --annotations annotations.json --videos raw_videos                        # checks, writes nothing
re2tal prepare --annotations annotations.json --videos raw_videos --output videos        # and encodes what is there

A run that was stopped goes on. The output folder also gets missing_files.txt, one id a line, of videos that are not
there or cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from ..data.annotation_set import AnnotatedVideo
from ..data.annotations import read_annotations
from ..data.json_files import some
from ..data.preparation import MISSING, Encoding, Finding, check_encoding, check_videos, encode_all
from ..data.whole_files import check_writable, written_whole
from ..value_checks import COUNT, POSITIVE, Range
from ._command import number, run_command

MISSING_FILE = "missing_files.txt"
SHOWN = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, help="an annotation file")
    parser.add_argument("--videos", required=True, type=Path, help="folder of the video files, <id>.* or v_<id>.*")
    parser.add_argument("--subset", help="only of this one; default all")
    parser.add_argument("--output", type=Path, help="folder for the encoded videos; without it nothing is written")
    parser.add_argument(
        "--frame-rate", type=number(float, POSITIVE), default=15.0, help="frames a second; default %(default)s"
    )
    parser.add_argument(
        "--shorter-edge",
        type=number(int, Range(low=2)),
        default=256,
        help="pixels of the shorter edge, smaller videos keep theirs; default %(default)s",
    )
    parser.add_argument(
        "--processes",
        type=number(int, COUNT),
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        help="videos encoded at a time; default %(default)s, the cores of this machine",
    )
    parser.add_argument(
        "--list", type=Path, help=f"where to write the missing ones; default {MISSING_FILE} in --output"
    )


def print_findings(findings: list[Finding], total: int) -> None:
    kinds = Counter(finding.kind for finding in findings)
    for kind, count in kinds.items():
        print(f"{kind}: {count} of {total} videos")
        of_kind = [finding for finding in findings if finding.kind == kind]
        for finding in of_kind[:SHOWN]:
            print(f"  {finding.video_id}: {finding.text}")
        if count > SHOWN:
            print(f"  and {count - SHOWN} more")
    print(f"{total - len({finding.video_id for finding in findings})} of {total} videos are as annotated")


def names_of(videos: list[AnnotatedVideo], folder: Path) -> dict[Path, Path]:
    """Maps the name in the output folder to the file; folders are kept.

    Raises:
        ValueError: if two videos would have the same name.
    """
    sources: dict[Path, Path] = {}
    for video in videos:
        source = video.local_path()
        name = source.relative_to(folder).with_suffix(".mp4")
        if (other := sources.setdefault(name, source)) != source:
            raise ValueError(f"{some([str(other), str(source)])} would both become {name}: rename one.")
    return sources


def write_missing(file: Path, missing: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as partial:
        partial.write_text("".join(f"{video_id}\n" for video_id in missing), encoding="utf-8")
    print(f"{len(missing)} missing videos, in {file}")


def run(arguments: argparse.Namespace) -> int:
    output = arguments.output
    missing_file = arguments.list or (output / MISSING_FILE if output else None)
    encoding = Encoding(arguments.frame_rate, arguments.shorter_edge)
    if output:
        check_writable(output)
        check_encoding(output, encoding)
        if output.resolve() == arguments.videos.resolve():
            raise ValueError(f"--output {output} is the folder of the videos; choose another one.")
    if arguments.list:
        check_writable(arguments.list.parent, "--list")
    annotations = read_annotations(
        arguments.annotations, subset=arguments.subset, video_folder=arguments.videos, repair=False
    )
    findings = check_videos(annotations.videos)
    print_findings(findings, len(annotations.videos))
    missing = {finding.video_id for finding in findings if finding.kind in MISSING}
    if output:
        ready = [video for video in annotations.videos if video.video_id not in missing]
        sources = names_of(ready, arguments.videos)
        unreadable = encode_all(sources, output, encoding, arguments.processes)
        ids = {video.local_path(): video.video_id for video in ready}
        for name, error in unreadable.items():
            print(f"unreadable: {error}")
            missing.add(ids[sources[name]])
        print(f"{len(sources) - len(unreadable)} videos in {output}")
    if missing_file:
        write_missing(missing_file, [video.video_id for video in annotations.videos if video.video_id in missing])
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
