"""RandAugment (arXiv 1909.13719) as OpenTAD's training runs it: a few operations of a list, the same for all frames."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

Operation = Callable[[Tensor, float], Tensor]
# At full strength, after mmaction2's transform `ImgAug` (mmaction/datasets/transforms/wrappers.py): degrees, shares of
# the frame's side, and what the erased square is filled with.
MAX_SHEAR, MAX_ROTATION, MAX_SHIFT, MAX_ERASED, ERASED_VALUE = 17.19, 30.0, 0.2, 0.2, 128


class RandomOperations(v2.Transform):
    """Applies a number of different `OPERATIONS`, drawn for each clip, in the order of the list.

    Args:
        count: How many.
        strength: From 0, least, to 1.
    """

    def __init__(self, count: int, strength: float) -> None:
        super().__init__()
        self.count, self.strength = count, strength

    def forward(self, frames: Tensor) -> Tensor:
        """Changes a clip.

        Args:
            frames: uint8 `[T, C, H, W]`.

        Returns:
            uint8 of the same shape.
        """
        for index in sorted(torch.randperm(len(OPERATIONS))[: self.count].tolist()):
            frames = OPERATIONS[index](frames, self.strength)
        return frames


def _side() -> int:
    return 1 if torch.rand(()) < 0.5 else -1


def _moved(
    frames: Tensor, *, angle: float = 0.0, shift: tuple[int, int] = (0, 0), shear: tuple[float, float]
) -> Tensor:
    moved = F.affine(
        frames, angle, list(shift), 1.0, list(shear), interpolation=v2.InterpolationMode.BILINEAR, fill=[0.0]
    )
    assert isinstance(moved, Tensor)
    return moved


def _shear_x(frames: Tensor, strength: float) -> Tensor:
    return _moved(frames, shear=(_side() * MAX_SHEAR * strength, 0.0))


def _shear_y(frames: Tensor, strength: float) -> Tensor:
    return _moved(frames, shear=(0.0, _side() * MAX_SHEAR * strength))


def _shift_x(frames: Tensor, strength: float) -> Tensor:
    return _moved(frames, shift=(_side() * round(MAX_SHIFT * strength * frames.shape[-1]), 0), shear=(0.0, 0.0))


def _shift_y(frames: Tensor, strength: float) -> Tensor:
    return _moved(frames, shift=(0, _side() * round(MAX_SHIFT * strength * frames.shape[-2])), shear=(0.0, 0.0))


def _rotate(frames: Tensor, strength: float) -> Tensor:
    return _moved(frames, angle=_side() * MAX_ROTATION * strength, shear=(0.0, 0.0))


def _posterize(frames: Tensor, strength: float) -> Tensor:
    return F.posterize(frames, bits=max(1, int(4 * strength)))


def _solarize(frames: Tensor, strength: float) -> Tensor:
    return F.solarize(frames, threshold=min(255.0, 256 * strength))


def _enhanced(enhance: Callable[[Tensor, float], Tensor]) -> Operation:
    return lambda frames, strength: enhance(frames, 1.8 * strength + 0.1)


def _erase(frames: Tensor, strength: float) -> Tensor:
    height, width = frames.shape[-2:]
    side = math.ceil(MAX_ERASED * strength * min(height, width))
    top, left = (int(torch.randint(length - side + 1, ())) for length in (height, width))
    return F.erase(frames, top, left, side, side, frames.new_full((1, 1, 1), ERASED_VALUE))


OPERATIONS: tuple[Operation, ...] = (
    *(_shear_x, _shear_y, _shift_x, _shift_y, _rotate, _posterize, _solarize),
    *map(_enhanced, (F.adjust_saturation, F.adjust_contrast, F.adjust_brightness, F.adjust_sharpness)),
    *(
        lambda frames, _: F.autocontrast(frames),
        lambda frames, _: F.equalize(frames),
        lambda frames, _: F.invert(frames),
    ),
    _erase,
)
