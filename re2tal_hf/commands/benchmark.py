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
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .. import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel
from ..architecture import BACKBONES, architecture_of, build_library_model
from ..backprop_plan import BackpropPlan
from ..data.whole_files import check_writable
from ..rewired_model import cut_into_clips
from ..training.arguments import Recipe, load_recipe
from ..training.memory import peak_memory, reset_peak_memory, saved_for_backward
from ..training.own_files import import_files
from ..training.recipe_yaml import read_yaml
from ..value_checks import COUNT, check_value
from ._benchmark_calculation import calculate
from ._benchmark_report import INFERENCE, write_report
from ._command import check_device, number, run_command

AS_SHIPPED = "the library's own forward"
MODES = {
    "not rewired, plain": {"rewiring": "none", "backprop": "plain"},
    "rewired, plain": {"backprop": "plain"},
    "rewired, checkpoint": {"backprop": "checkpoint"},
    "rewired, reversible": {"backprop": "reversible"},
}
SWINS: list[dict[str, Any]] = [
    {"model_type": "video_swin", "variant": "tiny", "depths": depths, "stochastic_depth_prob": 0.0}
    for depths in ([2, 2, 6, 2], [2, 2, 18, 2])
]
# VideoPrism's have 18 pixels, which divide few frame sizes of others.
PATCHES_OF_16 = {"tubelet_size": [1, 16, 16]}
FAMILIES: list[dict[str, Any]] = [
    SWINS[0],
    {"model_type": "mvit", "variant": "v2_s"},
    {"model_type": "slowfast", "variant": "101_8x8"},
    {"model_type": "slow_only", "variant": "50_8x8"},
    {"model_type": "fast_only", "variant": "50_8x8"},
    {"model_type": "video_resnet", "variant": "r3d_18"},
    {"model_type": "videomae", "variant": "base"},
    {"model_type": "vivit", "variant": "base"},
    {"model_type": "timesformer", "variant": "base"},
    {
        "model_type": "vjepa2",
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "frames_per_clip": 16,
    },
    {"model_type": "videoprism", "variant": "base", **PATCHES_OF_16},
    {"model_type": "image", "variant": "tf_efficientnet_lite0"},
    {"model_type": "image", "variant": "vit_small_patch14_dinov2"},
]
# Whose needs are calculated.
LARGE: list[dict[str, Any]] = [
    {"model_type": "video_swin", "variant": "tiny"},
    {"model_type": "video_swin", "variant": "base"},
    {"model_type": "mvit", "variant": "v2_s"},
    {"model_type": "slowfast", "variant": "101_8x8"},
    *[{"model_type": "videomae", "variant": variant} for variant in ("small", "base", "large")],
    {"model_type": "vjepa2", "variant": "large"},
    *[{"model_type": "videoprism", "variant": variant, **PATCHES_OF_16} for variant in ("base", "large")],
    {"model_type": "image", "variant": "tf_efficientnet_lite0"},
    {"model_type": "image", "variant": "vit_small_patch14_dinov2", "img_size": 224},
]
# VideoPrism is of newer versions of transformers only.
FAMILIES, LARGE = ([one for one in every if one["model_type"] in BACKBONES] for every in (FAMILIES, LARGE))
# What makes the stages deeper, of families that have a setting for it.
DEEPER: dict[str, dict[str, Any]] = {
    "video_swin": {"depths": [2, 2, 18, 2]},
    "slowfast": {"stage_blocks": [3, 8, 36, 3]},
    "slow_only": {"stage_blocks": [3, 4, 23, 3]},
    "fast_only": {"stage_blocks": [3, 4, 23, 3]},
    "video_resnet": {"layers": [3, 4, 6, 3]},
    **dict.fromkeys(("videomae", "vivit", "timesformer", "vjepa2"), {"num_hidden_layers": 24}),
    **dict.fromkeys(["videoprism"] * ("videoprism" in BACKBONES), {"num_spatial_layers": 24}),
    "vit_small_patch14_dinov2": {"depth": 24},
}
# What says the frame size, of families whose models are made for one.
FRAME_SIZES = {
    "videomae": "image_size",
    "vivit": "image_size",
    "timesformer": "image_size",
    "vjepa2": "crop_size",
    "videoprism": "image_size",
    "mvit": "spatial_size",
}
# What a library's own forward needs to do no more than ours.
LIBRARY_ARGUMENTS = {"vjepa2": {"skip_predictor": True}}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MIB = 2**20
# Budgets between the leanest and the largest, both included.
NUM_BUDGETS = 6


