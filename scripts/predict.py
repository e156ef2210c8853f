"""Localizes actions in video files: JSON, CSV and a timeline picture for each, by its name or, where several are
called the same, by as much of the path as tells them apart.

python scripts/predict.py --model runs/first/best --output predictions match.mp4 training.mp4
"""

import argparse
import io
import logging
import sys
from pathlib import Path

from re2tal_hf.data.video_files import names_of_results
from re2tal_hf.detection_files import write_detections
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.timeline import draw_timeline
from re2tal_hf.training.run_folder import complete_folder
from re2tal_hf.video_reader import VideoReader, VideoReadError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model folder or a Hub id")
    parser.add_argument("--output", default="predictions", help="folder for the results")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score reported")
    parser.add_argument("--top-k", type=int, help="most actions reported for a video, the best")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--windows-per-step", type=int, default=1)
    parser.add_argument("videos", nargs="+")
    return parser.parse_args()


def write_results(folder: Path, name: str, rows: list[dict], duration: float) -> None:
    for kind in ("json", "csv"):
        write_detections(folder / f"{name}.{kind}", rows)
    figure = draw_timeline(rows, duration=duration, title=name)
    figure.savefig(folder / f"{name}.png")


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    videos = list({Path(path).resolve(): path for path in arguments.videos}.values())
    pipe = load_pipeline(str(complete_folder(arguments.model)), device=arguments.device)
    settings = {
        "threshold": arguments.threshold,
        "top_k": arguments.top_k,
        "windows_per_step": arguments.windows_per_step,
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
