"""Streams as fixed-point numbers: sums of them are exact, and so is their inverse, whatever the branches compute in.

A float holds whole multiples of a power of two without rounding as long as they are few enough: float32 up to 2^24
of them. If what a branch adds to a stream is rounded to such multiples, subtracting it again gives the very stream
from before, at any depth. The rounding is part of the network, and its gradient is taken to be one. What is kept
between forward and backward may be integers of fewer bits. With a stream that is scaled, as Dr2Net's is by beta,
none of this holds: the scaled numbers are no multiples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StreamGrid:
    """The numbers that streams may take.

    Attributes:
        bits: Of what is kept of a number.
        step: Distance of neighbours, a power of two.
        limit: Largest absolute value that a stage may hand on.
        integers: What is kept in place of the floats; None: the floats themselves are.
    """

    bits: int
    step: float
    limit: float
    integers: torch.dtype | None

    def rounded(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Returns the nearest numbers of the grid, with the gradient of `x`.

        Args:
            x: Floats of single or double precision.
            like: Has the memory layout of the result; by default `x`. Of another layout than in the forward pass,
                kernels may round otherwise in the backward pass.
        """
        found: Tensor = _Rounded.apply(x, self.step) if x.requires_grad else _round(x, self.step)
        if like is None or found.stride() == like.stride():
            return found
        return torch.empty_like(like, dtype=found.dtype).copy_(found)

    def packed(self, streams: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """Returns the integers that are kept of streams; None where these are kept themselves."""
        kind = self.integers
        return None if kind is None else tuple((stream.detach() / self.step).to(kind) for stream in streams)

    def unpacked(self, kept: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Returns the streams, of type `dtype`, that were packed; what was not is left as it is."""
        return [tensor.to(dtype) * self.step if tensor.dtype == self.integers else tensor for tensor in kept]

    def check_range(self, streams: Sequence[Tensor], stage: int) -> None:
        """Raises a `FloatingPointError` if a stage hands on what is beyond the limit."""
        largest = max(float(stream.detach().abs().amax()) for stream in streams)
        if self.limit < largest < math.inf:  # an infinite loss has its own remedy
            raise FloatingPointError(
                f"Stage {stage} of the backbone hands on {largest:.5g}, but streams of stream_bits={self.bits} hold "
                f"at most {self.limit:.5g}: use {'stream_bits=24 or ' if self.bits == 16 else ''}stream_bits=None."
            )

    def check_inverse(self, start: tuple[Tensor, Tensor], stage: int) -> None:
        """Raises a `FloatingPointError` if an inversion did not end where the stage had begun, at two equal streams."""
        error = float((start[0] - start[1]).abs().amax())
        if error > 0:
            raise FloatingPointError(
                f"Stage {stage} of the backbone was not reconstructed to the bit (off by {error:.2g}) with "
                f"stream_bits={self.bits}. Either a stream exceeded {2**24 * self.step:.5g} inside it, or one of its "
                "modules computes otherwise the second time: use backprop='checkpoint', or stream_bits=None."
            )


class _Rounded(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, step: float) -> Tensor:
        return _round(x, step)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _round(x: Tensor, step: float) -> Tensor:
    return torch.round(x / step) * step


# Of 16 bits a step is below the rounding of bfloat16 from 1 on; of 24 the range is that of the largest activations
# that are known of transformers.
GRIDS = {
    16: StreamGrid(16, 2.0**-8, (2**15 - 1) * 2.0**-8, torch.int16),
    24: StreamGrid(24, 2.0**-14, 2.0**10, None),
}
"""The grids by their number of bits."""
