"""Small trainable parts beside the branches of a frozen network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class TemporalAdapter(nn.Module):
    """A bottleneck that looks at the frames beside (the idea of AdaTAD's, arXiv 2311.17241, section 3.3).

    Down to a few channels, a depthwise convolution over time added to them, up again. It begins as nothing: its output
    is 0 until it has been trained.

    Args:
        channels: Of its input and output.
        width: Channels between.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down = nn.Linear(channels, width)
        self.temporal = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.up = nn.Linear(width, channels)
        self.begin()

    def begin(self) -> None:
        """Draws the weights anew."""
        for module in (self.down, self.temporal):
            module.reset_parameters()
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, ..., channels]` -> the same shape."""
        hidden = functional.gelu(self.down(x))
        series = hidden.movedim(1, -1)
        mixed = self.temporal(series.flatten(0, -3)).view(series.shape)
        return self.up(hidden + mixed.movedim(-1, 1))


class AdaptedBranch(nn.Module):
    """A residual branch with an adapter beside it: the sum of both.

    Args:
        branch: From videos `[B, T, ...]` or images `[N, ...]` to the same shape.
        adapter: For what goes through it.
        image_dims: Dimensions of images, `N` included: 4 with the channels at position 1, 3 with the channels last.
    """

    def __init__(self, branch: nn.Module, adapter: nn.Module, image_dims: int):
        super().__init__()
        self.branch, self.adapter, self.image_dims = branch, adapter, image_dims

    def forward(self, x: Tensor) -> Tensor:
        """As the branch."""
        video = x.unsqueeze(1) if x.dim() == self.image_dims else x
        channels = 2 if self.image_dims == 4 else -1
        added = self.adapter(video.movedim(channels, -1)).movedim(-1, channels)
        return self.branch(x) + added.reshape(x.shape)
