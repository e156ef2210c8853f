"""How much less there is to do on the page of `re2tal annotate` with a model that learns from what was marked.

python scripts/measure_effort.py --weights efficientnet-lite0.pth --videos videos --annotations annotations.json
python scripts/measure_effort.py --only-report
python scripts/measure_effort.py --annotations annotations.json --detections runs/*/last/detections.json

A scripted annotator marks the training videos some at a time; after each time a head is trained anew on features of a
frozen image network, of the videos that are marked by then, for the same number of steps. Its proposals are what the
annotator then finds in the videos of the validation subset, of which nothing is ever learned. He accepts those of a
score of 0.3 or more, which `re2tal annotate` shows, of those that lie over each other (tIoU of 0.5) the best, and edits
until every segment has a tIoU of 0.9 and its class, and nothing else is left: he moves a border to where it is, names
another class, deletes, or adds. Which proposal becomes which segment is matched so that the effort is least. To accept
is not counted. Beside that fixed score stands the one that would have been best for the videos corrected last, by the
proposals that he had for them.

Effort is counted in two ways: by marks, where a moved border, a class and a deletion are one each, and a segment that
is added three (start, end, class); and by edits, where an added segment is one, too. From nothing a segment takes three
marks, or one edit.

The next videos are those at random, or those of which the model is least sure, as the page orders them. A line goes to
the results file after each training; what has a line is not repeated. With --detections nothing is trained: the effort
is that on the stored detections of the validation subset.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx
from compare_features import RECIPE, SECONDS, extract, logged
from comparison import markdown, read_lines

from re2tal_hf.annotate.proposals import uncertainty
from re2tal_hf.commands import train
from re2tal_hf.data.json_files import read_json

# The cheapest features, and no worse than others in compare_features.md.
FEATURES = "image, 1.25 frames a second"
ENOUGH = 0.9
SCORE = 0.3
SAME = 0.5  # as proposals.js has it
MARKS = 3  # of a segment that is added
DONE = ("moved", "named", "deleted", "added")
SCORES = [n / 20 for n in range(2, 17)]
ORDERS = ("random", "uncertain")
BATCH = 2
STEPS = 280  # those of 20 epochs of 28 videos
RESULTS = Path(__file__).with_name("measure_effort.jsonl")

Segment = Mapping[str, Any]  # start, end, label


def tiou(one: Segment, other: Segment) -> float:
    common = min(one["end"], other["end"]) - max(one["start"], other["start"])
    return max(0.0, common) / (one["end"] - one["start"] + other["end"] - other["start"] - max(0.0, common))


def moves(proposal: Segment, true: Segment) -> int:
    """How many borders are moved to where they are until the tIoU is enough."""
    if tiou(proposal, true) >= ENOUGH:
        return 0
    return 1 if max(tiou({**proposal, side: true[side]}, true) for side in ("start", "end")) >= ENOUGH else 2


def effort(truth: Sequence[Segment], proposals: Sequence[Segment], add: int) -> Counter[str]:
    """Counts what is done to proposals until they are the truth, where the sum is least; `add` is what to add costs."""
    graph = networkx.Graph()
    changes: dict[tuple[int, int], tuple[int, int]] = {}
    for i, true in enumerate(truth):
        for j, proposal in enumerate(proposals):
            if tiou(proposal, true) == 0:
                continue
            change = moves(proposal, true), int(proposal["label"] != true["label"])
            # By a proposal that is kept, in place of one that is deleted and a segment that is added.
            if (saved := add + 1 - sum(change)) > 0:
                changes[i, j] = change
                graph.add_edge(("true", i), ("proposed", j), weight=saved)
    kept = [dict((one, other)) for one, other in networkx.max_weight_matching(graph)]
    made = [changes[pair["true"], pair["proposed"]] for pair in kept]
    return Counter(
        moved=sum(moved for moved, _ in made),
        named=sum(named for _, named in made),
        deleted=len(proposals) - len(kept),
        added=len(truth) - len(kept),
    )


def total(counts: Mapping[str, int], add: int) -> int:
    return sum(counts.values()) + (add - 1) * counts.get("added", 0)


def subsets(database: Mapping[str, Any], marked: Sequence[str]) -> dict[str, Any]:
    """The annotations as the trainer gets them: what is marked to learn from, all else to look at."""
    return {
        "database": {
            name: {**entry, "subset": "training" if name in marked else "validation"}
            for name, entry in database.items()
        }
    }


def proposed(database: Mapping[str, Any], marked: Sequence[str], folder: Path, options: Any, seed: int) -> Any:
    """Trains on what is marked; returns what is found in all other videos, by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(subsets(database, marked)), encoding="utf-8")
    length = round(SECONDS * 1.25)
    epochs = round(STEPS / math.ceil(len(marked) / BATCH))
    words = [*RECIPE, f"processor.num_frames={length}", f"model.head_config.max_length={length}", f"seed={seed}"]
    words += [f"training.batch_size={BATCH}", f"training.epochs={epochs}", f"training.save_epochs={epochs}"]
    words += [f"evaluation.epochs={epochs}", f"evaluation.start_epoch={epochs}"]
    words += ["--output", str(folder / "run"), f"data.annotations={annotations}"]
    words += [f"data.features={extract(FEATURES, options) / 'features'}"]
    logged(train.main, words, folder)
    return detections(folder / "run" / "last" / "detections.json")


