"""Position embeddings of clips, for frames of another size than the model was trained with."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Interpolates position embeddings to another number of patches over height and width.

    Args:
        positions: `(T' * H' * W', D)`. One for each patch, in the order of `grid`.
        grid: `T', H', W'` of the positions.
        new_grid: The same of the video; `T'` must agree.

    Returns:
        `Tensor` of shape `(T' * new H' * new W', D)`, by bicubic interpolation; `positions` if the grids agree.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    images = positions.unflatten(0, tuple(grid)).permute(0, 3, 1, 2)
    images = F.interpolate(images, size=tuple(new_grid[1:]), mode="bicubic", align_corners=False)
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def check_clip(size: Sequence[int], length: int, patch_size: Sequence[int]) -> None:
    """Raises a `ValueError` unless clips of shape `(B, T, C, H, W)` have `length` frames of at least one patch."""
    _, frames, _, height, width = size
    if frames != length or height < patch_size[0] or width < patch_size[1]:
        raise ValueError(
            f"The input has {frames} frames of {height}x{width}; this model takes clips of {length} frames "
            f"of at least {patch_size[0]}x{patch_size[1]}."
        )
