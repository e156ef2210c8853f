"""Videos of any length in constant memory: clips that do not see each other, a few at a time.

This half of `backprop="clips"`, of which `backprop_chunks` is the other, is for backbones that take clips, or frames,
each by itself. The features of a whole video are had without a graph; once the gradient of the features is known, some
clips after the other go through the backbone again, with their random numbers, and give their share of the parameters'
gradients. Kept are the video, its features and, for a few clips at a time, the activations of the backbone. The step
does one forward pass more than a plain one, 4/3 of its arithmetic, which is what the recomputation of all other modes
costs, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .backprop_plan import BackpropPlan
from .reversible import Backprop, called
from .reversible_replay import RecordedCall, recomputed

# Of all videos of a batch; more at a time keep more and are not faster.
FRAMES_TOGETHER = 64


def clip_by_clip(
    backbone: Any,
    videos: Tensor,
    frame_mask: Tensor | None = None,
    pixel_statistics: Tensor | None = None,
    plan: BackpropPlan | None = None,
) -> Tensor:
    """Returns the features of all clips, `[B, N, D]`, which keep nothing of the backbone.

    Args:
        backbone: A `RewiredModel`.
        videos: `[B, T, C, H, W]`.
        frame_mask: With `pixel_statistics`, bool `[B, T]`.
        pixel_statistics: As for `normalized_pixels`, where the videos are uint8: they become numbers some at a time.
        plan: Of `plan_clips`, where it is made before.

    Raises:
        ValueError: if its clips are not independent, or one of them takes more memory than the budget has.
    """
    check_clips_apart(backbone)
    check_norms(backbone)
    if plan is None and is_trained(backbone, videos):
        plan = plan_clips(backbone, videos)
    together = most_together(backbone, videos) if plan is None else plan.together
    part = PartOfVideo(backbone, None if plan is None else plan.modes)
    run = called if plan is None else recomputed
    length = together * backbone.architecture.clip_length(backbone)
    slices = [slice(start, start + length) for start in range(0, videos.shape[1], length)]
    inputs = [split_frames(frames, videos, frame_mask, pixel_statistics) for frames in slices]
    return torch.cat([run(RecordedCall(part), *tensors) for tensors in inputs], dim=1)


def split_frames(
    frames: slice, videos: Tensor, frame_mask: Tensor | None, pixel_statistics: Tensor | None
) -> tuple[Tensor, ...]:
    """Returns what `PartOfVideo` takes of some frames; arguments as for `clip_by_clip`."""
    if pixel_statistics is None or frame_mask is None:
        return (videos[:, frames],)
    return videos[:, frames], frame_mask[:, frames], pixel_statistics


class PartOfVideo(nn.Module):
    """A backbone, from some frames of every video to their features."""

    def __init__(self, backbone: nn.Module, modes: tuple[Backprop, ...] | None):
        super().__init__()
        self.backbone = backbone
        self.modes = modes

    def forward(self, videos: Tensor, *pixels: Tensor) -> Tensor:
        """Takes what `split_frames` returns."""
        backbone: Any = self.backbone
        numbers = backbone.normalized(videos, *pixels) if pixels else videos.contiguous()
        return backbone.joined_features(numbers, modes=self.modes)


def plan_clips(backbone: Any, videos: Tensor) -> BackpropPlan:
    """Makes the plan of a training pass over videos, of which only shape and dtype matter; see `BackpropPlan`."""
    check_clips_apart(backbone)
    check_norms(backbone)
    first = videos[:, : backbone.architecture.clip_length(backbone)]
    numbers = first.dtype if first.is_floating_point() else backbone.number_dtype
    return backbone.plan_together(
        torch.empty_like(first, dtype=numbers, device="meta"), most_together(backbone, videos)
    )


def is_trained(backbone: nn.Module, videos: Tensor) -> bool:
    """Returns whether there will be gradients."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (videos, *backbone.parameters()))


def most_together(backbone: Any, videos: Tensor) -> int:
    """Returns how many clips of every video go through the backbone at a time if memory allows it."""
    length = backbone.architecture.clip_length(backbone)
    return max(1, min(-(-videos.shape[1] // length), FRAMES_TOGETHER // (length * len(videos))))


def check_clips_apart(backbone: Any) -> None:
    """Raises a `ValueError` if features depend on the whole video."""
    architecture = backbone.architecture
    if architecture.temporal_reach(backbone) is not None:
        return
    if architecture.clip_length(backbone) is None or architecture.clips_see_each_other(backbone):
        raise ValueError(
            f"backprop='clips' is for backbones that see clips, or a limited part of a video, and this one "
            f"({architecture.model_type!r}) looks along the whole video: choose 'reversible', 'checkpoint' or 'auto'."
        )


def check_norms(backbone: nn.Module) -> None:
    """Raises a `ValueError` if a batch norm takes its statistics from the clips."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"backprop='clips': the batch norm {name!r} takes its statistics from all clips of a video together; "
                "freeze the norms (freeze.norms=true, model.freeze(norms=True)), or choose another mode."
            )