def detections(path: Path) -> dict[str, list[Segment]]:
    return {name: rows_of(rows) for name, rows in read_json(path, '{"results": ...}')["results"].items()}


def rows_of(entries: Sequence[Mapping[str, Any]]) -> list[Segment]:
    return [{**entry, "start": entry["segment"][0], "end": entry["segment"][1]} for entry in entries]


def shown(rows: Sequence[Segment], score: float) -> list[Segment]:
    """The proposals that the page shows, one at a place."""
    best: list[Segment] = []
    for row in sorted(rows, key=lambda row: -row["score"]):
        if row["score"] >= score and all(tiou(row, other) < SAME for other in best):
            best.append(row)
    return best


def measured(
    database: Mapping[str, Any], names: Sequence[str], found: Mapping[str, Sequence[Segment]], score: float
) -> dict[str, Any]:
    """The effort on some videos, all together, where proposals of that score or more are accepted."""
    counts = {"marks": Counter[str](), "edits": Counter[str]()}
    for name in names:
        truth = rows_of(database[name]["annotations"])
        proposals = shown(found[name], score)
        counts["marks"] += effort(truth, proposals, MARKS)
        counts["edits"] += effort(truth, proposals, 1)
    return {name: dict(counted) for name, counted in counts.items()}


def best_score(database: Mapping[str, Any], names: Sequence[str], found: Mapping[str, Sequence[Segment]]) -> float:
    """The score from which it would have been best to accept the proposals of some videos that are corrected by now."""
    return min(SCORES, key=lambda score: total(measured(database, names, found, score)["marks"], MARKS))


def go_through(order: str, seed: int, options: argparse.Namespace) -> None:
    """Marks all training videos, some at a time, and writes the line of each time that has none."""
    database = read_json(options.annotations, '{"database": ...}')["database"]
    held_out = of_subset(database, "validation")
    left = sorted(of_subset(database, "training"))
    random.Random(seed).shuffle(left)
    marked: list[str] = []
    score = SCORE
    while left:
        marked += left[: options.every]
        del left[: options.every]
        line = line_of(read_lines(options.results), order, seed, len(marked))
        if line is None:
            folder = options.output / f"{order}-{seed}-{len(marked)}"
            found = proposed(database, marked, folder, options, seed)
            if order == "uncertain":
                left.sort(key=lambda name: -uncertainty(found[name], database[name]["duration"]))
            line = {"order": order, "seed": seed, "marked": len(marked)}
            line |= {"segments": sum(len(database[name]["annotations"]) for name in held_out), "score": score}
            line |= {"fixed": measured(database, held_out, found, SCORE)}
            line |= {"corrected": measured(database, held_out, found, score)}
            line |= {"left": left, "next_score": best_score(database, left[: options.every], found) if left else score}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        left, score = list(line["left"]), line["next_score"]


