"""Peak memory of one training step against the number of frames, to an hour of video at 15 frames a second.

python scripts/long_videos.py                 # measures what the results file lacks, then draws
python scripts/long_videos.py --only-picture
python scripts/long_videos.py --swin          # prints the same of a Video Swin of width 12 on frames of 32x32
python scripts/long_videos.py --shares        # prints time and error of gradients of a share of the clips

One video of random 64x64 frames, a VideoMAE of 4 layers and width 48 on clips of 16 frames, an ActionFormer of width
256, 200 actions, AdamW, one thread. Every step runs in a process of its own, whose whole peak counts: Python, PyTorch,
weights, frames. Freed blocks of a megabyte and more go back to the system at once, as MALLOC_MMAP_THRESHOLD_=1048576
before a command makes glibc do, which otherwise keeps most of them. Kept is what autograd stores between forward and
backward beside parameters and frames; the figure is of the shortest video.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import platform
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALVideoProcessor
from re2tal_hf.data.whole_files import written_whole
from re2tal_hf.training.memory import peak_memory, saved_for_backward

RESULTS = Path(__file__).with_suffix(".json")
FRAMES = (6750, 13500, 27000, 54000)
# Of the others the first points say it all.
MODES = {"plain": FRAMES[:2], "reversible": FRAMES[:2], "clips": FRAMES}
SIDE = 64
M_MMAP_THRESHOLD = -3  # of mallopt(3)
NUM_ACTIONS = 200
SHARES = (1.0, 0.5, 0.3, 0.1)
BACKBONE = {
    "model_type": "videomae",
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": SIDE,
    "patch_size": 16,
    "num_frames": 16,
}
SWIN = {
    "model_type": "video_swin",
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "window_size": [8, 4, 4],
    "patch_size": [2, 4, 4],
}
SWIN_SIDE = 32
SWIN_FRAMES = {"plain": (750, 1500), "reversible": (750, 1500), "clips": (750, 1500, 3000, 6000, 12000)}
HEAD = {"model_type": "actionformer", "hidden_size": 256, "attention_window": 18}


def step(mode: str, num_frames: int, backbone: dict[str, Any] = BACKBONE, side: int = SIDE) -> dict[str, Any]:
    """One training step; peak in MiB, bytes kept for each feature, processor seconds."""
    torch.manual_seed(0)
    config = Re2TALConfig(backbone_config=backbone, head_config=HEAD, backprop=mode, num_labels=20)
    model = Re2TALForTemporalActionLocalization(config).train()
    optimizer = torch.optim.AdamW(model.parameters())
    processor = Re2TALVideoProcessor(num_frames=num_frames, size={"height": side, "width": side})
    frames = torch.randint(0, 256, (num_frames, 3, side, side), dtype=torch.uint8)
    starts = torch.linspace(0, num_frames - 100, NUM_ACTIONS)
    labels = [
        {
            "segments": torch.stack([starts, starts + 40], dim=1),
            "class_labels": torch.arange(NUM_ACTIONS) % config.num_labels,
        }
    ]
    began = time.process_time()
    inputs = processor.prepare([frames], normalized=mode != "clips")
    model(**inputs, labels=labels).loss.backward()
    optimizer.step()
    point = {
        "mode": mode,
        "frames": num_frames,
        "peak_mib": round(peak_memory()),
        "processor_seconds": round(time.process_time() - began, 1),
    }
    if num_frames in (FRAMES[0], SWIN_FRAMES[mode][0]):  # the count itself holds what it counts
        with saved_for_backward([*inputs.values(), *model.parameters(), *model.buffers()]) as saved:
            model(**inputs, labels=labels)
        point["kept_bytes_per_feature"] = round(saved.total() * model.model.feature_stride / num_frames)
    return point


def compare_shares(num_frames: int = 1600, draws: int = 8) -> None:
    """Prints the time of a forward and backward pass with gradients of a share of the clips, and how far they are off.

    The distance is that of the backbone's gradient to the one of all clips, relative to its norm, the root of the mean
    square over draws; a random direction of the same length has the square root of 2.
    """
    torch.manual_seed(0)
    config = Re2TALConfig(backbone_config=BACKBONE, head_config=HEAD, backprop="clips", num_labels=20)
    model = Re2TALForTemporalActionLocalization(config).eval()  # nothing else is random then
    model.memory_budget = 2**40
    processor = Re2TALVideoProcessor(num_frames=num_frames, size={"height": SIDE, "width": SIDE})
    inputs = processor.prepare(
        [torch.randint(0, 256, (num_frames, 3, SIDE, SIDE), dtype=torch.uint8)], normalized=False
    )
    starts = torch.linspace(0, num_frames - 100, 20)
    labels = [{"segments": torch.stack([starts, starts + 40], dim=1), "class_labels": torch.arange(20)}]

    def gradient() -> tuple[torch.Tensor, float]:
        model.zero_grad()
        began = time.process_time()
        model(**inputs, labels=labels).loss.backward()
        seconds = time.process_time() - began
        return torch.cat([p.grad.flatten() for p in model.model.backbone.parameters() if p.grad is not None]), seconds

    found: dict[float, list[tuple[torch.Tensor, float]]] = {share: [] for share in SHARES}
    gradient()
    for _ in range(draws):
        for share, rows in found.items():
            model.backprop_share = share
            rows.append(gradient())
    exact = found[1.0][0][0]
    for share, rows in found.items():
        times = [row[1] / whole[1] for row, whole in zip(rows, found[1.0], strict=True)]
        errors = [(row[0] - exact).square().sum() / exact.square().sum() for row in rows]
        error = torch.stack(errors).mean().sqrt().item()
        print(f"share {share}: {statistics.median(times):.2f} of the time, gradients off by {error:.2f}", flush=True)


def measured(mode: str, num_frames: int, *backbone_and_side: Any) -> dict[str, Any]:
    """Returns what a process of its own has measured."""
    here, there = multiprocessing.Pipe(duplex=False)

    def run(connection: Connection) -> None:
        connection.send(step(mode, num_frames, *backbone_and_side))

    process = multiprocessing.get_context("fork").Process(target=run, args=(there,))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{mode}, {num_frames} frames: the process ended without a result.") from None
    finally:
        process.join()


def slope(points: list[dict[str, Any]]) -> float:
    """KiB of the peak for each further frame, between the two longest videos."""
    before, last = sorted(points, key=lambda point: point["frames"])[-2:]
    return (last["peak_mib"] - before["peak_mib"]) * 1024 / (last["frames"] - before["frames"])


def draw(points: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for mode in MODES:
        own = [point for point in points if point["mode"] == mode]
        label = f"{mode}: {slope(own):.1f} KiB a frame" if len(own) > 1 else mode
        axes.plot([p["frames"] for p in own], [p["peak_mib"] / 1024 for p in own], marker="o", label=label)
    axes.axhline(4, color="grey", linestyle=":")
    axes.set(xlabel="frames of one video", ylabel="peak of a training step, GiB", ylim=(0, None), xlim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(RESULTS.with_suffix(".png"), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-picture", action="store_true", help="draws what is measured already")
    parser.add_argument("--machine", default=platform.machine(), help="what the results file says of it")
    parser.add_argument("--swin", action="store_true", help="a Video Swin, printed only")
    parser.add_argument("--shares", action="store_true", help="gradients of a share of the clips, printed only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
    if arguments.shares:
        compare_shares()
        return
    if arguments.swin:
        for mode, counts in SWIN_FRAMES.items():
            for num_frames in counts:
                print(measured(mode, num_frames, SWIN, SWIN_SIDE), flush=True)
        return
    results: dict[str, Any] = {"machine": arguments.machine, "torch": torch.__version__, "points": []}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    points = results["points"]
    done = {(point["mode"], point["frames"]) for point in points}
    for mode, num_frames in [(mode, count) for mode, counts in MODES.items() for count in counts]:
        if arguments.only_picture or (mode, num_frames) in done:
            continue
        points.append(measured(mode, num_frames))
        print(points[-1], flush=True)
        with written_whole(RESULTS) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(points)


if __name__ == "__main__":
    main()
