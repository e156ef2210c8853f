"""Videos of any length in constant memory: `backprop="clips"`, one part of a video after the other.

The features of a whole video are had without a graph. Once their gradient is known, part after part goes through the
backbone again, with its random numbers, and gives its share of the parameters' gradients. Kept are the video, its
features and, for a part at a time, the activations of the backbone. The step does one forward pass more than a plain
one, 4/3 of its arithmetic, which is what the recomputation of all other modes costs, too.

What a part is depends on the backbone:

- **Clips**, or frames, where it takes each by itself: some at a time.
- **Chunks**, where it sees some frames before and after by windowed attention, convolutions or a temporal shift. With
  those, its halo, a chunk gives the features that it has in the whole video. Halos are computed with both of the chunks
  that they lie between.

Gradients of a share of the parts, drawn anew in every pass, take less time and are those of all in the mean only: what
ETAD does (arXiv 2205.07134) with 30% of its snippets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .backprop_plan import BackpropPlan, OverBudgetError
from .reversible import Backprop, called
from .reversible_replay import RecordedCall, recomputed

# Of all videos of a batch, in the clips that go together; more at a time keep more and are not faster.
FRAMES_TOGETHER = 64
# Of all videos of a batch, in a chunk at least; and how many times its halo a chunk has, the most first.
CHUNK_FRAMES = 64
CHUNK_HALOS = (4, 2, 1)


class Part(NamedTuple):
    """A part of a video: its frames, and which of their features are those of the whole video."""

    frames: slice
    features: slice


def part_by_part(
    backbone: Any,
    videos: Tensor,
    frame_mask: Tensor | None = None,
    pixel_statistics: Tensor | None = None,
    plan: BackpropPlan | None = None,
) -> Tensor:
    """Returns the features of whole videos, `[B, N, D]`, which keep nothing of the backbone.

    Args:
        backbone: A `RewiredModel`.
        videos: `[B, T, C, H, W]`.
        frame_mask: With `pixel_statistics`, bool `[B, T]`.
        pixel_statistics: As for `normalized_pixels`, where the videos are uint8: they become numbers some at a time.
        plan: Of `plan_parts`, where it is made before.

    Raises:
        ValueError: as `check_parts` says, or if a part takes more memory than the budget has.
    """
    check_parts(backbone)
    if plan is None and is_trained(backbone, videos):
        plan = plan_parts(backbone, videos)
    module = _PartOfVideo(backbone, None if plan is None else plan.modes)
    run = called if plan is None else recomputed
    devices = [] if videos.device.type == "cpu" else [videos.device]
    parts = list(_parts(backbone, videos, plan))
    drawn = _drawn(len(parts), 1.0 if plan is None else backbone.backprop_planner.share)
    features: list[Tensor] = []
    by_chunks = _by_chunks(backbone)
    for index, part in enumerate(parts):
        inputs = [videos[:, part.frames]]
        if pixel_statistics is not None and frame_mask is not None:
            inputs += [frame_mask[:, part.frames], pixel_statistics]
        # Stochastic depth draws a number for each video and branch, the same for all chunks.
        again = by_chunks and part is not parts[-1]
        with torch.random.fork_rng(devices, enabled=again, device_type=videos.device.type):
            if index in drawn:
                found = run(RecordedCall(module), *inputs)
                if len(drawn) < len(parts):
                    found.register_hook(lambda gradient: gradient * (len(parts) / len(drawn)))
            else:
                with torch.no_grad():
                    found = called(RecordedCall(module), *inputs)
        features.append(found[:, part.features])
    return torch.cat(features, dim=1)


def _drawn(number: int, share: float) -> set[int]:
    """Draws the share of so many parts, at least one, that give gradients."""
    if share == 1:
        return set(range(number))
    return set(torch.randperm(number)[: max(1, round(share * number))].tolist())


class _PartOfVideo(nn.Module):
    """A backbone, from some frames of every video to their features."""

    def __init__(self, backbone: nn.Module, modes: tuple[Backprop, ...] | None):
        super().__init__()
        self.backbone = backbone
        self.modes = modes

    def forward(self, videos: Tensor, *pixels: Tensor) -> Tensor:
        """Takes frames, and where they are uint8 `frame_mask` and `pixel_statistics`."""
        backbone: Any = self.backbone
        numbers = backbone.normalized(videos, *pixels) if pixels else videos.contiguous()
        return backbone.joined_features(numbers, modes=self.modes)


def plan_parts(backbone: Any, videos: Tensor) -> BackpropPlan:
    """Makes the plan of a training pass over videos, of which only shape and dtype matter; see `BackpropPlan`.

    Raises:
        OverBudgetError: if there is not memory for the smallest part.
        ValueError: as `check_parts` says.
    """
    check_parts(backbone)
    if _by_chunks(backbone):
        return _plan_chunks(backbone, videos)
    return _plan_of(backbone, videos[:, : backbone.architecture.clip_length(backbone)], most_together(backbone, videos))


def _plan_chunks(backbone: Any, videos: Tensor) -> BackpropPlan:
    """The plan of the chunks whose step is the shortest, counting what is computed twice."""
    found: list[BackpropPlan] = []
    chosen = backbone.backprop_planner.chunk
    lengths = [chosen] if chosen else chunk_lengths(backbone, len(videos))
    for length in lengths:
        parts = [chunk.frames for chunk in chunks_of(backbone, videos.shape[1], length)]
        longest = max(parts, key=lambda part: part.stop - part.start)
        try:
            plan = _plan_of(backbone, videos[:, longest], 1)
        except OverBudgetError:
            if length == lengths[-1] and not found:
                raise
            continue
        twice = sum(part.stop - part.start for part in parts) / videos.shape[1]
        choices = tuple((kept, step * twice) for kept, step in plan.choices)
        found.append(replace(plan, step=plan.step * twice, choices=choices, chunk=length))
    plan = backbone.backprop_planner.plan = min(found, key=lambda plan: plan.step)
    return plan


def _plan_of(backbone: Any, frames: Tensor, most: int) -> BackpropPlan:
    numbers = frames.dtype if frames.is_floating_point() else backbone.number_dtype
    return backbone.plan_together(torch.empty_like(frames, dtype=numbers, device="meta"), most)


def is_trained(backbone: nn.Module, videos: Tensor) -> bool:
    """Returns whether there will be gradients."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (videos, *backbone.parameters()))


