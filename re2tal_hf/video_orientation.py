"""Which way up the frames of a video are shown: turned and mirrored as its display matrix says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideData
from torch import Tensor

logger = logging.getLogger(__name__)

# What the rows and columns of a matrix may differ from whole quarter turns, relative to its largest number.
MAX_SKEW = 0.02


@dataclass(frozen=True)
class Orientation:
    """Transposition, then reflections: any quarter turn, mirrored or not.

    Attributes:
        transposed: rows become columns.
        flipped_horizontally: left becomes right, after the transposition.
        flipped_vertically: top becomes bottom, after the transposition.
    """

    transposed: bool = False
    flipped_horizontally: bool = False
    flipped_vertically: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether no rotation alone does it."""
        return self.transposed ^ self.flipped_horizontally ^ self.flipped_vertically

    def applied_to(self, frames: Tensor) -> Tensor:
        """Turns frames `[N, H, W, C]` as stored into frames as shown."""
        shown = frames.transpose(1, 2) if self.transposed else frames
        flips = [axis for axis, flip in ((1, self.flipped_vertically), (2, self.flipped_horizontally)) if flip]
        return (shown.flip(flips) if flips else shown).contiguous()


def orientation_of(frame: Any, name: str) -> Orientation:
    """Reads the display matrix of a decoded frame.

    It maps a stored pixel (x, y) to (a x + c y, b x + d y), all in 16.16 fixed point: `a b u c d v x y w`
    (libavutil/display.h). Other turns than quarters are rounded to one, and said.
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32).tolist()
    transposed = abs(a) + abs(d) < abs(b) + abs(c)
    along, across = ((b, c), (a, d)) if transposed else ((a, d), (b, c))
    if max(map(abs, across)) > MAX_SKEW * max(map(abs, along)):
        logger.warning("%s: its frames are to be turned by no quarter turn (%s): rounded to one.", name, [a, b, c, d])
    if transposed:
        return Orientation(True, flipped_horizontally=c < 0, flipped_vertically=b < 0)
    return Orientation(False, flipped_horizontally=a < 0, flipped_vertically=d < 0)
