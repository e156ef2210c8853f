"""What pretrained weights, training end to end and rewiring buy on real videos: runs side by side, with intervals.

python scripts/compare_pretrained.py --data cuts --weights efficientnet-lite0.pth --clips clips \\
    data.annotations=annotations.json data.videos=videos
python scripts/compare_pretrained.py --data clips --weights efficientnet-lite0.pth --clips clips   # top-1 on clips
python scripts/compare_pretrained.py --only-report

Every run trains the recipe `image_lite0` in a process of its own. Its line goes to the results file when it ends; a run
that has one is not repeated, so that the command goes on where it was stopped, and may be given several times at once
with different seeds or ways. `--only-report` writes the table and the picture from the lines that are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import THRESHOLDS, command, complete, difference, markdown, of_way, read_lines, resampled
from matplotlib.figure import Figure

from re2tal_hf import Re2TALForTemporalActionLocalization, Re2TALForVideoClassification
from re2tal_hf.training.arguments import Recipe, load_recipe
from re2tal_hf.training.memory import saved_for_backward

RECIPE = "image_lite0"
PLAIN = ["model.rewiring=none", "model.backprop=plain"]
# From the pretrained network's coefficients to Re2TAL's, or a tenth of the way for good.
DUAL = ["model.rewiring=dr2net"]
HELD = [*DUAL, "coupling.start=[1, 0.1]", "coupling.end=[1, 0.1]"]
# The idea of MEFT (arXiv 2306.00477): what is added learns, and what is there computes almost what it did.
ADAPTERS = [*HELD, "model.backbone_config.adapter_width=16", "freeze.backbone=true"]
ADAPTERS += ["training.backbone_learning_rate=1e-3"]
WAYS: dict[str, list[str]] = {
    "from scratch, rewired": ["training.pretrained_backbone=null", "freeze.norms=false"],
    "frozen": [*PLAIN, "freeze.backbone=true"],
    "plain": PLAIN,
    "rewired": [],
    "rewired, streams of 16 bits": ["model.stream_bits=16"],
    "rewired, distilled first": [],
    "Dr2Net": DUAL,
    "Dr2Net held at (1, 0.1)": HELD,
    "adapters, the rest frozen": ADAPTERS,
}
# What of a window of 9.6 s is seen: height and width of its frames, and how many; the recipe sees 48 of 96x128.
INPUTS = {
    "40x56": (40, 56, 48),
    "64x80": (64, 80, 48),
    "64x80, 24 frames": (64, 80, 24),
    "96x128, 12 frames": (96, 128, 12),
}
for _name, (_height, _width, _frames) in INPUTS.items():
    _input = [f"processor.size={{height: {_height}, width: {_width}}}"]
    if _frames != 48:
        _input += [f"processor.num_frames={_frames}", f"processor.frame_rate={_frames / 9.6:g}"]
    WAYS |= {f"plain, {_name}": [*PLAIN, *_input], f"rewired, {_name}": _input}
# Clips of any form, each seen whole.
CLIPS = "clips"
OF_CLIPS = ["processor.size={height: 128, width: 128}", "processor.frame_rate=4", "processor.num_frames=16"]
OF_CLIPS += ["augmentation.crop_scale=[0.8, 1]", "augmentation.crop_ratio=[0.6, 2]", "data.windows_per_video=1"]
OF_CLIPS += [
    "training.epochs=15",
    "training.batch_size=4",
    "training.backbone_learning_rate=1e-4",
    "evaluation.views=1",
]
DISTILLATION = ["distillation.weight=1", "distillation.label_weight=0", "evaluation.epochs=0", "evaluation.views=1"]
RESULTS = Path(__file__).with_name("compare_pretrained.jsonl")


def train(way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one way with one seed; returns its line."""
    folder = options.output / options.data / f"{way.replace(', ', '-').replace(' ', '_')}-{seed}"
    weights = [f"training.pretrained_backbone={options.weights}"]
    clips = [f"data.annotations={options.clips}", "data.videos=null", "data.training_subset=train"]
    common = [*options.overrides, *weights, "training.trackers=null", "data.num_workers=0", f"seed={seed}"]
    recipe = ["--recipe", RECIPE, "--output", str(folder / "run")]
    settings = [*WAYS[way]]
    distilled = 0
    if way == "rewired, distilled first":
        before = folder.with_name(f"distillation-{seed}")
        own = [*DISTILLATION, f"training.epochs={options.distillation_epochs}", "data.windows_per_video=1"]
        of_clips = [*OF_CLIPS, *own] if options.data == CLIPS else own
        command("finetune", [*recipe[:-1], str(before / "run"), *common, *of_clips, *clips], before)
        settings.append(f"training.pretrained_backbone={before / 'run' / 'last'}")
        distilled = steps(before / "run")
    if options.data == CLIPS:
        command("finetune", [*recipe, *common, *OF_CLIPS, *clips, *settings], folder)
        return outcome(way, seed, options.data, folder / "run", distilled, "top1")
    command("train", [*recipe, *common, *settings], folder)
    line = outcome(way, seed, options.data, folder / "run", distilled, "map")
    return {**line, "resampled": resampled(folder / "run")}


