"""Clips in memory, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .model_inputs import check_tensor
from .value_checks import shown

FORMS = "a clip [T, H, W, 3] or [T, 3, H, W], a list of pictures, or a list of clips"


def check_clips(name: str, clips: Any, *, rescaled: bool, colours_known: bool = False) -> None:
    """Checks clips in every form that a video processor takes.

    Args:
        name: of the argument.
        clips: a picture, a clip or several: arrays or tensors `[..., H, W, 3]` or `[..., 3, H, W]` of three to five
            dimensions (one channel will do), pictures of PIL, or lists of these.
        rescaled: whether values from 0 to 255 are wanted.
        colours_known: whether it was said which dimension holds the colours.

    Raises:
        TypeError: if something in them is none of these.
        ValueError: if there is nothing in them, or their shapes, types or values are others.
    """
    if isinstance(clips, (list, tuple)):
        if not len(clips):
            raise ValueError(f"{name} is empty; give {FORMS}.")
        for index, clip in enumerate(clips):
            check_clips(f"{name}[{index}]", clip, rescaled=rescaled, colours_known=colours_known)
        _check_alike(name, clips)
        return
    if isinstance(clips, Image.Image):
        return
    if not isinstance(clips, (np.ndarray, Tensor)):
        raise TypeError(f"{name} is {shown(clips)}; give {FORMS}, or files with do_sample_frames=True.")
    shape = list(clips.shape)
    colours = colours_known or (len(shape) > 2 and {shape[-1], shape[-3]} & {1, 3})
    if not 3 <= len(shape) <= 5 or 0 in shape or not colours:
        raise ValueError(f"{name} is {shown(clips)}; give {FORMS}.")
    kind = str(clips.dtype).removeprefix("torch.")
    if kind.startswith(("bool", "complex", "object", "str", "<U", "|S")):
        raise ValueError(f"{name} is {shown(clips)}; give numbers, uint8 from 0 to 255.")
    if kind != "uint8":
        _check_values(name, clips, rescaled)


def check_frames(name: str, frames: Any) -> None:
    """Checks decoded frames: a tensor uint8 `[T, 3, H, W]`; `TypeError` or `ValueError` if they are not."""
    check_tensor(name, frames, "[frames, channels, height, width]")
    if frames.shape[1] != 3 or str(frames.dtype) != "torch.uint8":
        raise ValueError(f"{name} is {shown(frames)}; it must be uint8 [frames, 3, height, width], from 0 to 255.")


def _check_values(name: str, clip: Any, rescaled: bool) -> None:
    low, high = float(clip.min()), float(clip.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{name} is {shown(clip)} with values that are not finite; leave them out.")
    if rescaled and not 0 <= low <= high <= 255:
        raise ValueError(f"{name} is {shown(clip)} with values from {low:g} to {high:g}; give them from 0 to 255.")
    if rescaled and 0 < high <= 1 and "float" in str(clip.dtype):
        raise ValueError(
            f"{name} is {shown(clip)} with values up to {high:g}; give them from 0 to 255, or do_rescale=False."
        )


def _check_alike(name: str, frames: Sequence[Any]) -> None:
    """Checks that pictures in a list are of one type, size and dtype: they are one clip."""
    kinds = {_kind(frame) for frame in frames}
    if any(kind[2] == 3 for kind in kinds) and len(kinds) > 1:
        raise ValueError(f"{name} is a list of unlike frames ({', '.join(sorted(str(kind[:2]) for kind in kinds))}).")


def _kind(frame: Any) -> tuple[str, str, int]:
    if isinstance(frame, Image.Image):
        return "picture", f"{frame.width}x{frame.height}, {frame.mode}", 3
    if isinstance(frame, (np.ndarray, Tensor)):
        return type(frame).__name__, f"{frame.dtype} {list(frame.shape)}", frame.ndim
    return type(frame).__name__, "", 0
