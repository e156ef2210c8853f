"""Which features, cut how: a head trained on stored features of several backbones, strides and overlaps, side by side.

python scripts/compare_features.py --weights efficientnet-lite0.pth --videos videos --annotations annotations.json \\
    --trained runs/rewired-0/last runs/rewired-1/last runs/rewired-2/last
python scripts/compare_features.py --only-report

Features of each way are computed once, and a head is trained on them with each seed. A line goes to the results file
when a run ends; one that has a line is not repeated, so that the command goes on where it was stopped. `--only-report`
writes the table from the lines that are there, beside those of compare_pretrained.py, which trains on the same
sequences end to end.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comparison import THRESHOLDS, complete, difference, markdown, of_way, read_lines, resampled

from re2tal_hf.commands import features, train
from re2tal_hf.data.json_files import read_json
from re2tal_hf.training.feature_settings import DESCRIPTION

DATA = "cuts"
IMAGE = ["--recipe", "image_lite0", "training.pretrained_backbone={weights}", "model.rewiring=none"]
IMAGE += ["model.backbone_config.temporal_shift=0"]
GENERATED = ["--model", "app/model"]
TRAINED = ["--model", "{trained[0]}"]
# Of the image network each frame is seen alone, so that windows and their overlap change nothing; of the others the
# overlap is paid for in time, and says how far from the edges of its window a feature is at least.
WAYS: dict[str, list[str]] = {
    "image, 5 frames a second": [*IMAGE, "--overlap", "0"],
    "trained, overlap 0.5": [*TRAINED, "--overlap", "0.5"],
    "generated, overlap 0.5": [*GENERATED, "--overlap", "0.5"],
    "image, 2.5 frames a second": [*IMAGE, "processor.frame_rate=2.5", "--overlap", "0"],
    "image, 1.25 frames a second": [*IMAGE, "processor.frame_rate=1.25", "--overlap", "0"],
    "image, means over 0.8 s, overlap 0": [*IMAGE, "--mean", "processor.num_frames=4", "--overlap", "0"],
    "trained, overlap 0": [*TRAINED, "--overlap", "0"],
    "generated, overlap 0": [*GENERATED, "--overlap", "0"],
    "trained, second training, overlap 0.5": ["--model", "{trained[1]}", "--overlap", "0.5"],
    "trained, third training, overlap 0.5": ["--model", "{trained[2]}", "--overlap", "0.5"],
}
BASE = "image, 5 frames a second"
# A small head of image_lite0's kind.
RECIPE = ["--recipe", "features_actionformer", "model.head_config.hidden_size=64", "model.head_config.num_levels=4"]
RECIPE += ["model.head_config.standardize_input=true", "model.head_config.attention_window=null"]
RECIPE += ["model.head_config.padding=isolated", "model.head_config.dropout=0"]
RECIPE += ["model.loss_config.initial_normalizer=30", "training.epochs=20", "training.warmup_epochs=1"]
RECIPE += ["training.learning_rate=1e-3", "training.ema_decay=0.98", "training.trackers=null"]
RECIPE += ["evaluation.epochs=20", "evaluation.start_epoch=20", "data.num_workers=0"]
# What the longest sequence takes.
SECONDS = 50
RESULTS = Path(__file__).with_name("compare_features.jsonl")
END_TO_END = Path(__file__).with_name("compare_pretrained.jsonl")


def logged(main: Callable[[list[str]], int], words: list[str], folder: Path) -> None:
    """Runs a command with its output in the folder's log; in this process, since to import all takes its time."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "output.txt").open("a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        ended = main(words)
    if ended:
        raise SystemExit(f"{folder}: the run ended with {ended}; see output.txt there.")


def extract(way: str, options: argparse.Namespace) -> Path:
    """Computes the features of one way, unless they are there; returns their folder."""
    folder = options.output / way.replace(", ", "-").replace(" ", "_")
    if not (done := folder / "features.done").exists():
        words = [word.format(weights=options.weights, trained=options.trained) for word in WAYS[way]]
        words += ["--videos", str(options.videos), "--output", str(folder / "features")]
        logged(features.main, words, folder)
        done.touch()
    return folder


def localize(way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains a head on the features of one way with one seed; returns its line."""
    folder = extract(way, options)
    run, stored = folder / f"seed-{seed}", folder / "features"
    cut = read_json(stored / DESCRIPTION, "{feature_stride, feature_rate, ...}")
    length = round(SECONDS * cut["feature_rate"] / cut["feature_stride"])
    words = [*RECIPE, f"processor.num_frames={length}", f"model.head_config.max_length={length}", f"seed={seed}"]
    words += ["--output", str(run), f"data.annotations={options.annotations}", f"data.features={stored}"]
    logged(train.main, words, folder)
    return {
        "data": DATA,
        "way": way,
        "seed": seed,
        "stride_seconds": cut["feature_stride"] / cut["feature_rate"],
        "encoded_frames": cut["feature_rate"] * cut["window"] / cut["step"],
        "size": cut["size"],
        **read_json(run / "last" / "metrics.json", "{map, ...}"),
        "resampled": resampled(run),
    }


def table(lines: list[dict[str, Any]], end_to_end: list[dict[str, Any]]) -> list[str]:
    """Lines in Markdown: every way that was run, and the ways end to end that were run on the same sequences."""
    rows = [["features", "each", "encoded", "size", "mAP, mean and deviation", "of each seed"]]
    rows[0] += [*(f"at {limit}" for limit in THRESHOLDS), f"to {BASE} (95%)"]
    base = of_way(lines, DATA, BASE)
    for way, source in [(way, lines) for way in WAYS] + [(way, end_to_end) for way in ("frozen", "plain", "rewired")]:
        found = of_way(source, DATA, way)
        scores = [line["map"] for _, line in sorted(found.items())]
        if not scores:
            continue
        row, first = [f"end to end: {way}", "", "", ""], next(iter(found.values()))
        if source is lines:
            row = [way, f"{first['stride_seconds']:.3g} s", f"{first['encoded_frames']:g} frames a second"]
            row += [str(first["size"])]
        row += [f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores) if scores[1:] else 0:.3f}"]
        row += [" ".join(f"{score:.3f}" for score in scores)]
        row += [f"{statistics.mean(line[f'map@{limit}'] for line in found.values()):.3f}" for limit in THRESHOLDS]
        rows.append([*row, difference(found, base)])
    return markdown(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of the pretrained image network")
    parser.add_argument(
        "--trained", type=Path, nargs=3, help="models trained end to end on the same sequences, with a seed each"
    )
    parser.add_argument("--videos", type=Path, help="folder of the sequences")
    parser.add_argument("--annotations", type=Path)
    ways = [*WAYS]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, metavar="way", help=f"of {ways}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("runs/features"), help="folder for features and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of the runs; default %(default)s")
    parser.add_argument("--only-report", action="store_true", help="of the lines that are there")
    options = parser.parse_args()
    if not options.only_report:
        if lacking := [name for name in ("weights", "trained", "videos", "annotations") if not getattr(options, name)]:
            parser.error(f"--{lacking[0]} is needed to train")
        complete(options.results, DATA, options.ways, options.seeds, lambda way, seed: localize(way, seed, options))
    report = table(read_lines(options.results), read_lines(END_TO_END))
    text = "\n".join(["# compare_features.py", "", *report, ""])
    options.results.with_suffix(".md").write_text(text, encoding="utf-8")
    print("\n".join(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