def _by_chunks(backbone: Any) -> bool:
    return backbone.architecture.temporal_reach(backbone) is not None


def _parts(backbone: Any, videos: Tensor, plan: BackpropPlan | None) -> Iterator[Part]:
    """The parts of videos, those of the plan in training."""
    if _by_chunks(backbone):
        length = plan.chunk if plan else chunk_lengths(backbone, len(videos))[0]
        yield from chunks_of(backbone, videos.shape[1], length)
        return
    together = plan.together if plan else most_together(backbone, videos)
    length = together * backbone.architecture.clip_length(backbone)
    for start in range(0, videos.shape[1], length):
        yield Part(slice(start, start + length), slice(None))


def most_together(backbone: Any, videos: Tensor) -> int:
    """Returns how many clips of every video go through the backbone at a time if memory allows it."""
    length = backbone.architecture.clip_length(backbone)
    return max(1, min(-(-videos.shape[1] // length), FRAMES_TOGETHER // (length * len(videos))))


def chunk_lengths(backbone: Any, num_videos: int) -> list[int]:
    """Returns the frames that a chunk may have without its halo, the most first, with which least is computed twice.

    A backbone that goes by clips has none.
    """
    if not _by_chunks(backbone):
        return []
    alignment, halo = backbone.architecture.temporal_reach(backbone).alignment, _halo(backbone)
    least = -(-CHUNK_FRAMES // num_videos)
    lengths = (max(least, times * halo) for times in CHUNK_HALOS)
    return sorted({-(-length // alignment) * alignment for length in lengths}, reverse=True)


def chunks_of(backbone: Any, num_frames: int, length: int) -> Iterator[Part]:
    """Yields the chunks of a video, of so many frames each without the halo."""
    halo, stride = _halo(backbone), backbone.architecture.feature_stride(backbone)
    for start in range(0, num_frames, length):
        begin, stop = max(start - halo, 0), min(start + length + halo, num_frames)
        own = slice((start - begin) // stride, -(-(min(start + length, num_frames) - begin) // stride))
        yield Part(slice(begin, stop), own)


def _halo(backbone: Any) -> int:
    """Frames on each side of a chunk, which begins and ends where the network's windows and strides do."""
    reach = backbone.architecture.temporal_reach(backbone)
    return -(-reach.frames // reach.alignment) * reach.alignment


def can_go_by_parts(backbone: Any) -> bool:
    """Returns whether parts of a video may go through a backbone one after the other."""
    try:
        check_parts(backbone)
    except ValueError:
        return False
    return True


def check_parts(backbone: Any) -> None:
    """Raises a `ValueError` if parts of a video would not give what the whole does.

    They would not if features depend on the whole video, a batch norm takes its statistics from all frames, or random
    numbers are drawn for each frame, which neighbouring chunks would draw anew.
    """
    check_reach(backbone)
    by_chunks = _by_chunks(backbone)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"backprop='clips': the batch norm {name!r} takes its statistics from all clips of a video together; "
                "freeze the norms (freeze.norms=true, model.freeze(norms=True)), or choose another mode."
            )
        if module.training and by_chunks:
            _check_random_numbers(name, module)


def check_reach(backbone: Any) -> None:
    """Raises a `ValueError` if features depend on the whole video."""
    architecture = backbone.architecture
    by_clips = architecture.clip_length(backbone) is not None and not architecture.clips_see_each_other(backbone)
    if not (by_clips or _by_chunks(backbone)):
        raise ValueError(
            f"backprop='clips' is for backbones that see clips, or a limited part of a video, and this one "
            f"({architecture.model_type!r}) looks along the whole video: choose 'reversible', 'checkpoint' or 'auto'."
        )


def _check_random_numbers(name: str, module: nn.Module) -> None:
    # Dropout as a module, inside the attention of torchvision, and stochastic depth of timm's, whose images are frames.
    settings = ["p"] if isinstance(module, nn.modules.dropout._DropoutNd) else []
    for setting in (*settings, "dropout", "attention_dropout", "drop_prob"):
        rate = getattr(module, setting, 0.0)
        if isinstance(rate, float) and rate > 0:
            raise ValueError(
                f"backprop='clips': {name or type(module).__name__} ({setting}={rate:g}) drops numbers of each frame "
                "by itself, and frames between two chunks go through the backbone twice: set it to 0, or choose "
                "'reversible', 'checkpoint' or 'auto'."
            )