def of_subset(database: Mapping[str, Any], subset: str) -> list[str]:
    return [name for name, entry in database.items() if entry["subset"] == subset]


def stored(paths: Sequence[Path], annotations: Path) -> list[str]:
    """The effort on stored detections, in Markdown."""
    rows = [["detections", "marks", "times fewer", "edits", "times fewer", *DONE]]
    database = read_json(annotations, '{"database": ...}')["database"]
    names = of_subset(database, "validation")
    nothing = sum(len(database[name]["annotations"]) for name in names)
    for path in paths:
        counts = measured(database, names, detections(path), SCORE)
        marks, edits = total(counts["marks"], MARKS), total(counts["edits"], 1)
        row = [str(path), str(marks), fewer(MARKS * nothing, marks), str(edits), fewer(nothing, edits)]
        rows.append([*row, *(str(counts["marks"].get(name, 0)) for name in DONE)])
    return markdown(rows)


def line_of(lines: Sequence[dict[str, Any]], order: str, seed: int, marked: int) -> dict[str, Any] | None:
    return next((x for x in lines if (x["order"], x["seed"], x["marked"]) == (order, seed, marked)), None)


def table(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Means over the seeds, in Markdown."""
    rows = [["order", "accepted from", "videos marked", "seeds", "marks a segment", "times fewer", "of each seed"]]
    rows[0] += ["edits a segment", "times fewer", *(f"{name}, a segment" for name in DONE)]
    for order, score in itertools.product(ORDERS, ("fixed", "corrected")):
        for marked in sorted({line["marked"] for line in lines if line["order"] == order}):
            found = [line for line in lines if (line["order"], line["marked"]) == (order, marked)]
            marks = [total(line[score]["marks"], MARKS) / line["segments"] for line in found]
            edits = [total(line[score]["edits"], 1) / line["segments"] for line in found]
            each = [sum(line[score]["marks"].get(name, 0) / line["segments"] for line in found) for name in DONE]
            scores = " ".join(f"{line['score']:g}" for line in found)
            row = [order, f"{SCORE:g}" if score == "fixed" else scores, str(marked), str(len(found))]
            row += [f"{statistics.mean(marks):.2f}", fewer(MARKS, statistics.mean(marks))]
            row += [" ".join(fewer(MARKS, value) for value in marks)]
            row += [f"{statistics.mean(edits):.2f}", fewer(1, statistics.mean(edits))]
            rows.append([*row, *(f"{value / len(found):.2f}" for value in each)])
    return markdown(rows)


def fewer(nothing: int, effort: float) -> str:
    return f"{nothing / effort:.2f}" if effort else "all"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of the pretrained image network")
    parser.add_argument("--videos", type=Path, help="folder of the sequences")
    parser.add_argument("--annotations", type=Path, help="JSON with the subsets training and validation")
    parser.add_argument(
        "--every", type=int, default=5, help="videos after which a model is trained; default %(default)s"
    )
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS, metavar="order", help=f"of {ORDERS}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/effort"), help="folder for features and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of the runs; default %(default)s")
    parser.add_argument("--only-report", action="store_true", help="of the lines that are there")
    parser.add_argument("--detections", type=Path, nargs="+", metavar="FILE", help="of models that are trained")
    options = parser.parse_args()
    if options.detections:
        if not options.annotations:
            parser.error("--annotations is needed for --detections")
        print("\n".join(stored(options.detections, options.annotations)))
        return 0
    if not options.only_report:
        if lacking := [name for name in ("weights", "videos", "annotations") if not getattr(options, name)]:
            parser.error(f"--{lacking[0]} is needed to train")
        for seed in options.seeds:
            for order in options.orders:
                go_through(order, seed, options)
    print("\n".join(table(read_lines(options.results))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
