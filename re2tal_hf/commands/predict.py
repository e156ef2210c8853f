r"""Localizes actions in video files: for each JSON, CSV, subtitles and a picture of the timeline, as asked for.

The results have the name of the video or, where several are called the same, as much of its path as tells them apart.

re2tal predict --model runs/first/best --output predictions match.mp4 training.mp4
re2tal predict --model runs/first/best --format srt match.mp4
re2tal predict --model runs/first/best --write elan *.mp4    # for correction there
re2tal predict --model runs/agnostic --candidate-label kick --candidate-label throw \
    --text-model openai/clip-vit-base-patch32 match.mp4   # names the segments of a class-agnostic model

On several GPUs, which share the videos: re2tal launch predict --model ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from ..data.annotation_formats.formats import WRITERS
from ..data.annotation_writing import detected_video, hint, names_for_tools, write_for_tool
from ..data.detection_files import FORMATS, write_detections
from ..data.json_files import some
from ..data.video_files import names_of_results
from ..data.whole_files import check_writable, written_whole
from ..pipeline_re2tal import TemporalActionLocalizationPipeline
from ..training.processes import on_every_process, start_processes
from ..training.timeline import draw_timeline
from ..value_checks import COUNT, POSITIVE, SHARE
from ..video_features import FeaturesInMemory, check_size, is_feature_file
from ..video_reader import VideoReader, VideoReadError
from ._command import add_inference_options, check_source, load_for_inference, number, run_command

PICTURE = "png"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inference_options(parser)
    parser.add_argument("--output", default="predictions", help="folder for the results")
    parser.add_argument("--threshold", type=number(float, SHARE), default=0.3, help="lowest score reported")
    parser.add_argument("--top-k", type=number(int, COUNT), help="most actions reported for a video, the best")
    parser.add_argument(
        "--format",
        action="append",
        choices=(*FORMATS, PICTURE),
        help="of the results; may be given several times (json, csv and png)",
    )
    parser.add_argument(
        "--frame-rate",
        type=number(float, POSITIVE),
        help="of the videos of stored features, frames per second, where the model does not say it",
    )
    parser.add_argument(
        "--write",
        action="append",
        choices=WRITERS,
        default=[],
        help="also for this tool, which opens the actions for correction; may be given several times",
    )
    parser.add_argument(
        "--candidate-label",
        action="append",
        metavar="LABEL",
        help="among which --text-model chooses for each segment of a class-agnostic model; given several times",
    )
    parser.add_argument("--text-model", help="an image-and-text model of transformers, such as CLIP or SigLIP 2")
    parser.add_argument("videos", nargs="+", help="video files; for a model on stored features, files of these")


def write_results(target: Path, rows: list[dict], duration: float, formats: Sequence[str]) -> None:
    for kind in formats:
        path = target.with_name(f"{target.name}.{kind}")
        if kind == PICTURE:
            with written_whole(path) as partial:
                draw_timeline(rows, duration=duration, title=target.name).savefig(partial, format=PICTURE)
        else:
            write_detections(path, rows)


def localize(
    pipe: TemporalActionLocalizationPipeline, path: str, frame_rate: float | None, settings: dict[str, Any]
) -> tuple[list[dict], float]:
    """What is found in a video or in its features, and the duration of the video."""
    if is_feature_file(path):
        features = FeaturesInMemory(path, frame_rate=frame_rate)
        check_size(path, features, pipe.model.config.backbone_config)
        duration = features.whole(pipe.video_processor).duration
        return pipe({"features": features.features, "frame_rate": frame_rate, "name": path}, **settings), duration
    with VideoReader(path) as reader:
        duration = reader.duration
    return pipe(path, **settings), duration


def run(arguments: argparse.Namespace) -> int:
    processes = start_processes()
    formats = list(dict.fromkeys(arguments.format or ("json", "csv", PICTURE)))
    folder = Path(arguments.output)
    on_every_process(processes, lambda: check_writable(folder))
    videos = list({Path(path).resolve(): path for path in arguments.videos}.values())
    names = dict(zip(videos, names_for_tools(videos), strict=True))
    named = list(zip(videos, names_of_results(videos), strict=True))
    pipe = on_every_process(processes, lambda: load_for_inference(arguments, processes))
    on_features = [is_feature_file(path) for path in videos]
    check_source(pipe, any(on_features), "files of features (.npy, .npz, .safetensors)")
    if not all(on_features) and any(on_features):
        raise ValueError("Some files are features and some are not: give those of the model.")
    if any(on_features) and arguments.write:
        raise ValueError("--write is for videos: files of features do not tell what a tool needs to know of them.")
    settings = {
        "threshold": arguments.threshold,
        "top_k": arguments.top_k,
        "batch_size": arguments.batch_size,
        "exact": arguments.exact,
        "progress": sys.stderr.isatty() and processes.is_main_process,
    }
    naming = {"candidate_labels": arguments.candidate_label, "text_model": arguments.text_model}
    settings |= {name: value for name, value in naming.items() if value is not None}

    found: dict[str, list[dict]] = {}

    def share() -> list[str]:
        failed = []
        for path, name in named[processes.process_index :: processes.num_processes]:
            try:
                rows, duration = localize(pipe, path, arguments.frame_rate, settings)
                found[path] = rows
            except VideoReadError as error:
                print(error, file=sys.stderr)
                failed.append(path)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_results(folder / name, rows, duration, formats)
            print(f"{path}: {len(rows)} actions, in {folder / name}.{formats[0]}")
            for row in rows[:20]:
                until = f" to {row['end']:8.2f} s" if row["end"] > row["start"] else ""
                print(f"  {row['start']:8.2f} s{until}  {row['score']:.2f}  {row['label']}")
        return failed

    # None ends before all have: its end with an error would end the others.
    failed = [path for part in gather_object([on_every_process(processes, share)]) for path in part]
    if arguments.write:
        together = {path: rows for part in gather_object([found]) for path, rows in part.items()}
        kept = {names[path]: (path, together[path]) for path in videos if path in together}
        on_every_process(processes, lambda: _write(kept, arguments.write, folder, processes.is_main_process))
    if failed and processes.is_main_process:
        rest = f"the results of the others are in {folder}" if len(failed) < len(videos) else "there are no results"
        raise VideoReadError(f"{len(failed)} of {len(videos)} videos cannot be read: {some(failed)}; {rest}.")
    return 1 if failed else 0


def _write(found: dict[str, tuple[str, list[dict]]], kinds: Sequence[str], folder: Path, is_main_process: bool) -> None:
    """Writes what was found, by names of videos, for other tools: one file, or a folder with one for each video."""
    if not is_main_process or not found:
        return
    videos = []
    for name, (path, rows) in found.items():
        with VideoReader(path) as reader:
            videos.append(detected_video(name, rows, reader))
    for kind in dict.fromkeys(kinds):
        name = f"{kind}{WRITERS[kind].ending}" if WRITERS[kind].together else kind
        write_for_tool(videos, kind, folder / name)
        print(f"{folder / name}: for correction; {hint(videos, kind) or 're2tal annotations convert reads it again'}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