class Step:
    """A model and a batch: one training step without the optimiser, or inference."""

    def __init__(
        self, model: nn.Module, videos: Tensor, precision: str, labels: list | None = None, trains: bool = True
    ):
        self.model: Any = model.to(videos.device).train(trains)
        self.videos = videos
        self.labels = labels
        self.trains = trains
        self.dtype = PRECISIONS[precision]

    def forward(self) -> Tensor:
        """Returns the loss, or the mean square of the features of a model without head."""
        with self._autocast(), torch.set_grad_enabled(self.trains):
            if self.labels is None:
                return self.model(self.videos).last_hidden_state.float().square().mean()
            return self.model(self.videos, labels=self.labels).loss

    def run(self) -> tuple[float, float]:
        """Runs forward and backward; returns the seconds of the forward and of both."""
        self.model.zero_grad(set_to_none=True)
        start = self._now()
        loss = self.forward()
        middle = self._now()
        if self.trains:
            loss.backward()
        return middle - start, self._now() - start

    def saved(self) -> float:
        """Returns the MiB kept for the backward pass."""
        without = [*self.model.parameters(), *self.model.buffers()]
        with saved_for_backward(without) as saved:
            self.forward()
        return saved.total() / MIB

    def plan(self) -> BackpropPlan:
        """Returns the plan of a step with `backprop=auto`, within `model.memory_budget`."""
        with self._autocast():
            return self.model.backbone.plan_for(self.videos.shape, self.videos.dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.videos.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _now(self) -> float:
        if self.videos.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        # Of one thread, what it worked: what others do on the machine does not count.
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class LibraryModel(nn.Module):
    """A backbone as its library ships it: its modules and its forward, nothing of ours."""

    def __init__(self, backbone_config: dict):
        super().__init__()
        self.model = build_library_model(backbone_config)
        self.architecture = architecture_of(type(self.model))

    def forward(self, videos: Tensor) -> BaseModelOutput:
        """`[B, T, C, H, W]` -> the first tensor that the library returns, as `last_hidden_state`."""
        length = self.architecture.clip_length(self.model)
        videos = videos if length is None else cut_into_clips(videos, length)
        arguments = LIBRARY_ARGUMENTS.get(self.architecture.model_type, {})
        output = self.model(self.architecture.to_library_input(videos), **arguments)
        return BaseModelOutput(last_hidden_state=output if isinstance(output, Tensor) else output[0])


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


def budget_step(arguments: argparse.Namespace, backbone: dict, budget: int) -> Step:
    step = backbone_step(arguments, backbone, {"backprop": "auto"})
    step.model.memory_budget = budget
    step.plan()  # not while its peak is measured
    return step


def backbone_rows(arguments: argparse.Namespace, backbone: dict) -> dict[str, tuple]:
    """Rows of all modes, and of inference."""
    rows: dict[str, tuple] = {
        name: (backbone_step, (arguments, backbone, change)) for name, change in {AS_SHIPPED: None, **MODES}.items()
    }
    return rows | {INFERENCE: (backbone_step, (arguments, backbone, {}, False))}


def adapted_rows(arguments: argparse.Namespace, backbone: dict) -> dict[str, tuple]:
    """Steps that train all weights, LoRA in a frozen backbone, and adapters in one, in each of the three modes."""
    ways: dict[str, tuple[dict, dict]] = {"all weights": ({}, {}), "LoRA": ({}, {"lora": {"r": 8}})}
    if "adapter_width" in BACKBONES.find(backbone["model_type"]).settings():
        ways["adapters"] = ({"adapter_width": arguments.adapters}, {})
    return {
        f"{way}, {mode}": (backbone_step, (arguments, {**backbone, **settings}, {"backprop": mode, **change}))
        for mode in ("plain", "checkpoint", "reversible")
        for way, (settings, change) in ways.items()
    }


def sized(arguments: argparse.Namespace, backbone: dict) -> dict:
    """A `backbone_config` for frames of the size that is asked for."""
    if name := FRAME_SIZES.get(backbone["model_type"]):
        return {name: [arguments.size] * 2 if name == "spatial_size" else arguments.size, **backbone}
    return backbone


def backbone_step(arguments: argparse.Namespace, backbone: dict, change: dict | None, trains: bool = True) -> Step:
    """`change` is to the configuration; None for the library's own model. With adapters only these are trained."""
    torch.manual_seed(0)
    backbone = sized(arguments, backbone)
    if change is None:
        model: nn.Module = LibraryModel(backbone)
    else:
        model = Re2TALModel(Re2TALConfig(backbone_config=backbone, **change))
        if backbone.get("adapter_width"):
            model.freeze(backbone=True)
    videos = torch.randn((1, arguments.frames, 3, arguments.size, arguments.size), device=arguments.device)
    return Step(model, videos, arguments.precision, trains=trains)


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


def recipe_step(arguments: argparse.Namespace, recipe: Recipe, change: dict, frozen: bool = False) -> Step:
    torch.manual_seed(0)
    config = Re2TALConfig(**{**recipe.model, **change}, num_labels=6)
    size, frames = recipe.processor["size"], recipe.processor["num_frames"]
    shape = (recipe.training.batch_size, frames, 3, size["height"], size["width"])
    videos = torch.randn(shape, device=arguments.device)
    label = {
        "segments": torch.tensor([[0.2 * frames, 0.4 * frames]], device=arguments.device),
        "class_labels": torch.tensor([0], device=arguments.device),
    }
    model = Re2TALForTemporalActionLocalization(config)
    model.freeze(**{**vars(recipe.freeze), "backbone": frozen})
    return Step(model, videos, arguments.precision, [label] * shape[0])


def _peak(build: Callable[..., Step], parameters: tuple, threads: int) -> float:
    torch.set_num_threads(threads)
    import_files(parameters[0].imports)
    step = build(*parameters)
    before = 0.0 if step.videos.device.type == "cuda" else reset_peak_memory()
    step.run()
    return peak_memory() - before


def peak_of_step(build: Callable[..., Step], parameters: tuple, threads: int) -> float:
    """Returns the MiB that a step adds at its peak to a process of its own."""
    # Where it can be, forked from a process that has imported what a step needs, which takes seconds.
    multiprocessing.set_forkserver_preload([f"{__package__}._command"])
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind)) as process:
        # Ctrl-C reaches both, and the other would show a traceback: it inherits that it pays no heed.
        heed = signal.signal(signal.SIGINT, signal.SIG_IGN)
        measured = process.submit(_peak, build, parameters, threads)
        signal.signal(signal.SIGINT, heed)
        try:
            return measured.result()
        except KeyboardInterrupt:
            for other in multiprocessing.active_children():
                other.terminate()
            raise


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
        "--output", metavar="NAME", help="also write NAME.json, NAME.md and NAME.png, with counts for larger inputs"
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
        calculate([sized(arguments, backbone) for backbone in chosen], arguments.frames, arguments.size)
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
    entries = []
    for title, rows in builds.items():
        print(f"{title}, {arguments.precision}, {arguments.device}, {arguments.threads} thread(s)")
        if arguments.budgets:
            print("modes by stage: p plain, c checkpoint, r reversible")
        peaks = {name: peak_of_step(build, parameters, arguments.threads) for name, (build, parameters) in rows.items()}
        steps = {name: build(*parameters) for name, (build, parameters) in rows.items()}
        measured = compare(steps, peaks, arguments.rounds)
        if arguments.output:
            backbone = rows[AS_SHIPPED][1][1]
            shape = "x".join(map(str, steps[AS_SHIPPED].videos.shape))
            entries.append(
                {
                    "name": " ".join(str(backbone[key]) for key in ("model_type", "variant") if key in backbone),
                    "backbone": backbone,
                    "shape": shape,
                    "precision": arguments.precision,
                    "rows": measured,
                    "counted": count_kept(arguments, backbone),
                }
            )
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
