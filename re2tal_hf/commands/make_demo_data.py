"""Generates a small data set of videos and annotations: actions told apart by motion alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from ..data.synthetic import generate
from ..value_checks import NOT_NEGATIVE, Range
from ._command import number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where videos/ and annotations.json go")
    parser.add_argument("--num-training", type=number(int, Range(0, 10**6)), default=40, help="videos to train on")
    parser.add_argument("--num-validation", type=number(int, Range(0, 10**6)), default=16, help="videos to evaluate on")
    parser.add_argument("--num-test", type=number(int, Range(0, 10**6)), default=1, help="held-out videos")
    parser.add_argument("--seed", type=number(int, NOT_NEGATIVE), default=0)
    parser.add_argument("--height", type=number(int, Range(32, 4096)), default=64, help="pixels, even")
    parser.add_argument("--width", type=number(int, Range(32, 4096)), default=64, help="pixels, even")
    parser.add_argument("--frame-rate", type=number(float, Range(1, 1000)), default=12.0, help="frames per second")
    parser.add_argument(
        "--shortest", type=number(float, Range(1, 86400)), default=20.0, help="shortest video in seconds"
    )
    parser.add_argument("--longest", type=number(float, Range(1, 86400)), default=60.0, help="longest video in seconds")


def run(arguments: argparse.Namespace) -> int:
    annotation_file = generate(
        arguments.folder,
        num_training=arguments.num_training,
        num_validation=arguments.num_validation,
        num_test=arguments.num_test,
        seed=arguments.seed,
        size=(arguments.height, arguments.width),
        frame_rate=arguments.frame_rate,
        durations=(arguments.shortest, arguments.longest),
    )
    database = json.loads(annotation_file.read_text(encoding="utf-8"))["database"]
    for subset, count in Counter(video["subset"] for video in database.values()).items():
        videos = [video for video in database.values() if video["subset"] == subset]
        seconds = sum(video["duration"] for video in videos)
        actions = sum(len(video["annotations"]) for video in videos)
        print(f"{subset}: {count} videos, {seconds:.0f} s, {actions} actions")
    print(annotation_file)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
