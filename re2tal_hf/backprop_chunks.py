"""Videos of any length in constant memory: chunks of a video, for backbones that see a limited part of it.

A windowed attention, a convolution or a temporal shift sees some frames before and after. With those, its halo, a chunk
gives the features that it has in the whole video. Their gradient is had first, without a graph of the backbone; then
chunk after chunk goes through the backbone again and gives its share of the parameters' gradients. Halos are computed
with both of the chunks that they lie between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .backprop_clips import (
    PartOfVideo,
    check_clips_apart,
    check_norms,
    clip_by_clip,
    is_trained,
    plan_clips,
    split_frames,
)
from .backprop_plan import BackpropPlan, OverBudgetError
from .reversible import called
from .reversible_replay import RecordedCall, recomputed

# Frames of all videos of a batch that a chunk has at least, and how many times its halo, the most first.
CHUNK_FRAMES = 64
CHUNK_HALOS = (4, 2, 1)


class Chunk(NamedTuple):
    """A part of a video: its frames with the halo, and which of their features are those of the whole video."""

    frames: slice
    features: slice


def part_by_part(
    backbone: Any,
    videos: Tensor,
    frame_mask: Tensor | None = None,
    pixel_statistics: Tensor | None = None,
    plan: BackpropPlan | None = None,
) -> Tensor:
    """Returns the features of whole videos by clips or by chunks; arguments as for `clip_by_clip`."""
    by_parts = clip_by_clip if backbone.architecture.temporal_reach(backbone) is None else chunk_by_chunk
    return by_parts(backbone, videos, frame_mask, pixel_statistics, plan)


def plan_parts(backbone: Any, videos: Tensor) -> BackpropPlan:
    """Makes the plan of a training pass over videos, of which only shape and dtype matter; see `BackpropPlan`."""
    by_clips = backbone.architecture.temporal_reach(backbone) is None
    return plan_clips(backbone, videos) if by_clips else plan_chunks(backbone, videos)


def can_go_by_parts(backbone: Any) -> bool:
    """Returns whether parts of a video may go through a backbone one after the other."""
    try:
        check_clips_apart(backbone)
        check_norms(backbone)
        check_random_numbers(backbone)
    except ValueError:
        return False
    return True


def chunk_by_chunk(
    backbone: Any,
    videos: Tensor,
    frame_mask: Tensor | None = None,
    pixel_statistics: Tensor | None = None,
    plan: BackpropPlan | None = None,
) -> Tensor:
    """Returns the features of whole videos, `[B, N, D]`, which keep nothing of the backbone.

    Args:
        backbone: A `RewiredModel` whose features see a limited part of a video (`Architecture.temporal_reach`).
        videos: `[B, T, C, H, W]`.
        frame_mask: As for `clip_by_clip`, as are `pixel_statistics` and `plan`.
        pixel_statistics: See `frame_mask`.
        plan: See `frame_mask`.

    Raises:
        ValueError: if the backbone draws random numbers for each frame, its norms are not frozen, or a chunk takes
            more memory than the budget has.
    """
    check_norms(backbone)
    check_random_numbers(backbone)
    if plan is None and is_trained(backbone, videos):
        plan = plan_chunks(backbone, videos)
    length = chunk_lengths(backbone, len(videos))[0] if plan is None else plan.chunk
    part = PartOfVideo(backbone, None if plan is None else plan.modes)
    run = called if plan is None else recomputed
    devices = [] if videos.device.type == "cpu" else [videos.device]
    features: list[Tensor] = []
    chunks = list(chunks_of(backbone, videos.shape[1], length))
    for chunk in chunks:
        # Stochastic depth draws a number for each video and branch, the same for all chunks.
        again = chunk is not chunks[-1]
        with torch.random.fork_rng(devices, enabled=again, device_type=videos.device.type):
            inputs = split_frames(chunk.frames, videos, frame_mask, pixel_statistics)
            features.append(run(RecordedCall(part), *inputs)[:, chunk.features])
    return torch.cat(features, dim=1)


def plan_chunks(backbone: Any, videos: Tensor) -> BackpropPlan:
    """Makes the plan of the chunks whose step is the shortest.

    Raises:
        OverBudgetError: if there is not memory for the shortest.
    """
    check_norms(backbone)
    check_random_numbers(backbone)
    found: list[BackpropPlan] = []
    lengths = chunk_lengths(backbone, len(videos))
    for length in lengths:
        try:
            found.append(_plan(backbone, videos, length))
        except OverBudgetError:
            if length == lengths[-1] and not found:
                raise
    plan = backbone.backprop_planner.plan = min(found, key=lambda plan: plan.step)
    return plan


def _plan(backbone: Any, videos: Tensor, length: int) -> BackpropPlan:
    """The plan of the longest of the chunks, whose steps count what is computed twice."""
    parts = [chunk.frames for chunk in chunks_of(backbone, videos.shape[1], length)]
    longest = videos[:, max(parts, key=lambda part: part.stop - part.start)]
    numbers = longest.dtype if longest.is_floating_point() else backbone.number_dtype
    plan = backbone.plan_together(torch.empty_like(longest, dtype=numbers, device="meta"), 1)
    twice = sum(part.stop - part.start for part in parts) / videos.shape[1]
    choices = tuple((kept, step * twice) for kept, step in plan.choices)
    return replace(plan, step=plan.step * twice, choices=choices, chunk=length)


def chunk_lengths(backbone: Any, num_videos: int) -> list[int]:
    """Returns the frames that a chunk may have without its halo, the most first, with which least is computed twice."""
    alignment, halo = backbone.architecture.temporal_reach(backbone).alignment, _halo(backbone)
    least = -(-CHUNK_FRAMES // num_videos)
    lengths = (max(least, times * halo) for times in CHUNK_HALOS)
    return sorted({-(-length // alignment) * alignment for length in lengths}, reverse=True)


def chunks_of(backbone: Any, num_frames: int, length: int) -> Iterator[Chunk]:
    """Yields the chunks of a video, of so many frames each without the halo."""
    halo, stride = _halo(backbone), backbone.architecture.feature_stride(backbone)
    for start in range(0, num_frames, length):
        begin, stop = max(start - halo, 0), min(start + length + halo, num_frames)
        own = slice((start - begin) // stride, -(-(min(start + length, num_frames) - begin) // stride))
        yield Chunk(slice(begin, stop), own)


def _halo(backbone: Any) -> int:
    """Frames on each side of a chunk, which begins and ends where the network's windows and strides do."""
    reach = backbone.architecture.temporal_reach(backbone)
    return -(-reach.frames // reach.alignment) * reach.alignment


def check_random_numbers(backbone: Any) -> None:
    """Raises a `ValueError` if random numbers are drawn for each frame, which neighbouring chunks would draw anew."""
    if backbone.architecture.temporal_reach(backbone) is None:  # no chunks, but clips
        return
    for name, module in backbone.named_modules():
        # Dropout as a module, inside the attention of torchvision, and stochastic depth of timm's, where frames are
        # images.
        setting = "p" if isinstance(module, nn.modules.dropout._DropoutNd) else ""
        settings = [setting, "dropout", "attention_dropout", "drop_prob"]
        rates = {key: getattr(module, key, 0.0) for key in settings if key}
        if drawn := [key for key, rate in rates.items() if isinstance(rate, float) and rate > 0 and module.training]:
            raise ValueError(
                f"backprop='clips': {name or type(module).__name__} ({drawn[0]}={rates[drawn[0]]:g}) drops numbers of "
                "each frame by itself, and frames between two chunks go through the backbone twice: set it to 0, or "
                "choose 'reversible', 'checkpoint' or 'auto'."
            )
