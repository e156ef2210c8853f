"""Localizes actions in video files: JSON, CSV and a timeline picture for each.

The results have the name of the video or, where several are called the same, as much of its path as tells them apart.

re2tal predict --model runs/first/best --output predictions match.mp4 training.mp4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..data.detection_files import write_detections
from ..data.video_files import names_of_results
from ..pipeline_re2tal import load_pipeline
from ..training.run_folder import complete_folder
from ..training.timeline import draw_timeline
from ..video_reader import VideoReader, VideoReadError
from ._command import add_inference_options, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inference_options(parser)
    parser.add_argument("--output", default="predictions", help="folder for the results")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score reported")
    parser.add_argument("--top-k", type=int, help="most actions reported for a video, the best")
    parser.add_argument("videos", nargs="+")


def write_results(folder: Path, name: str, rows: list[dict], duration: float) -> None:
    for kind in ("json", "csv"):
        write_detections(folder / f"{name}.{kind}", rows)
    figure = draw_timeline(rows, duration=duration, title=name)
    figure.savefig(folder / f"{name}.png")


def run(arguments: argparse.Namespace) -> int:
    videos = list({Path(path).resolve(): path for path in arguments.videos}.values())
    pipe = load_pipeline(str(complete_folder(arguments.model)), device=arguments.device)
    settings = {
        "threshold": arguments.threshold,
        "top_k": arguments.top_k,
        "batch_size": arguments.batch_size,
        "progress": sys.stderr.isatty(),
    }
    folder = Path(arguments.output)
    failed = 0
    for path, name in zip(videos, names_of_results(videos), strict=True):
        try:
            with VideoReader(path) as reader:
                duration = reader.duration
            rows = pipe(path, **settings)
        except VideoReadError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder, name, rows, duration)
        print(f"{path}: {len(rows)} actions, in {folder / name}.json")
        for row in rows[:20]:
            print(f"  {row['start']:8.2f} s to {row['end']:8.2f} s  {row['score']:.2f}  {row['label']}")
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
