"""Windows of a video, and what a model finds in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from .model_inputs import check_tensor
from .value_checks import COUNT, POSITIVE, Range, check_value, fields_of, shown

# Frames that the windows of a video may come to, unless more are asked for: at 15 frames per second, and with windows
# that overlap by half, those of six days.
MAX_FRAMES = 2**24


@dataclass(frozen=True)
class Window:
    """A piece of a video that goes through the model at once.

    Frame `k` of the window is the frame on screen at `start + k / frame_rate` seconds.

    Attributes:
        video_id: of the video.
        start: second of the video at which the window begins.
        frame_rate: frames per second inside the window.
        num_frames: frames of the video in it, without padding.
        duration: seconds of the whole video.

    Raises:
        ValueError: if one is not of its type or range.
    """

    video_id: str
    start: Annotated[float, Range()]
    frame_rate: Annotated[float, POSITIVE]
    num_frames: Annotated[int, COUNT]
    duration: Annotated[float, POSITIVE]

    def __post_init__(self) -> None:
        for name, hint in _WINDOW_FIELDS.items():
            check_value(name, getattr(self, name), hint)

    @property
    def times(self) -> list[float]:
        """Seconds of the video at which its frames are taken."""
        return [self.start + frame / self.frame_rate for frame in range(self.num_frames)]


_WINDOW_FIELDS = fields_of(Window)


def checked_outputs(outputs: Any) -> list[Mapping[str, Tensor]]:
    """Checks outputs of a model, one or a list of them.

    Returns:
        A list of mappings with `logits` `[B, P, K]`, `pred_segments` `[B, P, 2]` and `point_mask`, bool `[B, P]`.

    Raises:
        TypeError, ValueError: if they are others; names what is.
    """
    batches = [outputs] if isinstance(outputs, Mapping) else outputs
    if not isinstance(batches, (list, tuple)) or not all(isinstance(batch, Mapping) for batch in batches):
        raise TypeError(f"outputs is {shown(outputs)}; it must be an output of the model, or a list of them.")
    for index, batch in enumerate(batches):
        name = "outputs" if batches is not outputs else f"outputs[{index}]"
        if missing := [key for key in ("logits", "pred_segments", "point_mask") if batch.get(key) is None]:
            raise ValueError(f"{name} has no {missing[0]!r}; it must be an output of the model.")
        logits, segments, mask = batch["logits"], batch["pred_segments"], batch["point_mask"]
        check_tensor(f"{name}: logits", logits, "[batch, points, classes]", floating=True)
        check_tensor(f"{name}: pred_segments", segments, "[batch, points, 2]", floating=True)
        check_tensor(f"{name}: point_mask", mask, "[batch, points]")
        if segments.shape != (*logits.shape[:2], 2) or mask.shape != logits.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"{name}: logits {list(logits.shape)}, pred_segments {list(segments.shape)} and point_mask "
                f"{mask.dtype} {list(mask.shape)} must be [B, P, K], [B, P, 2] and bool [B, P]."
            )
    return list(batches)


def check_windows(windows: Any) -> None:
    """Raises a `TypeError` if this is no list of windows."""
    # Not by their class: a processor that came with a model has another of that name.
    if not isinstance(windows, (list, tuple)) or not all(
        hasattr(window, name) for window in windows for name in _WINDOW_FIELDS
    ):
        raise TypeError(f"windows is {shown(windows)}; it must be a list of what `windows` of the processor returned.")
