"""Small trainable parts in a frozen network."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional


class TemporalAdapter(nn.Module):
    """AdaTAD's temporal-informative adapter (arXiv 2311.17241, section 3.3), without the sum with its input.

    Down to a few channels; to these is added what a depthwise convolution over time and a mixing of the channels make
    of them; up again, times a scale. It begins as nothing: its output is 0 until it has been trained.

    Args:
        channels: Of its input and output.
        width: Channels between; a quarter of them in the paper.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.temporal = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv1d(width, width, 1)
        self.up = nn.Linear(width, channels)
        self.scale = nn.Parameter(torch.ones(1))
        self.begin()

    def begin(self) -> None:
        """Draws the weights anew, as OpenTAD's `vit_adapter.py` does."""
        nn.init.trunc_normal_(self.down.weight, std=0.02)
        for convolution in (self.temporal, self.mix):  # variance 2 / fan-in
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(self.up.weight)
        nn.init.ones_(self.scale)
        for module in (self.down, self.temporal, self.mix, self.up):
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, ..., channels]` -> the same shape."""
        hidden = functional.gelu(self.down(x))
        series = hidden.movedim(1, -1)
        mixed = self.mix(self.temporal(series.flatten(0, -3))).view(series.shape)
        return self.scale * self.up(hidden + mixed.movedim(-1, 1))


class AdaptedBranch(nn.Module, ABC):
    """A residual branch and the adapter behind it: what both add to the input.

    One branch and not two, so that a rewired network begins as it would without the adapter.

    Args:
        branch: From `x` to the same shape.
        adapter: For `x + branch(x)`.
    """

    def __init__(self, branch: nn.Module, adapter: nn.Module):
        super().__init__()
        self.branch, self.adapter = branch, adapter

    def forward(self, x: Tensor) -> Tensor:
        """As the branch."""
        added = self.branch(x)
        return added + self.adapt(x + added)

    @abstractmethod
    def adapt(self, x: Tensor) -> Tensor:
        """Brings `x` into the shape that the adapter takes, and back."""


class AdaptedFrames(AdaptedBranch):
    """A branch of an image network that goes over frame by frame.

    Args:
        branch: From videos `[B, T, ...]` or images `[N, ...]` to the same shape.
        adapter: Behind it.
        image_dims: Dimensions of images, `N` included: 4 with the channels at position 1, 3 with the channels last.
    """

    def __init__(self, branch: nn.Module, adapter: nn.Module, image_dims: int):
        super().__init__(branch, adapter)
        self.image_dims = image_dims

    def adapt(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` or `[N, ...]` -> the same shape."""
        video = x.unsqueeze(1) if x.dim() == self.image_dims else x
        channels = 2 if self.image_dims == 4 else -1
        return self.adapter(video.movedim(channels, -1)).movedim(-1, channels).reshape(x.shape)


class AdaptedClips(AdaptedBranch):
    """A branch over the tokens of clips, each seen alone; the adapter sees all clips of a video, one after the other.

    Args:
        branch: From tokens of clips `[N, T' * places, D]` or `[N, T', places, D]` to the same shape.
        adapter: Behind it.
        steps: `T'`.
        dims: Dimensions of the tokens of clips, `N` included; those of videos `[B, clips, ...]` have one more.
    """

    def __init__(self, branch: nn.Module, adapter: nn.Module, steps: int, dims: int):
        super().__init__(EachClip(branch, dims), adapter)
        self.steps, self.dims = steps, dims

    def adapt(self, x: Tensor) -> Tensor:
        """`[N, ...]`, each a video of its own, or `[B, clips, ...]` -> the same shape."""
        return along_clips(self.adapter, x, self.steps, self.dims)


def along_clips(adapter: nn.Module, x: Tensor, steps: int, dims: int) -> Tensor:
    """Applies an adapter to the tokens of all clips of a video, one after the other.

    Args:
        adapter: Takes `[B, T, places, D]`.
        x: `[N, ...]`, each a video of its own, or `[B, clips, ...]`.
        steps: `T'` of a clip.
        dims: Dimensions of `[N, ...]`.

    Returns:
        The shape of `x`.
    """
    steps = steps if x.dim() == dims else steps * x.shape[1]
    return adapter(x.reshape(len(x), steps, -1, x.shape[-1])).view(x.shape)


class EachClip(nn.Module):
    """A module for clips `[N, ...]`, which takes videos of several `[B, clips, ...]` too.

    Args:
        module: Takes one tensor.
        dims: Dimensions of what it takes, `N` included.
    """

    def __init__(self, module: nn.Module, dims: int):
        super().__init__()
        self.module, self.dims = module, dims

    def forward(self, x: Tensor) -> Tensor:
        """`[N, ...]` or `[B, clips, ...]` -> the same with the module's output."""
        if x.dim() == self.dims:
            return self.module(x)
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
