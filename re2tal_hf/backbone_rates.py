"""Features at another rate than the network makes them."""

from __future__ import annotations

import torch
from torch import Tensor


def at_feature_rate(x: Tensor, stride: int, feature_stride: int, length: int) -> Tensor:
    """Interpolates linearly between frames.

    Args:
        x: `[B, N, D]`; frame `i` stands for input frames `i * stride` to `(i + 1) * stride`.
        stride: Input frames for each of the frames.
        feature_stride: Input frames for each of the features.
        length: Number of features.

    Returns:
        `[B, length, D]`, each feature at the middle of its own input frames.
    """
    if stride == feature_stride:
        return x[:, :length]
    last = x.shape[1] - 1
    features = torch.arange(length, device=x.device)
    place = (((features + 0.5) * feature_stride / stride) - 0.5).clamp(0, last)
    before = place.long()
    weight = (place - before).to(x.dtype)[:, None]
    return torch.lerp(x[:, before], x[:, (before + 1).clamp(max=last)], weight)
