"""Memory and time of a training step: plain, checkpoint and reversible, side by side in one run.

re2tal benchmark                         # Swin-T, depths 2-2-6-2 and 2-2-18-2, one CPU thread
re2tal benchmark --families              # one backbone of every family
re2tal benchmark --families --output scripts/benchmark   # also over depth, frames, size, precision: JSON, page, picture
re2tal benchmark --backbone '{model_type: slowfast, variant: 101_8x8}'
re2tal benchmark --recipe ut_interaction # the shapes of a recipe, the head included
re2tal benchmark --budgets       # what is kept and how long a step takes, from the leanest budget to the largest
re2tal benchmark --adapters 96 --backbone '{model_type: videomae, variant: small}'   # beside all weights, and LoRA
re2tal benchmark --calculate --frames 128 --size 224   # large backbones and 8 to 80 GB, by calculation: nothing runs
re2tal benchmark --device cuda --size 224 --frames 128 --find-frames
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from ..architecture import BACKBONES
from ..data.whole_files import check_writable
from ..training.arguments import load_recipe
from ..training.recipe_yaml import read_yaml
from ..value_checks import COUNT, check_value
from ._benchmark_backbones import DEEPER, FAMILIES, LARGE, SWINS, sized
from ._benchmark_calculation import calculate
from ._benchmark_report import INFERENCE, entries_before, write_report
from ._benchmark_step import MIB, PRECISIONS, Step, backbone_step, budget_step, peak_of_step, recipe_step
from ._command import check_device, number, run_command

AS_SHIPPED = "the library's own forward"
MODES = {
    "not rewired, plain": {"rewiring": "none", "backprop": "plain"},
    "rewired, plain": {"backprop": "plain"},
    "rewired, checkpoint": {"backprop": "checkpoint"},
    "rewired, reversible": {"backprop": "reversible"},
}
# Budgets between the leanest and the largest, both included.
NUM_BUDGETS = 6


def budget_rows(arguments: argparse.Namespace, backbone: dict) -> dict[str, tuple]:
    """Rows of `backprop=auto` within budgets between the leanest and the largest of use, in equal ratios."""
    rows: dict[str, tuple] = {"rewired, plain": (backbone_step, (arguments, backbone, MODES["rewired, plain"]))}
    step = budget_step(arguments, backbone, 2**62)
    choices = step.plan().choices
    leanest, most = choices[0][0], choices[-1][0]
    for index in range(NUM_BUDGETS):
        budget = math.ceil(leanest * (most / leanest) ** (index / (NUM_BUDGETS - 1)))
        step.model.memory_budget = budget
        modes = "".join(mode[0] for mode in step.plan().modes)
        rows[f"budget {budget / MIB:.1f} MiB: {modes}"] = (budget_step, (arguments, backbone, budget))
    return rows


def backbone_rows(arguments: argparse.Namespace, backbone: dict) -> dict[str, tuple]:
    """Rows of all modes, and of inference."""
    rows: dict[str, tuple] = {
        name: (backbone_step, (arguments, backbone, change)) for name, change in {AS_SHIPPED: None, **MODES}.items()
    }
    return rows | {INFERENCE: (backbone_step, (arguments, backbone, {}, False))}


def adapted_rows(arguments: argparse.Namespace, backbone: dict) -> dict[str, tuple]:
    """Steps that train all weights, LoRA in a frozen backbone, and adapters in or beside one, in each of the modes."""
    ways: dict[str, tuple[dict, dict]] = {"all weights": ({}, {}), "LoRA": ({}, {"lora": {"r": 8}})}
    known = BACKBONES.find(backbone["model_type"]).settings()
    if "adapter_width" in known:
        ways["adapters"] = ({"adapter_width": arguments.adapters}, {})
    if "adapter_side" in known:
        ways["side adapters"] = ({"adapter_width": arguments.adapters, "adapter_side": True}, {})
    return {
        f"{way}, {mode}": (backbone_step, (arguments, {**backbone, **settings}, {"backprop": mode, **change}))
        for mode in ("plain", "checkpoint", "reversible")
        for way, (settings, change) in ways.items()
    }


def count_kept(arguments: argparse.Namespace, backbone: dict) -> list[dict[str, Any]]:
    """MiB that all stages plain keep, and the leanest modes, by count: of the backbone, deeper, of larger inputs."""
    deeper = backbone in FAMILIES and (DEEPER.get(backbone["model_type"]) or DEEPER.get(backbone.get("variant", "")))
    changed: list[tuple[str, str, dict, dict]] = [
        ("", "", backbone, {}),
        ("frames", "x2", backbone, {"frames": 2 * arguments.frames}),
        ("frames", "x4", backbone, {"frames": 4 * arguments.frames}),
        ("size", "x2", backbone, {"size": 2 * arguments.size}),
        ("precision", "bf16", backbone, {"precision": "bf16"}),
    ]
    if deeper:
        changed.insert(1, ("depth", "deeper", {**backbone, **deeper}, {}))
    found = []
    for axis, factor, other, change in changed:
        step = budget_step(argparse.Namespace(**{**vars(arguments), **change}), other, 2**62)
        choices = step.plan().choices
        kept = {"leanest_mib": choices[0][0] / MIB, "plain_mib": choices[-1][0] / MIB}
        found.append({"axis": axis, "factor": factor, **kept})
    return found


def compare(steps: dict[str, Step], peaks: dict[str, float], rounds: int) -> dict[str, dict[str, float]]:
    """Runs the steps in turn, prints and returns medians; ratios are to the first, round by round."""
    names = list(steps)
    saved = {name: step.saved() for name, step in steps.items()}
    for step in steps.values():
        step.run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(step.run())
    print(f"{'':32}{'saved MiB':>10}{'fewer':>8}{'peak MiB':>10}{'forward s':>11}{'step s':>9}{'ratio':>7}")
    rows = {}
    for name in names:
        row = {
            "kept_mib": saved[name],
            "peak_mib": peaks[name],
            "forward_seconds": statistics.median(t[0] for t in times[name]),
            "step_seconds": statistics.median(t[1] for t in times[name]),
            "ratio": statistics.median(a[1] / b[1] for a, b in zip(times[name], times[names[0]], strict=True)),
        }
        fewer = f"{saved[names[0]] / saved[name]:.1f}x" if saved[name] else ""
        print(
            f"{name:32}{saved[name]:10.1f}{fewer:>8}{peaks[name]:10.0f}{row['forward_seconds']:11.3f}"
            f"{row['step_seconds']:9.3f}{row['ratio']:7.2f}"
        )
        rows[name] = {field: round(value, 4) for field, value in row.items()}
    return rows


def describe(arguments: argparse.Namespace, backbone: dict[str, Any]) -> dict[str, Any]:
    """What tells a measurement from others of the same machine and versions."""
    return {
        "name": " ".join(str(backbone[key]) for key in ("model_type", "variant") if key in backbone),
        "backbone": backbone,
        "shape": f"1x{arguments.frames}x3x{arguments.size}x{arguments.size}",
        "precision": arguments.precision,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }


def largest_number_of_frames(arguments: argparse.Namespace, mode: str) -> int:
    """Returns the largest multiple of 16 frames of `--size` whose step fits on the GPU."""

    def fits(frames: int) -> bool:
        torch.cuda.empty_cache()
        try:
            backbone_step(argparse.Namespace(**{**vars(arguments), "frames": frames}), SWINS[0], MODES[mode]).run()
        except torch.OutOfMemoryError:
            return False
        return True

    high = 16
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 16:
        middle = (low + high) // 32 * 16
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--families", action="store_true", help="one backbone of every family")
    parser.add_argument("--backbone", help="a backbone_config in YAML, in place of the two Video Swins")
    parser.add_argument("--recipe", help="measure the shapes of this recipe, head included")
    parser.add_argument("--budgets", action="store_true", help="backprop=auto within several budgets of memory")
    parser.add_argument(
        "--adapters",
        type=number(int, COUNT),
        metavar="WIDTH",
        help="train adapters of this width, and LoRA, beside all",
    )
    parser.add_argument("--calculate", action="store_true", help="large backbones and 8 to 80 GB, by calculation")
    parser.add_argument("--frames", type=number(int, COUNT), default=32)
    parser.add_argument("--size", type=number(int, COUNT), default=112)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--threads", type=number(int, COUNT), default=1)
    parser.add_argument("--rounds", type=number(int, COUNT), default=7)
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="also write NAME.json, .md and .png, with counts for larger inputs; goes on with one of this machine",
    )
    parser.add_argument("--find-frames", action="store_true", help="CUDA: most frames that fit")


def read_backbone(text: str) -> dict[str, Any]:
    return check_value("--backbone", read_yaml(text, "--backbone"), dict)


def run(arguments: argparse.Namespace) -> int:
    check_device(arguments.device)
    if arguments.budgets and arguments.recipe:
        raise ValueError("--budgets is for backbones alone: leave out --recipe.")
    if arguments.adapters and (arguments.recipe or arguments.budgets):
        raise ValueError("--adapters is for backbones alone: leave out --recipe and --budgets.")
    if arguments.calculate:
        chosen = [read_backbone(arguments.backbone)] if arguments.backbone else LARGE
        calculate([sized(backbone, arguments.size) for backbone in chosen], arguments.frames, arguments.size)
        return 0
    if arguments.output:
        if arguments.budgets or arguments.recipe:
            raise ValueError("--output is for the modes of backbones: leave out --budgets and --recipe.")
        if arguments.adapters:
            raise ValueError("--output is for the modes of backbones: leave out --adapters.")
        check_writable(Path(arguments.output).parent, "--output")
    torch.set_num_threads(arguments.threads)

    builds: dict[str, dict[str, tuple]] = {}
    if arguments.recipe:
        recipe = load_recipe(arguments.recipe, imports=arguments.imports)
        arguments.imports = recipe.imports
        builds[f"recipe {arguments.recipe}"] = {
            **{name: (recipe_step, (arguments, recipe, change)) for name, change in MODES.items()},
            "rewired, frozen backbone": (recipe_step, (arguments, recipe, {}, True)),
        }
    else:
        backbones = FAMILIES if arguments.families else SWINS
        if arguments.backbone:
            backbones = [read_backbone(arguments.backbone)]
        rows_of = adapted_rows if arguments.adapters else budget_rows if arguments.budgets else backbone_rows
        for backbone in backbones:
            builds[str(backbone)] = rows_of(arguments, backbone)
    entries = entries_before(arguments.output, arguments.device) if arguments.output else []
    for title, rows in builds.items():
        print(f"{title}, {arguments.precision}, {arguments.device}, {arguments.threads} thread(s)")
        if arguments.output:
            described = describe(arguments, rows[AS_SHIPPED][1][1])
            if any(entry.items() >= described.items() for entry in entries):
                print(f"measured before: it is in {arguments.output}.json")
                continue
        if arguments.budgets:
            print("modes by stage: p plain, c checkpoint, r reversible")
        peaks = {name: peak_of_step(build, parameters, arguments.threads) for name, (build, parameters) in rows.items()}
        steps = {name: build(*parameters) for name, (build, parameters) in rows.items()}
        measured = compare(steps, peaks, arguments.rounds)
        if arguments.output:
            counted = count_kept(arguments, described["backbone"])
            entries.append({**described, "rows": measured, "counted": counted})
            write_report(arguments.output, entries, arguments.device)
    if arguments.find_frames:
        for mode in MODES:
            print(f"{mode}: {largest_number_of_frames(arguments, mode)} frames of {arguments.size} px fit")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
