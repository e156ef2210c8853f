"""Clips of a long video, for models that take a fixed number of frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cut_into_clips(videos: Tensor, length: int) -> Tensor:
    """Cuts videos into clips that follow each other without overlap.

    Args:
        videos (`Tensor` of shape `(B, T, C, H, W)`): The last clip is filled with copies of the last frame.
        length (`int`): Frames of a clip.

    Returns:
        `Tensor` of shape `(B * clips, length, C, H, W)`: the clips of the first video, then those of the second.
    """
    missing = -videos.shape[1] % length
    if missing:
        videos = torch.cat([videos, videos[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    return videos.reshape(-1, length, *videos.shape[2:])


def join_clips(features: Tensor, num_videos: int, num_features: int) -> Tensor:
    """Joins the features of clips, `(B * clips, T'', D)`, to `(num_videos, num_features, D)`; cuts off the surplus."""
    return features.reshape(num_videos, -1, features.shape[-1])[:, :num_features]


def resize_positions(positions: Tensor, grid: Sequence[int], new_grid: Sequence[int]) -> Tensor:
    """Interpolates position embeddings to another number of patches over height and width.

    Args:
        positions (`Tensor` of shape `(T' * H' * W', D)`): One for each patch, in the order of `grid`.
        grid (`Sequence[int]`): `T', H', W'` of the positions.
        new_grid (`Sequence[int]`): The same of the video; `T'` must agree.

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