def outcome(way: str, seed: int, data: str, run: Path, distilled: int, metric: str) -> dict[str, Any]:
    """What a finished run says of itself."""
    log = read_lines(run / "log.jsonl")
    return {
        "data": data,
        "way": way,
        "seed": seed,
        "steps": steps(run),
        "distillation_steps": distilled,
        **json.loads((run / "last" / "metrics.json").read_text(encoding="utf-8")),
        "curve": [[entry["epoch"], round(entry[metric], 4)] for entry in log if metric in entry],
        "kept_mib": round(kept_mebibytes(run / "last", load_recipe(str(run / "recipe.yaml")), metric), 1),
        "peak_mib": round(max(entry["peak_memory_mib"] for entry in log)),
        "step_seconds": round(statistics.median(entry["seconds_per_step"] for entry in log), 3),
        "reconstruction_error": max(entry["reconstruction_error"] for entry in log),
    }


def steps(run: Path) -> int:
    """Updates of a run; of an epoch's last batch what does not fill it is left out."""
    recipe = load_recipe(str(run / "recipe.yaml"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    windows = record["training"]["videos"] * recipe.data.windows_per_video
    return recipe.training.epochs * (windows // recipe.training.batch_size)


def kept_mebibytes(folder: Path, recipe: Recipe, metric: str) -> float:
    """What autograd keeps of a training step of the model as it is at the end."""
    localizes = metric == "map"
    model_class: Any = Re2TALForTemporalActionLocalization if localizes else Re2TALForVideoClassification
    model = model_class.from_pretrained(folder).train()
    model.freeze(**vars(recipe.freeze))
    size, batch = recipe.processor["size"], recipe.training.batch_size
    videos = torch.randn(batch, recipe.processor["num_frames"], 3, size["height"], size["width"])
    action = {"segments": torch.tensor([[2.0, 9.0]]), "class_labels": torch.tensor([0])}
    labels = [action] * batch if localizes else torch.zeros(batch, dtype=torch.long)
    model(videos, labels=labels).loss.backward()  # a Dr2Net measures the error of its inversion first
    with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
        model(videos, labels=labels)
    return saved.total() / 2**20


def table(lines: list[dict[str, Any]], data: str) -> list[str]:
    """Lines in Markdown: every way that was run on the data."""
    metric, thresholds = ("top1", ()) if data == CLIPS else ("map", THRESHOLDS)
    names = [f"map@{threshold}" for threshold in thresholds]
    heads = [
        "way",
        "top-1" if data == CLIPS else "mAP",
        "of each seed",
        *(f"at {threshold}" for threshold in thresholds),
    ]
    heads += [
        "to frozen (95% over videos)",
        "to plain (95%)",
        "kept, MiB",
        "peak, MiB",
        "step, as busy as the machine was",
        "updates",
    ]
    rows = [heads]
    frozen, plain = of_way(lines, data, "frozen"), of_way(lines, data, "plain")
    unit = statistics.median(line["step_seconds"] for line in plain.values()) if plain else 1.0
    for way in WAYS:
        found = [line for _, line in sorted(of_way(lines, data, way).items())]
        if not found:
            continue
        means = [statistics.mean(line[name] for line in found) for name in (metric, *names)]
        row = [way, f"{means[0]:.3f}", " ".join(f"{line[metric]:.3f}" for line in found)]
        row += [f"{mean:.3f}" for mean in means[1:]]
        row += [difference(of_way(lines, data, way), other) for other in (frozen, plain)]
        row += [f"{found[-1]['kept_mib']:.1f}"]
        row += [f"{max(line['peak_mib'] for line in found)}"]
        row += [f"{statistics.median(line['step_seconds'] for line in found) / unit:.2f}"]
        extra = found[-1]["distillation_steps"]
        row += [f"{found[-1]['steps']}" + (f" after {extra}" if extra else "")]
        rows.append(row)
    return markdown(rows)


def class_table(lines: list[dict[str, Any]], data: str) -> list[str]:
    """Lines in Markdown: AP by class, mean over thresholds and seeds."""
    ways = [way for way in WAYS if of_way(lines, data, way)]
    classes = sorted({name for line in lines if line["data"] == data for name in line["per_class"]})
    rows = [["way", *classes]]
    for way in ways:
        found = of_way(lines, data, way).values()
        rows.append([way, *(f"{statistics.mean(line['per_class'][name] for line in found):.3f}" for name in classes)])
    return markdown(rows)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Kept memory against mAP for frames of several sizes, and mAP as the training goes on."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    memory, effort = figure.subplots(1, 2)
    for way, colour in (("plain", "C0"), ("rewired", "C1")):
        names = {f"{way}, {name}": name for name in INPUTS} | {way: "96x128"}
        # The seed that every input was run with.
        points = {name: of_way(lines, "cuts", name)[0] for name in names if 0 in of_way(lines, "cuts", name)}
        best: list[tuple[float, float]] = []
        for name, line in sorted(points.items(), key=lambda item: item[1]["kept_mib"]):
            memory.annotate(names[name], (line["kept_mib"], line["map"]), (4, -9), textcoords="offset points", size=7)
            memory.plot(line["kept_mib"], line["map"], "o", color=colour)
            best.append((line["kept_mib"], max([line["map"], *(value for _, value in best)])))
        if best:
            memory.step(*zip(*best, strict=True), where="post", color=colour, label=f"{way}, the best within so much")
    memory.margins(0.12)
    memory.set(
        title="windows of 9.6 s, 48 frames where not said, seed 0",
        xscale="log",
        xlabel="kept for the backward pass, MiB",
        ylabel="mAP@0.3:0.7",
    )
    for way in ("plain", "rewired", "adapters, the rest frozen", "frozen", "from scratch, rewired"):
        curves = [line["curve"] for line in of_way(lines, "cuts", way).values()]
        if curves:
            epochs, scores = np.mean(curves, axis=0).T
            updates = next(iter(of_way(lines, "cuts", way).values()))["steps"] / epochs[-1]
            [line] = effort.plot(epochs * updates, scores, marker="o", label=f"{way} ({len(curves)} seeds)")
            lowest, highest = (of(curves, axis=0)[:, 1] for of in (np.min, np.max))
            effort.fill_between(epochs * updates, lowest, highest, color=line.get_color(), alpha=0.1)
    effort.set(title="mean and range of the seeds, 48 frames of 96x128", xlabel="updates", ylabel="mAP@0.3:0.7")
    for axes in (memory, effort):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)


def report(results: Path) -> None:
    """Writes the tables and the picture beside the results."""
    lines = read_lines(results)
    parts = []
    for data in sorted({line["data"] for line in lines}):
        by_class = [] if data == CLIPS else [*class_table(lines, data), ""]
        parts += [f"## {data}", "", *table(lines, data), "", *by_class]
    text = "\n".join(["# compare_pretrained.py", "", *parts])
    results.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(lines, results.with_suffix(".png"))
    print("\n".join(parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cuts", help=f"what the data are called in the results; {CLIPS}: top-1")
    parser.add_argument("--weights", type=Path, help="of the pretrained image network")
    parser.add_argument(
        "--clips", type=Path, help="folder of labelled clips, clips/train/CLASS/... and clips/validation/CLASS/..."
    )
    parser.add_argument("--distillation-epochs", type=int, default=4)
    ways = [*WAYS]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, metavar="way", help=f"of {ways}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/pretrained"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of the runs; default %(default)s")
    parser.add_argument("--only-report", action="store_true", help="of the lines that are there")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    options = parser.parse_args()
    if not options.only_report and not options.weights:
        parser.error("--weights is needed to train")
    if not options.only_report:
        complete(
            options.results, options.data, options.ways, options.seeds, lambda way, seed: train(way, seed, options)
        )
    report(options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
